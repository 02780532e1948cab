// nn/module.cpp -- names, initial values, import and export
#include "nn/module.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "nn/init.h"

namespace avid::nn {
namespace {

// Moves dimension `from` behind or in front of the others: dense values of shape [a, m, rest] -> [a, rest, m] or back.
template <class Elem>
std::vector<Elem> swap_middle(const std::vector<Elem>& values, std::int64_t outer, std::int64_t m, std::int64_t n) {
  std::vector<Elem> result(values.size());
  for (std::int64_t o = 0; o < outer; ++o) {
    const Elem* source = values.data() + o * m * n;
    Elem* target = result.data() + o * m * n;
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) target[j * m + i] = source[i * n + j];
  }
  return result;
}

std::int64_t trailing(const Shape& plain) {
  std::int64_t n = 1;
  for (int i = 2; i < plain.rank(); ++i) n *= plain[i];
  return n;
}

// Whether the rule of the header moves anything for this shape.
bool moves(const Shape& plain) { return plain.rank() >= 3 && plain[1] > 1 && trailing(plain) > 1; }

std::string list_some(const std::vector<std::string>& items) {
  constexpr std::size_t kShown = 8;
  std::string text = fmt::format("{}", fmt::join(items.begin(), items.begin() + std::min(items.size(), kShown), ", "));
  if (items.size() > kShown) text += fmt::format(" and {} more", items.size() - kShown);
  return text;
}

}  // namespace

Tensor from_plain(const Tensor& plain, const Shape& shape) {
  check<ShapeError>(
      plain.numel() == shape.numel(), "from_plain: expected {} elements for {}, got {}", shape.numel(), shape,
      plain.shape());
  if (!moves(plain.shape())) return Tensor::from_dense_bytes(plain.to_dense_bytes(), shape, plain.dtype());
  return dispatch_any(plain.dtype(), [&]<class Elem>() {
    return Tensor::from_values(
        swap_middle(plain.to_values<Elem>(), plain.dim(0), plain.dim(1), trailing(plain.shape())), shape);
  });
}

Tensor to_plain(const Tensor& ours, const Shape& plain_shape) {
  check<ShapeError>(
      ours.numel() == plain_shape.numel(), "to_plain: expected {} elements for {}, got {}", plain_shape.numel(),
      plain_shape, ours.shape());
  if (!moves(plain_shape)) return Tensor::from_dense_bytes(ours.to_dense_bytes(), plain_shape, ours.dtype());
  return dispatch_any(ours.dtype(), [&]<class Elem>() {
    return Tensor::from_values(
        swap_middle(ours.to_values<Elem>(), plain_shape[0], trailing(plain_shape), plain_shape[1]), plain_shape);
  });
}

const Tensor& Constant::on(Device device) const {
  if (!device.is_gpu()) return host_;
  if (!elsewhere_.defined() || elsewhere_.device() != device) elsewhere_ = host_.to(device);
  return elsewhere_;
}

const Var& Parameter::var() const {
  check(var_.defined(), "nn: parameter {} has no value yet | call initialize() or load a checkpoint first", spec_.name);
  return var_;
}

Parameter* Module::add_parameter(ParameterSpec spec) {
  check<ShapeError>(
      spec.shape.numel() == spec.plain_shape.numel(), "nn: parameter {}: shapes {} and {} differ in size", spec.name,
      spec.shape, spec.plain_shape);
  Parameter* parameter = &owned_.emplace_back(std::move(spec));
  entries_.push_back({parameter->spec().name, parameter, nullptr, {}});
  return parameter;
}

void Module::add_constant(std::string name, Tensor value) {
  entries_.push_back({std::move(name), nullptr, nullptr, std::move(value)});
}

void Module::add_child(std::string name, Module& child) { entries_.push_back({std::move(name), nullptr, &child, {}}); }

template <class Visit>
void Module::walk(std::string_view prefix, Visit&& visit) const {
  for (const Entry& entry : entries_) {
    std::string name = std::string(prefix) + entry.name;
    if (entry.child != nullptr) {
      if (!entry.name.empty()) name += '.';
      entry.child->walk(name, visit);
    } else {
      visit(name, entry.parameter, entry.constant);
    }
  }
}

std::vector<NamedParameter> Module::parameters(std::string_view prefix) const {
  std::vector<NamedParameter> list;
  walk(prefix, [&](const std::string& name, Parameter* parameter, const Tensor&) {
    if (parameter != nullptr) list.push_back({name, parameter});
  });
  return list;
}

std::vector<CheckpointEntry> Module::tensor_list(std::string_view prefix) const {
  std::vector<CheckpointEntry> list;
  walk(prefix, [&](const std::string& name, Parameter* parameter, const Tensor& constant) {
    list.push_back(
        {name, parameter != nullptr ? parameter->spec().plain_shape : constant.shape(), parameter == nullptr});
  });
  return list;
}

std::int64_t Module::num_trainable() const {
  std::int64_t count = 0;
  walk("", [&](const std::string&, Parameter* parameter, const Tensor&) {
    if (parameter != nullptr) count += parameter->shape().numel();
  });
  return count;
}

std::int64_t Module::num_parameters() const {
  std::int64_t count = num_trainable();
  std::set<const void*> seen;
  walk("", [&](const std::string&, Parameter* parameter, const Tensor& constant) {
    if (parameter == nullptr && seen.insert(constant.raw_data()).second) count += constant.numel();
  });
  return count;
}

void Module::initialize(std::uint64_t seed, DType dtype, std::string_view prefix) {
  walk(prefix, [&](const std::string& name, Parameter* parameter, const Tensor&) {
    if (parameter == nullptr) return;
    const ParameterSpec& spec = parameter->spec();
    parameter->var_ = Var(from_plain(initial_values(spec, name, seed, dtype), spec.shape), true, name);
  });
}

void Module::import_tensors(const TensorMap& tensors, std::string_view source, DType dtype) {
  check<DTypeError>(
      dtype == DType::f32 || dtype == DType::f64, "{}: dtype: expected f32 or f64, got {}", source, name_of(dtype));
  std::vector<std::string> missing, extra, misfits;
  std::set<std::string, std::less<>> known;
  walk("", [&](const std::string& name, Parameter* parameter, const Tensor& constant) {
    known.insert(name);
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      missing.push_back(name);
      return;
    }
    const Tensor& tensor = found->second;
    const Shape& expected = parameter != nullptr ? parameter->spec().plain_shape : constant.shape();
    if (!(tensor.shape() == expected)) {
      misfits.push_back(fmt::format("{}: expected {}, got {}", name, expected, tensor.shape()));
    } else if (!is_float(tensor.dtype())) {
      misfits.push_back(fmt::format("{}: expected a float type, got {}", name, name_of(tensor.dtype())));
    } else if (parameter == nullptr) {
      // Other frequencies would be another network; half-precision copies of the same ones are fine.
      const double tolerance = size_of(tensor.dtype()) < 4 ? 4e-3 : 1e-6;
      const std::vector<double> ours = constant.to_doubles(), theirs = tensor.to_doubles();
      for (std::size_t i = 0; i < ours.size(); ++i) {
        if (!(std::abs(theirs[i] - ours[i]) <= tolerance * ours[i])) {
          misfits.push_back(
              fmt::format("{}: expected the constant {:.6g} at {}, got {:.6g}", name, ours[i], i, theirs[i]));
          break;
        }
      }
    }
  });
  for (const auto& [name, tensor] : tensors)
    if (!known.contains(name)) extra.push_back(fmt::format("{} {}", name, tensor.shape()));

  if (!missing.empty() || !extra.empty() || !misfits.empty()) {
    std::vector<std::string> groups;
    if (!missing.empty()) groups.push_back(fmt::format("{} missing ({})", missing.size(), list_some(missing)));
    if (!extra.empty()) groups.push_back(fmt::format("{} not known ({})", extra.size(), list_some(extra)));
    if (!misfits.empty()) groups.push_back(fmt::format("{} of another shape ({})", misfits.size(), list_some(misfits)));
    fail<ShapeError>(
        "{}: tensors do not fit this network: {} | nothing was loaded; is this file of another model?", source,
        fmt::join(groups, "; "));
  }

  walk("", [&](const std::string& name, Parameter* parameter, const Tensor&) {
    if (parameter == nullptr) return;
    const Tensor& plain = tensors.find(name)->second;
    // Values that were moved to a device stay there.
    const Device device = parameter->defined() ? parameter->var().value().device() : Device();
    parameter->var_ = Var(from_plain(plain, parameter->shape()).to(dtype).to(device), true, name);
  });
}

NamedTensors Module::export_tensors(std::string_view prefix) const {
  NamedTensors list;
  walk(prefix, [&](const std::string& name, Parameter* parameter, const Tensor& constant) {
    if (parameter != nullptr) {
      list.emplace_back(name, to_plain(parameter->var().value(), parameter->spec().plain_shape));
    } else {
      list.emplace_back(name, constant.clone());
    }
  });
  return list;
}

NamedTensors Module::export_gradients(std::string_view prefix) const {
  NamedTensors list;
  for (const NamedParameter& p : parameters(prefix))
    if (p.var().grad().defined()) list.emplace_back(p.name, p.plain_grad());
  return list;
}

bool Module::has_values() const {
  const auto all = parameters();
  return std::all_of(all.begin(), all.end(), [](const NamedParameter& p) { return p.parameter->defined(); });
}

DType Module::dtype() const {
  const auto all = parameters();
  check(!all.empty(), "nn: a module without parameters has no dtype");
  return all.front().var().dtype();
}

void Module::to(Device device) {
  walk("", [&](const std::string&, Parameter* parameter, const Tensor&) {
    if (parameter == nullptr) return;
    const Var& now = parameter->var();
    parameter->var_ = Var(now.value().to(device), now.requires_grad(), now.name());
  });
}

Device Module::device() const {
  const auto all = parameters();
  check(!all.empty(), "nn: a module without parameters is on no device");
  return all.front().var().value().device();
}

void Module::set_activation_dtype(DType dtype) {
  check<DTypeError>(
      dtype == DType::bf16 || dtype == DType::f32, "nn: activations: expected f32 or bf16, got {}", name_of(dtype));
  activations_ = dtype;
  for (const Entry& entry : entries_)
    if (entry.child != nullptr) entry.child->set_activation_dtype(dtype);
}

void Module::set_recompute(Recompute what) {
  recompute_ = what;
  for (const Entry& entry : entries_)
    if (entry.child != nullptr) entry.child->set_recompute(what);
}

Recompute parse_recompute(std::string_view text, std::string_view where) {
  if (text == "none") return Recompute::none;
  if (text == "blocks") return Recompute::blocks;
  if (text == "levels") return Recompute::levels;
  fail<ConfigError>("{}: expected none, blocks or levels, got {}", where, text);
}

void Module::set_trainable(bool on) {
  walk("", [&](const std::string&, Parameter* parameter, const Tensor&) {
    if (parameter == nullptr) return;
    parameter->var();  // checks that there are values
    parameter->var_.set_requires_grad(on);
  });
}

void Module::zero_grad() {
  walk("", [&](const std::string&, Parameter* parameter, const Tensor&) {
    if (parameter != nullptr && parameter->defined()) parameter->var_.zero_grad();
  });
}

}  // namespace avid::nn
