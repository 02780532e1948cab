// nn/module.h -- parameters with names: what a network is made of, and how it gets its values
//
// A module is built without memory: its constructor only says which parameters there are (name, shape, initial values).
// Values come from initialize() or import_tensors(). So counting the parameters of a large network costs nothing, and
// loading a checkpoint never fills random numbers first.
//
// Names are those of the original code's checkpoints ("downs.0.0.block1.proj.weight"), in the original's order. On disk
// a tensor has the original ("plain") shape; in memory it has ours, which differs by one rule for all kinds:
//   move dimension 1 behind the last one (channels last), then drop the size-1 dimensions that our shape leaves out
//   convolution             [O,I,kt,kh,kw] -> [O,kt,kh,kw,I]
//   transposed convolution  [I,O,kt,kh,kw] -> [I,kt,kh,kw,O]
//   1x1 convolution         [O,I,1,1(,1)]  -> [O,I]
//   gammas                  [C,1,1,1], [1,C,1,1,1] -> [C]
//   matrices and vectors    unchanged
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/var.h"
#include "tensor/io/tensor_file.h"
#include "tensor/tensor.h"

namespace avid::nn {

/// Tensors in plain shapes, found by name: what a checkpoint reader hands over.
using TensorMap = std::map<std::string, Tensor, std::less<>>;

/// Plain layout -> ours, as in the head of this file; a new tensor. `shape` is the shape in our layout.
Tensor from_plain(const Tensor& plain, const Shape& shape);
/// Ours -> plain; the inverse of from_plain.
Tensor to_plain(const Tensor& ours, const Shape& plain_shape);

/// Initial values of a parameter (pixel.md 2.7).
///   uniform  in [-b, b), b = 1 / sqrt(fan)
///   normal   N(0,1)
enum class Init { uniform, normal, ones, zeros };

/// How to declare a parameter.
struct ParameterSpec {
  std::string name;   // relative to its module
  Shape shape;        // ours
  Shape plain_shape;  // the original's
  Init init = Init::uniform;
  std::int64_t fan = 1;  // product of all plain weight dimensions but the first; a bias takes its weight's
};

/// One trainable tensor of a module. Layers keep a pointer to it and read var() in every forward pass.
class Parameter {
 public:
  explicit Parameter(ParameterSpec spec) : spec_(std::move(spec)) {}
  const ParameterSpec& spec() const { return spec_; }
  const Shape& shape() const { return spec_.shape; }
  bool defined() const { return var_.defined(); }
  /// The leaf, in our layout. Throws if the module has no values yet.
  const Var& var() const;

 private:
  friend class Module;
  ParameterSpec spec_;
  Var var_;
};

/// A parameter and its full name below the module that was asked.
struct NamedParameter {
  std::string name;
  const Parameter* parameter;

  const Var& var() const { return parameter->var(); }
  /// value or gradient of this parameter in the original's shape.
  Tensor plain_value() const { return to_plain(var().value(), parameter->spec().plain_shape); }
  Tensor plain_grad() const { return to_plain(var().grad(), parameter->spec().plain_shape); }
};

/// Name and plain shape of everything a checkpoint of a module holds.
struct CheckpointEntry {
  std::string name;
  Shape plain_shape;
  bool constant;  // the rotary frequencies: stored, never trained
};

/// A small host tensor that ops also need on devices; copied there once.
class Constant {
 public:
  explicit Constant(Tensor value) : host_(std::move(value)) {}
  const Tensor& on(Device device) const;

 private:
  Tensor host_;
  mutable Tensor elsewhere_;
};

/// What a U-Net forgets of its activations and computes again on the way back (autograd/var.h: recompute).
///   none    nothing
///   blocks  what lies inside each ResNet block; its inputs are kept, and so are those of attentions and resampling
///   levels  what lies inside each level, ResNet blocks and attentions; its inputs are kept. Middle and head by blocks
enum class Recompute { none, blocks, levels };
/// Reads "none", "blocks", "levels"; ConfigError that names `where`.
Recompute parse_recompute(std::string_view text, std::string_view where);

/// Base of all networks and layers. Derived constructors call add_parameter / add_constant / add_child; the order of
/// the calls is the order of every list. Neither copied nor moved, because parents and layers point into it.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// All parameters, constants left out. `prefix` is put before every name as it is ("adapter.").
  std::vector<NamedParameter> parameters(std::string_view prefix = {}) const;
  /// Everything a checkpoint holds, constants included (one line per name they appear under). Needs no values.
  std::vector<CheckpointEntry> tensor_list(std::string_view prefix = {}) const;
  /// Number of scalars; a constant that appears under several names counts once. Needs no values.
  std::int64_t num_parameters() const;
  /// The same without constants.
  std::int64_t num_trainable() const;

  /// Gives every parameter its initial values (pixel.md 2.7). A value depends on (seed, prefix + name, position in the
  /// plain tensor) only, not on the order of construction or on dtype (beyond rounding). dtype: f32 or f64.
  void initialize(std::uint64_t seed, DType dtype = DType::f32, std::string_view prefix = {});

  /// Takes all values from plain tensors (any float dtype, converted). `source` names the file in messages.
  /// Throws one ShapeError that lists everything missing, extra or of another shape, before anything is changed.
  void import_tensors(const TensorMap& tensors, std::string_view source, DType dtype = DType::f32);
  /// All values in plain shapes, constants included; copies.
  NamedTensors export_tensors(std::string_view prefix = {}) const;
  /// Gradients in plain shapes; parameters that got none are left out.
  NamedTensors export_gradients(std::string_view prefix = {}) const;

  /// Moves all values to a device; gradients are dropped. Constants stay on the host: layers send them where they
  /// compute.
  void to(Device device);
  /// Where the values are; throws before there are any.
  Device device() const;

  /// The type that networks keep their activations in: that of the values unless set. bf16 halves memory and traffic;
  /// values, norms, codes of time and action, and gradients of parameters stay f32. Throws DTypeError for other types.
  void set_activation_dtype(DType dtype);
  DType activation_dtype() const { return activations_ ? *activations_ : dtype(); }

  /// What is computed again on the way back; none unless set. The numbers are the same but for the order in which
  /// gradients that meet at a tensor are added up.
  void set_recompute(Recompute what);
  Recompute recomputes() const { return recompute_; }

  /// True once initialize() or import_tensors() ran.
  bool has_values() const;
  /// The element type of the values; throws before there are any.
  DType dtype() const;
  /// Frozen modules (false) record nothing and keep nothing for a backward pass. Needs values.
  void set_trainable(bool on);
  void zero_grad();

 protected:
  Parameter* add_parameter(ParameterSpec spec);
  /// A shared, non-trainable f32 vector that the original stores under this name.
  void add_constant(std::string name, Tensor value);
  /// `child` must live as long as this module (a member). An empty name adds the child's names without a prefix.
  void add_child(std::string name, Module& child);

 private:
  struct Entry {
    std::string name;
    Parameter* parameter = nullptr;
    Module* child = nullptr;
    Tensor constant;
  };
  template <class Visit>
  void walk(std::string_view prefix, Visit&& visit) const;

  std::deque<Parameter> owned_;
  std::vector<Entry> entries_;
  std::optional<DType> activations_;
  Recompute recompute_ = Recompute::none;
};

}  // namespace avid::nn
