// kernels/device/tile_products.h -- fragments of a warp's tile and their products, for two-byte and four-byte elements
//
// A step of the inner dimension is two chunks of 16 bytes: 16 bf16 or 8 f32. An 8x8 block of 16-bit elements is at the
// same time 8 rows of four 32-bit elements, so one ldmatrix serves both types (registers: docs/simulator.md).
#pragma once

#include "kernels/device/gpu.h"

namespace avid::kernels::AVID_GPU {

/// N registers of one operand. f32 is kept as two TF32 numbers, the upper bits and the next ones: v (1 - 2^-21) at
/// least.
template <class Elem, int N>
struct Fragment;

template <int N>
struct Fragment<bf16, N> {
  std::uint32_t r[N];
  AVID_DEVICE void set(int i, std::uint32_t v) { r[i] = v; }
};

template <int N>
struct Fragment<float, N> {
  std::uint32_t high[N], low[N];
  AVID_DEVICE void set(int i, std::uint32_t v) { set(i, __uint_as_float(v)); }
  AVID_DEVICE void set(int i, float v) {
    // Cut, not rounded: three operations instead of the eleven that two roundings take.
    high[i] = __float_as_uint(v) & 0xffffe000u;
    low[i] = __float_as_uint(v - __uint_as_float(high[i])) & 0xffffe000u;
  }
};

/// acc += a b in the tensor core's accumulator, for sums of up to 64 terms: tensor cores cut their sums towards zero,
/// so that an f32 sum loses 1e-6 over 64 terms there, and 1e-4 over 7200.
AVID_DEVICE void multiply_add_short(float (&acc)[4], const Fragment<bf16, 4>& a, const Fragment<bf16, 2>& b) {
  mma_bf16_16x8x16(acc, a.r, b.r, acc);
}
/// Three products of the halves; low x low is below f32's last bit. The small ones first.
AVID_DEVICE void multiply_add_short(float (&acc)[4], const Fragment<float, 4>& a, const Fragment<float, 2>& b) {
  mma_tf32_16x8x8(acc, a.low, b.high, acc);
  mma_tf32_16x8x8(acc, a.high, b.low, acc);
  mma_tf32_16x8x8(acc, a.high, b.high, acc);
}

/// acc += a b for sums of any length. f32: a step is summed from zero and added here, rounded: 1e-6 over 7200 terms.
AVID_DEVICE void multiply_add(float (&acc)[4], const Fragment<bf16, 4>& a, const Fragment<bf16, 2>& b) {
  multiply_add_short(acc, a, b);
}
AVID_DEVICE void multiply_add(float (&acc)[4], const Fragment<float, 4>& a, const Fragment<float, 2>& b) {
  float step[4] = {};
  multiply_add_short(step, a, b);
#pragma unroll
  for (int e = 0; e < 4; ++e) acc[e] += step[e];
}

/// One chunk of f32 results as Elem, rounded once.
AVID_DEVICE void store_chunk(float* to, const float* from) {
  *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(from);
}
AVID_DEVICE void store_chunk(bf16* to, const float* from) {
  *reinterpret_cast<uint4*>(to) = make_uint4(
      pack_bf16x2(from[0], from[1]), pack_bf16x2(from[2], from[3]), pack_bf16x2(from[4], from[5]),
      pack_bf16x2(from[6], from[7]));
}
AVID_DEVICE void load_chunk(float* to, const float* from) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
AVID_DEVICE void load_chunk(float* to, const bf16* from) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_bf16x2(words[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

}  // namespace avid::kernels::AVID_GPU
