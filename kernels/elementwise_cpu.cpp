// kernels/elementwise_cpu.cpp -- activations, sum, multiple
//
// Math       silu(x) = x s,  s = 1 / (1 + exp(-x));   silu'(x) = s (1 + x (1 - s))
//            gelu(x) = x Phi(x), Phi(x) = erfc(-x / sqrt 2) / 2;   gelu'(x) = Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
// Layout     flat buffers; gaps are zero and stay zero, as every function maps 0 to 0
// Numerics   erfc, not 1 + erf: the latter cancels for negative x. f32 exp as in kernels/vec_math.h.
// Open       gelu calls the library per element: it only sees the embedding MLPs
#include "kernels/elementwise.h"

#include <cmath>
#include <numbers>

#include "kernels/vec_math.h"

namespace avid::kernels {
namespace {

constexpr std::int64_t kParallelFrom = 32768;  // elements; below, waking a thread costs more than it saves

template <class Elem>
Elem gaussian_cdf(Elem x) {
  return std::erfc(-x * static_cast<Elem>(1 / std::numbers::sqrt2)) / 2;
}

}  // namespace

template <class Elem>
void silu_fwd(const Elem* __restrict__ x, Elem* __restrict__ out, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (n >= kParallelFrom)
  for (std::int64_t i = 0; i < n; ++i) out[i] = silu_of(x[i]);
}

template <class Elem>
void silu_bwd(const Elem* __restrict__ x, const Elem* __restrict__ d_out, Elem* __restrict__ d_x, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (n >= kParallelFrom)
  for (std::int64_t i = 0; i < n; ++i) {
    const Elem s = sigmoid_of(x[i]);
    d_x[i] = d_out[i] * s * (1 + x[i] * (1 - s));
  }
}

template <class Elem>
void gelu_fwd(const Elem* x, Elem* out, std::int64_t n) {
#pragma omp parallel for schedule(static) if (n >= kParallelFrom)
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * gaussian_cdf(x[i]);
}

template <class Elem>
void gelu_bwd(const Elem* x, const Elem* d_out, Elem* d_x, std::int64_t n) {
  constexpr Elem kDensityAtZero = static_cast<Elem>(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
#pragma omp parallel for schedule(static) if (n >= kParallelFrom)
  for (std::int64_t i = 0; i < n; ++i)
    d_x[i] = d_out[i] * (gaussian_cdf(x[i]) + x[i] * kDensityAtZero * exp_of(-x[i] * x[i] / 2));
}

template <class Elem>
void add_fwd(const Elem* a, const Elem* b, Elem* __restrict__ out, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (n >= kParallelFrom)
  for (std::int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

template <class Elem>
void scale_fwd(const Elem* __restrict__ x, Elem factor, Elem* __restrict__ out, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (n >= kParallelFrom)
  for (std::int64_t i = 0; i < n; ++i)
    out[i] = factor * x[i] + 0;  // + 0: a negative factor must not leave -0 in the gaps
}

template <class Elem>
void clamp_unit(Elem* x, std::int64_t n) {
#pragma omp parallel for simd schedule(static) if (n >= kParallelFrom)
  for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] < Elem{-1} ? Elem{-1} : x[i] > Elem{1} ? Elem{1} : x[i];
}

template <class Elem>
bool all_finite(const Elem* x, std::int64_t n) {
  // x - x is 0 for finite x and NaN otherwise; the sum keeps a NaN.
  Elem sum = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : sum) if (n >= kParallelFrom)
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] - x[i];
  return sum == 0;
}

#define AVID_INSTANTIATE(Elem)                                                 \
  template void silu_fwd<Elem>(const Elem*, Elem*, std::int64_t);              \
  template void silu_bwd<Elem>(const Elem*, const Elem*, Elem*, std::int64_t); \
  template void gelu_fwd<Elem>(const Elem*, Elem*, std::int64_t);              \
  template void gelu_bwd<Elem>(const Elem*, const Elem*, Elem*, std::int64_t); \
  template void add_fwd<Elem>(const Elem*, const Elem*, Elem*, std::int64_t);  \
  template void scale_fwd<Elem>(const Elem*, Elem, Elem*, std::int64_t);       \
  template void clamp_unit<Elem>(Elem*, std::int64_t);                         \
  template bool all_finite<Elem>(const Elem*, std::int64_t);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(double)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
