// kernels/vec_math.h -- exp, sigmoid, silu and log of f32 that GCC vectorises inside `#pragma omp simd` loops
//
// Plain inline arithmetic and bit casts, no calls, no tables, no branches: the compiler turns a loop over them into
// SIMD of whatever width the target has, without -ffast-math. Bounds are the largest errors found over the whole range
// against f64 (tests/kernels/vec_math_test.cpp repeats the search).
//
//   exp_f32      1.1 ULP, subnormal results included; exp(-inf) = 0, exp(x > 88.73) = inf, NaN stays NaN
//   sigmoid_f32  2.6 ULP for x >= -87; stays at 1.6e-38 below
//   silu_f32     2.6 ULP for x >= -87; x * 1.6e-38 below, so -inf at -inf
//   log_f32      0.9 ULP for normal positive x; nothing else is checked (0, subnormals, inf and NaN give rubbish)
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace avid::kernels {

/// 2^n for n in [-126, 127], by writing the exponent field.
inline float exp2_int(std::int32_t n) { return std::bit_cast<float>((n + 127) << 23); }

/// x clamped to [low, high], low < 0 < high, for any x but NaN, which becomes one of the bounds.
inline float clamp_around_zero(float x, float low, float high) {
  // Bit patterns instead of comparisons: GCC makes two SIMD minima of this, but seven instructions of float
  // comparisons. As unsigned numbers, only negative floats beyond `low` exceed its pattern; as signed ones, only
  // positive floats beyond `high`.
  std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  bits = std::min(bits, std::bit_cast<std::uint32_t>(low));
  return std::bit_cast<float>(std::min(static_cast<std::int32_t>(bits), std::bit_cast<std::int32_t>(high)));
}

inline float exp_f32(float any_x) {
  const float x = clamp_around_zero(any_x, -104.0f, 89.0f);  // 0 below, inf above
  // n = round(x / ln 2): adding 1.5 * 2^23 leaves the integer in the low mantissa bits.
  const float shifted = std::fma(x, 1.44269504088896341f, 12582912.0f);
  const std::int32_t n = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(12582912.0f);
  const float whole = shifted - 12582912.0f;
  // ln 2 as the nearest f32 and the rest; the fused multiply-add makes the first subtraction exact.
  float r = std::fma(whole, -0.693147182464599609375f, x);
  r = std::fma(whole, 1.90465429995776e-9f, r);  // |r| <= ln(2) / 2
  // Minimax polynomial of (exp(r) - 1 - r) / r^2.
  float p = 1.9875691500e-4f;
  p = std::fma(p, r, 1.3981999507e-3f);
  p = std::fma(p, r, 8.3334519073e-3f);
  p = std::fma(p, r, 4.1665795894e-2f);
  p = std::fma(p, r, 1.6666665459e-1f);
  p = std::fma(p, r, 5.0000001201e-1f);
  p = std::fma(p, r * r, r) + 1.0f;
  // Two factors, so that both overflow and gradual underflow happen by themselves (n reaches -150 and 128).
  const std::int32_t half = n >> 1;
  const float result = p * exp2_int(half) * exp2_int(n - half);
  return any_x != any_x ? any_x : result;
}

/// exp of x clamped to [-86, 87], where no result (nor its reciprocal) is subnormal or infinite; half the work of
/// exp_f32. NaN gives some finite number: callers combine the result with x.
inline float exp_clamped_f32(float x) {
  x = clamp_around_zero(x, -86.0f, 87.0f);
  const float shifted = std::fma(x, 1.44269504088896341f, 12582912.0f);  // reduction and polynomial as in exp_f32
  const float whole = shifted - 12582912.0f;
  float r = std::fma(whole, -0.693147182464599609375f, x);
  r = std::fma(whole, 1.90465429995776e-9f, r);
  float p = 1.3814583858886894e-3f;  // minimax for relative error of the whole, 0.05 ULP
  p = std::fma(p, r, 8.368723943681385e-3f);
  p = std::fma(p, r, 4.166838873310273e-2f);
  p = std::fma(p, r, 1.6666520573485505e-1f);
  p = std::fma(p, r, 4.999999344386509e-1f);
  p = std::fma(p, r * r, r) + 1.0f;
  // Times 2^n: the low bits of `shifted` are n, moved up they add to the exponent field.
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(p) + (std::bit_cast<std::int32_t>(shifted) << 23));
}

/// 1 / (1 + exp(-x))
inline float sigmoid_f32(float x) {
  const float s = 1.0f / (1.0f + exp_clamped_f32(-x));
  return x != x ? x : s;
}
/// x / (1 + exp(-x))
inline float silu_f32(float x) { return x / (1.0f + exp_clamped_f32(-x)); }

/// log(1 + f) + exponent * ln 2 for f in [sqrt(1/2) - 1, sqrt(2) - 1]
inline float log1p_reduced_f32(float f, float exponent) {
  float p = 7.0376836292e-2f;
  p = std::fma(p, f, -1.1514610310e-1f);
  p = std::fma(p, f, 1.1676998740e-1f);
  p = std::fma(p, f, -1.2420140846e-1f);
  p = std::fma(p, f, 1.4249322787e-1f);
  p = std::fma(p, f, -1.6668057665e-1f);
  p = std::fma(p, f, 2.0000714765e-1f);
  p = std::fma(p, f, -2.4999993993e-1f);
  p = std::fma(p, f, 3.3333331174e-1f);
  const float f2 = f * f;
  float tail = p * f * f2;
  tail = std::fma(exponent, -2.12194440e-4f, tail);
  tail = std::fma(f2, -0.5f, tail);
  return std::fma(exponent, 0.693359375f, f + tail);
}

/// Natural logarithm of a normal positive number.
inline float log_f32(float x) {
  // Split at sqrt(1/2): x = 2^e * m with m in [sqrt(1/2), sqrt(2)).
  const std::int32_t bits = std::bit_cast<std::int32_t>(x) - 0x3f3504f3;
  const std::int32_t e = bits >> 23;
  const float m = std::bit_cast<float>((bits & 0x7fffff) + 0x3f3504f3);
  return log1p_reduced_f32(m - 1.0f, static_cast<float>(e));
}

// The same names for both element types, for code that is written once. f64 uses the library.
inline float exp_of(float x) { return exp_f32(x); }
inline double exp_of(double x) { return std::exp(x); }
inline float sigmoid_of(float x) { return sigmoid_f32(x); }
inline double sigmoid_of(double x) { return 1.0 / (1.0 + std::exp(-x)); }
inline float silu_of(float x) { return silu_f32(x); }
inline double silu_of(double x) { return x / (1.0 + std::exp(-x)); }

}  // namespace avid::kernels
