// tensor/ops/adam.h -- the optimiser's passes: one Adam step, the running average of weights, the gradient norm
#pragma once

#include <cstdint>
#include <span>

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
/// Dtypes   f32 or f64, one for all.
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
/// Undefined tensors count as zeros. Same bits for any thread count. f32 or f64.
GradNorm grad_norm(std::span<const Tensor> grads);

/// min(1, max_norm / (norm + 1e-6)): what clipping to `max_norm` multiplies all gradients by (pixel.md 7.1).
double clip_factor(double norm, double max_norm);

}  // namespace avid
