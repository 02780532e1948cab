// kernels/adam.h -- the optimiser's passes over buffers: Adam, running average, sum of squares (contract:
// tensor/ops/adam.h)
#pragma once

#include <cstdint>

namespace avid::kernels {

/// The numbers of one Adam step, the same for all parameters.
struct AdamStep {
  double lr = 0;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;                  ///< decoupled: param *= 1 - lr * weight_decay first
  double correction1 = 1, correction2 = 1;  ///< 1 - beta1^n and 1 - beta2^n, n counting this step
  double grad_scale = 1;                    ///< multiplies every gradient (clipping, loss scale)
};

// Elem is float or double; n counts whole buffers, gaps included (zero in all of them, and staying zero).

/// One step in place. A null grad counts as zeros.
template <class Elem>
void adam_step(const AdamStep& step, Elem* param, const Elem* grad, Elem* m, Elem* v, std::int64_t n);
/// shadow += share * (online - shadow)
template <class Elem>
void lerp_towards(Elem* shadow, const Elem* online, double share, std::int64_t n);
/// sum of x^2 in f64, chunks in order: same bits for any thread count. Infinite or NaN if some x is.
template <class Elem>
double sum_of_squares(const Elem* x, std::int64_t n);

}  // namespace avid::kernels
