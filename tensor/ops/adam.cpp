// tensor/ops/adam.cpp -- checks of the optimiser's passes
#include "tensor/ops/adam.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/adam.h"
#include "kernels/op_watch.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

/// Buffers are walked gaps included, so they must be cut alike.
void check_same_buffer(const Tensor& t, const Tensor& like, const char* op, const char* name) {
  detail::check_like(t, like, op, name);
  check<ShapeError>(
      t.pitch() == like.pitch(), "{}: {}: expected rows {} elements apart, got {} | clone() it first", op, name,
      like.pitch(), t.pitch());
}

kernels::AdamStep kernel_step(const AdamUpdateOptions& options) {
  return {
      .lr = options.lr,
      .beta1 = options.beta1,
      .beta2 = options.beta2,
      .eps = options.eps,
      .weight_decay = options.weight_decay};
}

/// Rate and shares as make_adam_numbers() lays them out.
std::vector<double> number_values(double lr, std::span<const double> decays) {
  std::vector<double> values{lr};
  for (const double decay : decays) values.push_back(1 - decay);
  return values;
}

/// Plain structs as bytes on a device; `values` may go when this returns.
template <class T>
Tensor upload(const std::vector<T>& values, Device device) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(values.data());
  const std::size_t num_bytes = values.size() * sizeof(T);
  return Tensor::from_values(std::span(bytes, num_bytes), {static_cast<std::int64_t>(num_bytes)}).to(device);
}

/// The table of segments, and what launches need to know of it.
struct DeviceSegments {
  Tensor table;
  kernels::AdamSegments segments;
};
DeviceSegments upload_segments(std::vector<kernels::AdamSegment> list, Device device) {
  std::int64_t num_chunks = 0;
  for (kernels::AdamSegment& segment : list) {
    segment.first_chunk = num_chunks;
    num_chunks += kernels::adam_chunks(segment.n);
  }
  DeviceSegments out{.table = upload(list, device), .segments = {}};
  out.segments = {
      .segments = reinterpret_cast<const kernels::AdamSegment*>(device_data<std::uint8_t>(out.table)),
      .count = static_cast<std::int64_t>(list.size()),
      .num_chunks = num_chunks};
  return out;
}

kernels::AdamRecord* record_of(Tensor& state) {
  return reinterpret_cast<kernels::AdamRecord*>(device_mutable_data<std::uint8_t>(state));
}

kernels::AdamNumbers device_numbers(const Tensor& numbers, const Tensor& losses) {
  const auto* values = device_data<double>(numbers);
  return {
      .lr = values,
      .shares = values + 1,
      .num_shares = numbers.numel() - 1,
      .losses = device_data<float>(losses),
      .num_losses = losses.defined() ? losses.numel() : 0};
}

void measure(
    const DeviceSegments& parameters, const kernels::AdamStep& step, const kernels::AdamNumbers& numbers,
    double max_norm, Tensor& state) {
  Tensor workspace = Tensor::empty({parameters.segments.num_chunks}, DType::f64, state.device());
  on_device(state.device(), "adam_update", [&]<class Backend>(const kernels::Stream& stream) {
    kernels::adam_measure<Backend>(
        stream, parameters.segments, step, numbers, max_norm, record_of(state), device_mutable_data<double>(workspace));
  });
}

GradNorm grad_norm_on_device(std::span<const Tensor> grads, Device device) {
  std::vector<kernels::AdamSegment> list;
  for (const Tensor& grad : grads) {
    kernels::AdamSegment segment;
    if (grad.defined()) {
      check_dtype(grad, DType::f32, "grad_norm", "grads");
      segment.grad = device_data<float>(grad);
      segment.n = detail::buffer_elements(grad);
    }
    list.push_back(segment);
  }
  Tensor state = make_adam_state(0, device);
  measure(upload_segments(std::move(list), device), {}, device_numbers(make_adam_numbers(0, {}, device), {}), 1, state);
  const AdamOutcome outcome = read_adam_state(state);
  return {outcome.norm, outcome.first_non_finite};
}

void check_parameter(const AdamParameter& p) {
  detail::check_float(p.param, "adam_update", "param");
  if (p.param.device().is_gpu()) check_dtype(p.param, DType::f32, "adam_update", "param");
  for (const auto& [name, t] : {std::pair{"grad", &p.grad}, {"m", &p.m}, {"v", &p.v}, {"average", &p.average}}) {
    const bool optional = t == &p.grad || t == &p.average;
    check<ShapeError>(optional || t->defined(), "adam_update: {}: expected a tensor, got an undefined one", name);
    if (t->defined()) check_same_buffer(*t, p.param, "adam_update", name);
  }
  if (!p.shadow.defined()) return;
  detail::check_operand(p.shadow, p.param.shape(), DType::bf16, "adam_update", "shadow");
  detail::check_same_device(p.shadow, p.param, "adam_update", "shadow");
  check<DeviceError>(p.param.device().is_gpu(), "adam_update: shadow: expected parameters on a device, got cpu");
  const bool packs = p.param.pitch() % 4 == 0 && p.shadow.pitch() % 4 == 0 && p.shadow.pitch() >= p.param.pitch();
  check<ShapeError>(
      p.param.rows() <= 1 || packs, "adam_update: shadow: expected rows of 16-byte multiples, got {} and {} elements",
      p.param.pitch(), p.shadow.pitch());
}

void update_on_device(std::span<AdamParameter> parameters, const AdamUpdateOptions& options, Tensor& state) {
  std::vector<kernels::AdamSegment> list;
  for (AdamParameter& p : parameters) {
    const bool in_rows = p.shadow.defined() && p.param.rows() > 1;
    list.push_back(
        {.param = device_mutable_data<float>(p.param),
         .grad = device_data<float>(p.grad),
         .m = device_mutable_data<float>(p.m),
         .v = device_mutable_data<float>(p.v),
         .average = device_mutable_data<float>(p.average),
         .shadow = device_mutable_data<BFloat16>(p.shadow),
         .n = detail::buffer_elements(p.param),
         .pitch = in_rows ? p.param.pitch() : 0,
         .shadow_pitch = in_rows ? p.shadow.pitch() : 0});
  }
  const DeviceSegments segments = upload_segments(std::move(list), state.device());
  const Tensor numbers = options.numbers.defined()
                             ? options.numbers
                             : make_adam_numbers(options.lr, options.average_decays, state.device());
  const kernels::AdamNumbers here = device_numbers(numbers, options.losses);
  measure(segments, kernel_step(options), here, options.max_norm, state);
  on_device(state.device(), "adam_update", [&]<class Backend>(const kernels::Stream& stream) {
    kernels::adam_apply<Backend>(stream, segments.segments, kernel_step(options), here, record_of(state));
  });
}

/// Beside every buffer once: weights, moments and averages are written where they were read, and gradients are read
/// twice, because the step depends on the norm of all of them.
void note_second_passes(std::span<const AdamParameter> parameters) {
  double bytes = 0;
  for (const AdamParameter& p : parameters)
    for (const Tensor* t : {&p.param, &p.m, &p.v, &p.average, &p.grad})
      if (t->defined()) bytes += static_cast<double>(t->num_bytes());
  kernels::note_more_bytes(bytes);
}

/// On the CPU the state is the same record, in a tensor of the host.
void update_on_cpu(std::span<AdamParameter> parameters, const AdamUpdateOptions& options, Tensor& state) {
  kernels::AdamRecord record;
  std::memcpy(&record, state.raw_data(), sizeof(record));
  for (AdamParameter& p : parameters)
    if (p.average.defined())
      for (const double decay : options.average_decays) {
        if (decay == 0)
          p.average.copy_from(p.param);
        else if (decay < 1)
          ema_lerp(p.average, p.param, decay);
      }
  std::vector<Tensor> grads;
  for (const AdamParameter& p : parameters) grads.push_back(p.grad);
  const GradNorm norm = grad_norm(grads);
  record.norm = norm.norm;
  record.first_non_finite = norm.first_non_finite;
  if (norm.first_non_finite < 0) {
    ++record.num_steps;
    record.clip_scale = clip_factor(norm.norm, options.max_norm);
    for (AdamParameter& p : parameters)
      adam_step(
          p.param, p.grad, p.m, p.v,
          {.lr = options.lr,
           .beta1 = options.beta1,
           .beta2 = options.beta2,
           .eps = options.eps,
           .weight_decay = options.weight_decay,
           .num_steps = record.num_steps,
           .grad_scale = record.clip_scale});
  }
  std::memcpy(state.raw_data(), &record, sizeof(record));
}

}  // namespace

void adam_step(Tensor& param, const Tensor& grad, Tensor& m, Tensor& v, const AdamStepOptions& options) {
  detail::check_float(param, "adam_step", "param");
  if (grad.defined()) check_same_buffer(grad, param, "adam_step", "grad");
  check_same_buffer(m, param, "adam_step", "m");
  check_same_buffer(v, param, "adam_step", "v");
  check<ConfigError>(
      options.num_steps >= 1, "adam_step: num_steps: expected >= 1 (this step counts), got {}", options.num_steps);
  const auto n = static_cast<double>(options.num_steps);
  const kernels::AdamStep step{
      .lr = options.lr,
      .beta1 = options.beta1,
      .beta2 = options.beta2,
      .eps = options.eps,
      .weight_decay = options.weight_decay,
      .correction1 = 1 - std::pow(options.beta1, n),
      .correction2 = 1 - std::pow(options.beta2, n),
      .grad_scale = options.grad_scale};
  if (param.device().is_gpu()) {
    check_dtype(param, DType::f32, "adam_step", "param");
    on_device(param.device(), "adam_step", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::adam_step<Backend>(
          stream, step, device_mutable_data<float>(param), device_data<float>(grad), device_mutable_data<float>(m),
          device_mutable_data<float>(v), detail::buffer_elements(param));
    });
  } else {
    dispatch_f32_f64(param.dtype(), "adam_step", [&]<class Elem>() {
      kernels::adam_step<Elem>(
          step, param.data<Elem>(), detail::data_or_null<Elem>(grad), m.data<Elem>(), v.data<Elem>(),
          detail::buffer_elements(param));
    });
  }
  param.bump_version();
  m.bump_version();
  v.bump_version();
}

void ema_lerp(Tensor& shadow, const Tensor& online, double decay) {
  detail::check_float(shadow, "ema_lerp", "shadow");
  check_same_buffer(online, shadow, "ema_lerp", "online");
  if (shadow.device().is_gpu()) {
    check_dtype(shadow, DType::f32, "ema_lerp", "shadow");
    on_device(shadow.device(), "ema_lerp", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::lerp_towards<Backend>(
          stream, device_mutable_data<float>(shadow), device_data<float>(online), 1 - decay,
          detail::buffer_elements(shadow));
    });
  } else {
    dispatch_f32_f64(shadow.dtype(), "ema_lerp", [&]<class Elem>() {
      kernels::lerp_towards<Elem>(shadow.data<Elem>(), online.data<Elem>(), 1 - decay, detail::buffer_elements(shadow));
    });
  }
  shadow.bump_version();
}

GradNorm grad_norm(std::span<const Tensor> grads) {
  for (const Tensor& grad : grads)
    if (grad.defined() && grad.device().is_gpu()) return grad_norm_on_device(grads, grad.device());
  GradNorm result;
  double total = 0;
  for (std::size_t i = 0; i < grads.size(); ++i) {
    if (!grads[i].defined()) continue;
    detail::check_float(grads[i], "grad_norm", "grads");
    double sum = 0;
    dispatch_f32_f64(grads[i].dtype(), "grad_norm", [&]<class Elem>() {
      sum = kernels::sum_of_squares<Elem>(grads[i].data<Elem>(), detail::buffer_elements(grads[i]));
    });
    // Squares of finite f32 numbers cannot overflow an f64 sum.
    if (!std::isfinite(sum) && result.first_non_finite < 0) result.first_non_finite = static_cast<std::int64_t>(i);
    total += sum;
  }
  result.norm = std::sqrt(total);
  return result;
}

void adam_update(std::span<AdamParameter> parameters, const AdamUpdateOptions& options, Tensor& state) {
  for (const AdamParameter& p : parameters) {
    check_parameter(p);
    detail::check_same_device(p.param, state, "adam_update", "param");
  }
  check<DeviceError>(
      state.device().is_gpu() || (!options.losses.defined() && !options.numbers.defined()),
      "adam_update: numbers, losses: expected parameters on a device, got cpu");
  const kernels::OpTimer timer("adam_update");
  note_second_passes(parameters);
  state.device().is_gpu() ? update_on_device(parameters, options, state) : update_on_cpu(parameters, options, state);
  for (AdamParameter& p : parameters)
    for (Tensor* t : {&p.param, &p.m, &p.v, &p.average, &p.shadow})
      if (t->defined()) t->bump_version();
}

Tensor make_adam_numbers(double lr, std::span<const double> decays, Device device) {
  const std::vector<double> values = number_values(lr, decays);
  return Tensor::from_values(values, {static_cast<std::int64_t>(values.size())}).to(device);
}

void set_adam_numbers(Tensor& numbers, double lr, std::span<const double> decays) {
  const std::vector<double> values = number_values(lr, decays);
  numbers.copy_from(Tensor::from_values(values, {static_cast<std::int64_t>(values.size())}));
}

Tensor make_adam_state(std::int64_t num_steps, Device device) {
  kernels::AdamRecord record;
  record.num_steps = num_steps;
  return upload(std::vector{record}, device);
}

AdamOutcome read_adam_state(const Tensor& state) {
  const Tensor here = state.to(Device{});
  kernels::AdamRecord record;
  std::memcpy(&record, here.raw_data(), sizeof(record));
  return {record.norm, record.first_non_finite, record.num_steps, record.clip_scale};
}

double clip_factor(double norm, double max_norm) { return std::min(1.0, max_norm / (norm + 1e-6)); }

}  // namespace avid
