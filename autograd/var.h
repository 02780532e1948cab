// autograd/var.h -- define-by-run reverse mode: a value, its gradient, and the rule that made it
//
// An op computes its output tensor, then, only if some input needs a gradient and grad mode is on, records a
// Rule: what it saved and how to turn the output's gradient into gradients of its inputs. backward() walks the
// rules from the newest to the oldest. Nothing is recorded on frozen or no-grad paths, so nothing is kept.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace avid {

class Rule;

namespace detail {
struct VarState;   // a value with its GraphNode
struct GraphNode;  // what the graph keeps of a Var: rule and edges, never the value
}  // namespace detail

/// A handle on a tensor in the graph. Copies share value, gradient and history.
class Var {
 public:
  Var() = default;
  /// A leaf. With requires_grad its gradient is kept after backward(); `name` appears in messages.
  explicit Var(Tensor value, bool requires_grad = false, std::string name = {});

  bool defined() const { return state_ != nullptr; }
  const Tensor& value() const;
  /// For activations of `dtype`: the bf16 copy of a weight whose f32 master is trained, made once per change of the
  /// value. Nothing else is converted: value() itself in every other case.
  const Tensor& value_in(DType dtype) const;
  /// That copy, where it holds the value as it is now and nobody has saved it; undefined otherwise. Whoever changes the
  /// value may then write the copy in the same pass, and says so with set_copy_current().
  Tensor current_copy() const;
  void set_copy_current();
  /// Makes the copy again if there is one and the value has changed since.
  void refresh_copy() const;
  /// For in-place updates of leaves (optimiser, loading). Counts as a change of the value.
  Tensor& mutable_value();
  const Shape& shape() const { return value().shape(); }
  std::int64_t dim(int i) const { return value().dim(i); }
  DType dtype() const { return value().dtype(); }
  const std::string& name() const;

  /// True for trainable leaves and for everything computed from them while grad mode is on.
  bool requires_grad() const;
  void set_requires_grad(bool on);  // leaves only
  /// The accumulated gradient of a leaf; undefined until one arrives.
  const Tensor& grad() const;
  void zero_grad();  // drops the gradient

  /// Gradients of this scalar with respect to every trainable leaf, added to their grad().
  /// The graph is freed; a second call is a GraphError.
  void backward() const;
  /// The same from a given gradient of this value (its shape).
  void backward(const Tensor& d_out) const;

 private:
  friend Var record(std::unique_ptr<Rule>, Tensor, std::vector<Var>);
  detail::VarState& state() const;
  std::shared_ptr<detail::VarState> state_;
};

namespace detail {

/// Adds its bytes to saved_stats() while alive.
class SavedBytes {
 public:
  explicit SavedBytes(std::size_t bytes = 0);
  SavedBytes(const SavedBytes& other) : SavedBytes(other.bytes_) {}
  SavedBytes& operator=(SavedBytes other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~SavedBytes();

 private:
  std::size_t bytes_;
};

}  // namespace detail

/// A tensor that a rule keeps for its backward pass. get() throws GraphError, naming the op and the tensor, if the
/// graph was freed or the tensor was changed in place since it was saved.
class Saved {
 public:
  Saved() = default;
  Saved(const char* op, const char* what, Tensor tensor);
  const Tensor& get() const;
  bool defined() const { return tensor_.defined(); }

 private:
  const char* op_ = "";
  const char* what_ = "";
  Tensor tensor_;
  std::uint64_t version_ = 0;
  detail::SavedBytes bytes_;
};

/// Where a rule delivers gradients of its inputs.
class InputGrads {
 public:
  explicit InputGrads(const detail::GraphNode& node) : node_(node) {}
  /// Whether input i wants a gradient; skip the work otherwise.
  bool needs(std::size_t i) const;
  /// Hands over the gradient of input i (its shape and dtype); a second call for the same input adds.
  /// May share storage with d_out. Ignored when the input needs none.
  void set(std::size_t i, Tensor grad);
  /// Takes out what other uses of input i have contributed so far, for ops whose kernels add to it in their own pass:
  /// they hand the sum over with set(). Undefined when nothing came yet.
  Tensor take(std::size_t i);

 private:
  const detail::GraphNode& node_;
};

/// The backward half of one op application. Derived classes hold what they saved as `Saved` members.
class Rule {
 public:
  virtual ~Rule() = default;
  virtual const char* op() const = 0;
  /// Computes the gradients of the inputs from that of the output. Called at most once.
  virtual void backward(const Tensor& d_out, InputGrads& d_in) = 0;
};

/// True when grad mode is on and some input needs a gradient: the op must then build a rule and call record().
bool needs_record(std::initializer_list<const Var*> inputs);
/// Makes the output Var of an op. `inputs` in the order the rule's InputGrads uses; undefined Vars are allowed.
Var record(std::unique_ptr<Rule> rule, Tensor out, std::vector<Var> inputs);

/// While alive, ops on this thread record nothing.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool previous_;
};
bool grad_enabled();

/// Recompute region: runs `body` without recording and keeps only `inputs`; backward runs `body` again with recording.
/// Trades one more forward pass for the region's saved tensors. `body` must be a pure function of its inputs and of
/// leaves.
Var recompute(const char* name, std::function<Var(const std::vector<Var>&)> body, const std::vector<Var>& inputs);

/// Bytes that rules hold for their backward pass, parameters included; a tensor saved by two rules counts twice.
struct SavedStats {
  std::size_t bytes = 0, peak_bytes = 0;
};
SavedStats saved_stats();
/// Sets the peak to what is held now.
void reset_saved_peak();

}  // namespace avid
