// tensor/ops/adam.h -- the optimiser's passes: one Adam step, the running average of weights, the gradient norm
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace avid {

struct AdamStepOptions {
  double lr = 1e-4;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;     ///< decoupled (AdamW); 0 is plain Adam
  std::int64_t num_steps = 1;  ///< steps taken, this one included: the n of the bias corrections
  double grad_scale = 1;       ///< multiplies every gradient, for clipping
};

/// One Adam step, in place, over whole buffers.
///
///   g = grad_scale * grad;   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
///   param = param (1 - lr weight_decay) - lr m / (1 - beta1^n) / (sqrt(v / (1 - beta2^n)) + eps)
///
/// Shapes   all of one shape; an undefined grad counts as zeros.
/// Dtypes   f32 or f64, one for all; f32 on a device.
/// Errors   ShapeError, DTypeError, before anything changes; ConfigError for num_steps < 1.
/// Cost     memory bound: reads 4, writes 3 numbers per element.
/// Source   Kingma and Ba 2015, Algorithm 1; Loshchilov and Hutter 2019 for the decay; pixel.md 7.1. Deviations: none.
void adam_step(Tensor& param, const Tensor& grad, Tensor& m, Tensor& v, const AdamStepOptions& options);

/// shadow += (1 - decay) (online - shadow), in place (pixel.md 7.2). Same shape and dtype, f32 or f64.
void ema_lerp(Tensor& shadow, const Tensor& online, double decay);

/// The global L2 norm of a set of gradients.
struct GradNorm {
  double norm = 0;                     ///< sqrt of the sum of squares, f64, tensors in order
  std::int64_t first_non_finite = -1;  ///< index of the first tensor with an infinity or NaN, -1 when all are finite
};
/// Undefined tensors count as zeros. Same bits for any thread count. f32 or f64; f32 on a device, which it waits for.
GradNorm grad_norm(std::span<const Tensor> grads);

/// min(1, max_norm / (norm + 1e-6)): what clipping to `max_norm` multiplies all gradients by (pixel.md 7.1).
double clip_factor(double norm, double max_norm);

/// One parameter of adam_update(). An undefined grad counts as zeros, an undefined average or shadow is left out.
struct AdamParameter {
  Tensor param = {}, grad = {}, m = {}, v = {};
  Tensor average = {};  ///< running average of param, as it was before each step
  Tensor shadow = {};   ///< bf16: what kernels read; written after every applied step. Devices only
};

struct AdamUpdateOptions {
  double lr = 1e-4;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;
  double max_norm = 1;                      ///< of all gradients together
  std::vector<double> average_decays = {};  ///< see below; 1 leaves the averages alone, 0 copies
  Tensor numbers = {};  ///< on a device: lr and average_decays are read from here, when the device gets to it
  Tensor losses = {};   ///< f32 [n]: no step is taken either when one of them is not finite. Devices only
};

/// How an update went.
struct AdamOutcome {
  double norm = 0;                     ///< of all gradients, before clipping
  std::int64_t first_non_finite = -1;  ///< the first parameter whose gradient is not finite, their number when it is a
                                       ///< loss: then no parameter and no moment changed
  std::int64_t num_steps = 0;          ///< applied steps so far
  double clip_scale = 1;               ///< of the last applied step
};

/// First the averages move, once for every decay d: average = d average + (1 - d) param. Then clip the norm of all
/// gradients to max_norm, and one Adam step of all parameters; no step when some gradient is infinite or NaN.
///
/// On a device three kernels do all of it, whatever the number of parameters, and the host does not wait: the decision
/// is made there, and the outcome stays there until read_adam_state() is called. On the CPU it is ema_lerp(),
/// grad_norm() and adam_step(). The `state` carries the number of steps from update to update.
///
/// Shapes   as in adam_step().
/// Dtypes   f32 or f64, f32 on a device; shadow bf16.
/// Errors   ShapeError, DTypeError, DeviceError, before anything changes.
void adam_update(std::span<AdamParameter> parameters, const AdamUpdateOptions& options, Tensor& state);
/// Rate and decays in a device's memory, [1 + decays.size()] f64; for recorded work (tensor/device_graph.h).
Tensor make_adam_numbers(double lr, std::span<const double> decays, Device device);
/// New values in the same place; as many decays as before.
void set_adam_numbers(Tensor& numbers, double lr, std::span<const double> decays);
/// The state of adam_update() after `num_steps` steps, on the parameters' device.
Tensor make_adam_state(std::int64_t num_steps, Device device);
/// Waits for the device.
AdamOutcome read_adam_state(const Tensor& state);

}  // namespace avid
