// autograd/var.cpp -- the graph and its walk from the newest rule to the oldest
//
// A Var is a value plus a GraphNode. Edges run between GraphNodes only, so an intermediate value lives as long as a
// Var names it or a rule saved it, not as long as the graph. Node ids grow with creation; an op's inputs are always
// older than its output, so taking the largest id first is a topological order without a separate sort.
#include "autograd/var.h"

#include <atomic>
#include <optional>
#include <queue>
#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/elementwise.h"

namespace avid {

namespace detail {

struct GraphNode {
  std::uint64_t id = 0;
  bool requires_grad = false;
  const char* op = nullptr;             // null for leaves
  const std::string* module = nullptr;  // where op ran
  Shape shape;
  DType dtype = DType::f32;
  Tensor grad;  // leaves: the accumulated gradient; others: contributions still on their way
  std::unique_ptr<Rule> rule;
  std::vector<std::shared_ptr<GraphNode>> inputs;  // null where an input is absent
};

struct VarState {
  Tensor value;
  std::string name;
  std::shared_ptr<GraphNode> node;
  Tensor converted = {};  // value in another type, made from version converted_version of it
  std::uint64_t converted_version = 0;
  bool converted_stale = true;  // the value may have become another tensor

  bool copy_is_current() const {
    return converted.defined() && !converted_stale && converted_version == value.version() &&
           converted.device() == value.device();
  }
};

}  // namespace detail

namespace {

using detail::GraphNode;

thread_local bool grad_mode = true;
std::atomic<std::uint64_t> next_id{1};
std::atomic<std::size_t> saved_bytes{0}, saved_peak_bytes{0};

void add_to(Tensor& sum, Tensor contribution) {
  if (!sum.defined()) {
    sum = std::move(contribution);
    return;
  }
  // Somebody else may hold the same storage (d_out handed on unchanged): then sum into a copy.
  if (sum.use_count() > 1) sum = sum.clone();
  add_in_place(sum, contribution);
}

struct OlderId {
  bool operator()(const std::shared_ptr<GraphNode>& a, const std::shared_ptr<GraphNode>& b) const {
    return a->id < b->id;
  }
};

void run_backward(const std::shared_ptr<GraphNode>& root, Tensor d_out) {
  check<GraphError>(root->requires_grad, "backward: the value does not depend on anything that needs a gradient");
  check<GraphError>(
      root->op == nullptr || root->rule != nullptr,
      "{}: backward through a graph that was already freed | run the forward pass again", root->op ? root->op : "leaf");
  add_to(root->grad, std::move(d_out));
  std::priority_queue<std::shared_ptr<GraphNode>, std::vector<std::shared_ptr<GraphNode>>, OlderId> open;
  if (root->op != nullptr) open.push(root);
  std::optional<kernels::ModuleRange> range;  // kept open while the walk stays in one module
  const std::string* module = nullptr;
  while (!open.empty()) {
    const std::shared_ptr<GraphNode> node = open.top();
    open.pop();
    while (!open.empty() && open.top() == node) open.pop();  // pushed once per consumer
    check<GraphError>(
        node->rule != nullptr, "{}: backward through a graph that was already freed | run the forward pass again",
        node->op);
    const Tensor d_node = std::exchange(node->grad, Tensor());
    if (d_node.defined()) {
      InputGrads grads(*node);
      const NoGrad no_grad;
      if (node->module != module) {
        range.reset();
        module = node->module;
        if (!module->empty()) range.emplace(kernels::ModuleRange::Again{*module});
      }
      const kernels::OpTimer timer(node->op, "_bwd");
      node->rule->backward(d_node, grads);
    }
    for (const auto& input : node->inputs)
      if (input != nullptr && input->op != nullptr && input->requires_grad && input->grad.defined()) open.push(input);
    node->rule.reset();
    node->inputs.clear();
  }
}

}  // namespace

Var::Var(Tensor value, bool requires_grad, std::string name) : state_(std::make_shared<detail::VarState>()) {
  auto node = std::make_shared<GraphNode>();
  node->id = next_id++;
  node->requires_grad = requires_grad;
  node->shape = value.shape();
  node->dtype = value.dtype();
  check<DTypeError>(
      !requires_grad || is_float(value.dtype()), "autograd: {}: only float tensors have gradients, got {}", name,
      value.describe());
  *state_ = {std::move(value), std::move(name), std::move(node)};
}

detail::VarState& Var::state() const {
  check(state_ != nullptr, "autograd: undefined Var used");
  return *state_;
}

const Tensor& Var::value() const { return state().value; }

const Tensor& Var::value_in(DType dtype) const {
  detail::VarState& s = state();
  if (s.value.dtype() != DType::f32 || dtype != DType::bf16) return s.value;  // ops refuse what does not fit
  if (!s.copy_is_current()) {
    // The old copy may still be saved for a backward pass; then it stays as it is.
    if (s.converted.defined() && s.converted.use_count() == 1 && s.converted.device() == s.value.device())
      s.converted.copy_from(s.value);
    else
      s.converted = s.value.to(dtype);
    s.converted_version = s.value.version();
    s.converted_stale = false;
  }
  return s.converted;
}

Tensor Var::current_copy() const {
  const detail::VarState& s = state();
  return s.copy_is_current() && s.converted.use_count() == 1 ? s.converted : Tensor();
}

void Var::set_copy_current() {
  detail::VarState& s = state();
  check<GraphError>(s.converted.defined(), "autograd: {} has no copy in another type", s.name);
  s.converted_version = s.value.version();
  s.converted_stale = false;
}

void Var::refresh_copy() const {
  if (state().converted.defined()) value_in(state().converted.dtype());
}

Tensor& Var::mutable_value() {
  state().converted_stale = true;
  state().value.bump_version();
  return state().value;
}

const std::string& Var::name() const { return state().name; }
bool Var::requires_grad() const { return state().node->requires_grad; }

void Var::set_requires_grad(bool on) {
  check<GraphError>(state().node->op == nullptr, "autograd: set_requires_grad on the result of {}", state().node->op);
  state().node->requires_grad = on;
}

const Tensor& Var::grad() const { return state().node->grad; }
void Var::zero_grad() { state().node->grad = Tensor(); }

void Var::backward() const {
  check<ShapeError>(
      value().numel() == 1, "backward: expected a scalar, got {} | pass a gradient of this shape", value().describe());
  backward(Tensor::full(value().shape(), 1.0, value().dtype(), value().device()));
}

void Var::backward(const Tensor& d_out) const {
  check<ShapeError>(
      d_out.shape() == shape() && d_out.dtype() == dtype(), "backward: d_out: expected {}, got {}", value().describe(),
      d_out.describe());
  run_backward(state().node, d_out);
}

Saved::Saved(const char* op, const char* what, Tensor tensor)
    : op_(op),
      what_(what),
      tensor_(std::move(tensor)),
      version_(tensor_.version()),
      bytes_(tensor_.defined() ? tensor_.num_bytes() : 0) {}

const Tensor& Saved::get() const {
  check<GraphError>(tensor_.defined(), "{}: {} was not saved or is already freed", op_, what_);
  check<GraphError>(
      tensor_.version() == version_,
      "{}: {} {} was changed in place after it was saved for the backward pass | use a copy", op_, what_,
      tensor_.describe());
  return tensor_;
}

bool InputGrads::needs(std::size_t i) const { return node_.inputs.at(i) != nullptr && node_.inputs[i]->requires_grad; }

void InputGrads::set(std::size_t i, Tensor grad) {
  if (!needs(i)) return;
  GraphNode& input = *node_.inputs[i];
  check<ShapeError>(
      grad.shape() == input.shape && grad.dtype() == input.dtype, "{}: gradient of input {}: expected {} {}, got {}",
      node_.op, i, name_of(input.dtype), input.shape, grad.describe());
  add_to(input.grad, std::move(grad));
}

Tensor InputGrads::take(std::size_t i) { return needs(i) ? std::exchange(node_.inputs[i]->grad, Tensor()) : Tensor(); }

bool needs_record(std::initializer_list<const Var*> inputs) {
  if (!grad_mode) return false;
  for (const Var* input : inputs)
    if (input->defined() && input->requires_grad()) return true;
  return false;
}

Var record(std::unique_ptr<Rule> rule, Tensor out, std::vector<Var> inputs) {
  Var result(std::move(out));
  GraphNode& node = *result.state_->node;
  node.requires_grad = true;
  node.op = rule->op();
  node.module = &kernels::current_module();
  node.rule = std::move(rule);
  for (const Var& input : inputs) node.inputs.push_back(input.defined() ? input.state_->node : nullptr);
  return result;
}

detail::SavedBytes::SavedBytes(std::size_t bytes) : bytes_(bytes) {
  const std::size_t now = saved_bytes += bytes;
  std::size_t peak = saved_peak_bytes;
  while (now > peak && !saved_peak_bytes.compare_exchange_weak(peak, now)) {
  }
}

detail::SavedBytes::~SavedBytes() { saved_bytes -= bytes_; }

SavedStats saved_stats() { return {saved_bytes, saved_peak_bytes}; }
void reset_saved_peak() { saved_peak_bytes = saved_bytes.load(); }

NoGrad::NoGrad() : previous_(std::exchange(grad_mode, false)) {}
NoGrad::~NoGrad() { grad_mode = previous_; }
bool grad_enabled() { return grad_mode; }

namespace {

struct RecomputeRule : Rule {
  std::string name;
  std::function<Var(const std::vector<Var>&)> body;
  std::vector<Saved> saved;
  std::vector<bool> wanted;

  const char* op() const override { return "recompute"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    std::vector<Var> leaves;
    for (std::size_t i = 0; i < saved.size(); ++i)
      leaves.push_back(saved[i].defined() ? Var(saved[i].get(), wanted[i], name) : Var());
    grad_mode = true;  // run_backward holds a NoGrad that restores the mode, also when this throws
    const Var out = body(leaves);
    grad_mode = false;
    if (out.requires_grad()) out.backward(d_out);  // trainable leaves inside `body` get their gradients here
    for (std::size_t i = 0; i < leaves.size(); ++i)
      if (leaves[i].defined() && leaves[i].grad().defined()) d_in.set(i, leaves[i].grad());
  }
};

}  // namespace

Var recompute(const char* name, std::function<Var(const std::vector<Var>&)> body, const std::vector<Var>& inputs) {
  if (!grad_mode) return body(inputs);
  Tensor out;
  {
    const NoGrad no_grad;
    out = body(inputs).value();
  }
  auto rule = std::make_unique<RecomputeRule>();
  rule->name = name;
  rule->body = std::move(body);
  for (const Var& input : inputs) {
    rule->saved.push_back(input.defined() ? Saved("recompute", name, input.value()) : Saved());
    rule->wanted.push_back(input.defined() && input.requires_grad());
  }
  return record(std::move(rule), std::move(out), inputs);
}

}  // namespace avid
