// tensor/ops/adam.cpp -- checks of the optimiser's passes
#include "tensor/ops/adam.h"

#include <algorithm>
#include <cmath>

#include "kernels/adam.h"
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
  dispatch_f32_f64(param.dtype(), "adam_step", [&]<class Elem>() {
    kernels::adam_step<Elem>(
        step, param.data<Elem>(), detail::data_or_null<Elem>(grad), m.data<Elem>(), v.data<Elem>(),
        detail::buffer_elements(param));
  });
  param.bump_version();
  m.bump_version();
  v.bump_version();
}

void ema_lerp(Tensor& shadow, const Tensor& online, double decay) {
  detail::check_float(shadow, "ema_lerp", "shadow");
  check_same_buffer(online, shadow, "ema_lerp", "online");
  dispatch_f32_f64(shadow.dtype(), "ema_lerp", [&]<class Elem>() {
    kernels::lerp_towards<Elem>(shadow.data<Elem>(), online.data<Elem>(), 1 - decay, detail::buffer_elements(shadow));
  });
  shadow.bump_version();
}

GradNorm grad_norm(std::span<const Tensor> grads) {
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

double clip_factor(double norm, double max_norm) { return std::min(1.0, max_norm / (norm + 1e-6)); }

}  // namespace avid
