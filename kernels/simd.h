// kernels/simd.h -- one SIMD register of f32 as a C++ type (GCC vector extension), and moves between rows and lanes
//
// No intrinsics: the compiler lowers these to AVX-512 or AVX2, whichever the build targets.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/vec_math.h"

namespace avid::kernels {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#else
inline constexpr int kLanes = 8;
#endif

using Vec = float __attribute__((vector_size(kLanes * sizeof(float)), may_alias));
using Vec4 = float __attribute__((vector_size(4 * sizeof(float)), may_alias));

/// `p` is aligned to a whole Vec.
inline Vec load_vec(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store_vec(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline Vec4 load_vec4(const float* p) {
  Vec4 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void store_vec4(float* p, Vec4 v) { std::memcpy(p, &v, sizeof(v)); }

inline Vec max_vec(Vec a, Vec b) { return a > b ? a : b; }

inline Vec sqrt_vec(Vec v) {
  alignas(64) float lanes[kLanes];
  store_vec(lanes, v);
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) lanes[i] = std::sqrt(lanes[i]);
  return load_vec(lanes);
}

/// exp of every lane (kernels/vec_math.h states the error).
inline Vec exp_vec(Vec v) {
  alignas(64) float lanes[kLanes];
  store_vec(lanes, v);
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) lanes[i] = exp_f32(lanes[i]);
  return load_vec(lanes);  // GCC keeps all of this in one register
}

namespace detail {

/// Per 128-bit group: a0 b0 a1 b1, and a2 b2 a3 b3.
inline Vec interleave_low(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
#else
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
#endif
}
inline Vec interleave_high(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
#else
  return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
#endif
}
/// Per 128-bit group: a0 a1 b0 b1, and a2 a3 b2 b3.
inline Vec pair_low(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
#else
  return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
#endif
}
inline Vec pair_high(Vec a, Vec b) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
#else
  return __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
#endif
}

/// The 128-bit groups g[0], g[1], ... side by side.
inline Vec join(const Vec4* g) {
#if defined(__AVX512F__)
  const auto low = __builtin_shufflevector(g[0], g[1], 0, 1, 2, 3, 4, 5, 6, 7);
  const auto high = __builtin_shufflevector(g[2], g[3], 0, 1, 2, 3, 4, 5, 6, 7);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  return __builtin_shufflevector(g[0], g[1], 0, 1, 2, 3, 4, 5, 6, 7);
#endif
}
template <int kGroup>
Vec4 group(Vec v) {
  return __builtin_shufflevector(v, v, 4 * kGroup, 4 * kGroup + 1, 4 * kGroup + 2, 4 * kGroup + 3);
}

/// Transposes the 4x4 blocks that the same 128-bit group of four registers forms.
inline void transpose_groups(Vec v[4]) {
  const Vec ab_low = interleave_low(v[0], v[1]), ab_high = interleave_high(v[0], v[1]);
  const Vec cd_low = interleave_low(v[2], v[3]), cd_high = interleave_high(v[2], v[3]);
  v[0] = pair_low(ab_low, cd_low);
  v[1] = pair_high(ab_low, cd_low);
  v[2] = pair_low(ab_high, cd_high);
  v[3] = pair_high(ab_high, cd_high);
}

}  // namespace detail

/// Four channels of kLanes rows -> four registers, one per channel, rows in the lanes. rows[l] is the quad of lane l.
inline void rows_to_lanes(const Vec4 rows[kLanes], Vec channels[4]) {
  // Lane l = 4g + r must come from group g of register r after the transposition.
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    Vec4 quads[kLanes / 4];
    for (int g = 0; g < kLanes / 4; ++g) quads[g] = rows[4 * g + r];
    channels[r] = detail::join(quads);
  }
  detail::transpose_groups(channels);
}

/// The inverse of rows_to_lanes.
inline void lanes_to_rows(const Vec channels[4], Vec4 rows[kLanes]) {
  Vec v[4] = {channels[0], channels[1], channels[2], channels[3]};
  detail::transpose_groups(v);
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    rows[r] = detail::group<0>(v[r]);
    rows[4 + r] = detail::group<1>(v[r]);
#if defined(__AVX512F__)
    rows[8 + r] = detail::group<2>(v[r]);
    rows[12 + r] = detail::group<3>(v[r]);
#endif
  }
}

/// The sums over the lanes of four registers.
inline Vec4 sum_lanes(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = detail::interleave_low(a, b) + detail::interleave_high(a, b);  // a0+a2 b0+b2 a1+a3 b1+b3
  const Vec cd = detail::interleave_low(c, d) + detail::interleave_high(c, d);
  const Vec sums = detail::pair_low(ab, cd) + detail::pair_high(ab, cd);  // one group: a b c d
#if defined(__AVX512F__)
  return (detail::group<0>(sums) + detail::group<1>(sums)) + (detail::group<2>(sums) + detail::group<3>(sums));
#else
  return detail::group<0>(sums) + detail::group<1>(sums);
#endif
}

/// The largest lane.
inline float max_lane(Vec v) {
  float largest = v[0];
  for (int i = 1; i < kLanes; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

}  // namespace avid::kernels
