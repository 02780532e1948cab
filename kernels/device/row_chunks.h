// kernels/device/row_chunks.h -- eight channels of a row at a time, in registers, and their coefficients
//
// Rows start at 16-byte boundaries; what a chunk holds behind the last channel is read as stored (zero) or as zero.
#pragma once

#include "kernels/device/gpu.h"

namespace avid::kernels::AVID_GPU {

/// Eight neighbouring channels as they lie in memory.
template <class Elem>
struct Chunk8;
template <>
struct Chunk8<BFloat16> {
  uint4 bits;
};
template <>
struct Chunk8<float> {
  float4 low, high;
};

/// The chunk at p, of which `valid` channels exist; zeros when valid <= 0. Nothing behind the row's pitch is touched.
AVID_DEVICE Chunk8<BFloat16> load_chunk(const BFloat16* p, int valid) {
  return {valid > 0 ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0)};
}
AVID_DEVICE Chunk8<float> load_chunk(const float* p, int valid) {
  const float4 zero = make_float4(0, 0, 0, 0);
  return {
      valid > 0 ? *reinterpret_cast<const float4*>(p) : zero,
      valid > 4 ? *reinterpret_cast<const float4*>(p + 4) : zero};
}

AVID_DEVICE void unpack(const Chunk8<BFloat16>& chunk, float (&v)[8]) {
  const std::uint32_t words[4] = {chunk.bits.x, chunk.bits.y, chunk.bits.z, chunk.bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_bf16x2(words[i]);
    v[2 * i] = pair.x;
    v[2 * i + 1] = pair.y;
  }
}
AVID_DEVICE void unpack(const Chunk8<float>& chunk, float (&v)[8]) {
  v[0] = chunk.low.x, v[1] = chunk.low.y, v[2] = chunk.low.z, v[3] = chunk.low.w;
  v[4] = chunk.high.x, v[5] = chunk.high.y, v[6] = chunk.high.z, v[7] = chunk.high.w;
}

/// Stores eight channels, of which `valid` exist; the rest of the pitched row is written as zero.
template <class Elem>
AVID_DEVICE void store_chunk(Elem* p, float (&v)[8], int valid) {
  if (valid <= 0) return;
  if (valid < 8) {
#pragma unroll
    for (int i = 1; i < 8; ++i) v[i] = i < valid ? v[i] : 0.0f;  // not a product with 0: a NaN row keeps zero gaps
  }
  if constexpr (sizeof(Elem) == 2) {
    *reinterpret_cast<uint4*>(p) =
        make_uint4(pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]), pack_bf16x2(v[4], v[5]), pack_bf16x2(v[6], v[7]));
  } else {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
    if (valid > 4) *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
  }
}

AVID_DEVICE void store_elem(float* p, float v) { *p = v; }
AVID_DEVICE void store_elem(BFloat16* p, float v) { *p = to_bf16(v); }

/// Eight f32 coefficients per chunk in shared memory, halves apart so that neighbouring lanes read neighbouring 16
/// bytes.
template <int kChunks>
AVID_DEVICE void put_coefficient(float4* table, int channel, float value) {
  const int chunk = channel / 8, e = channel % 8;
  reinterpret_cast<float*>(table)[((e / 4) * kChunks + chunk) * 4 + e % 4] = value;
}
template <int kChunks>
AVID_DEVICE void get_coefficients(const float4* table, int chunk, float (&v)[8]) {
  const float4 low = table[chunk], high = table[kChunks + chunk];
  v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

/// The sum over groups of L neighbouring lanes, in all of them. Whole warps only.
template <int L>
AVID_DEVICE float lane_sum(float v) {
#pragma unroll
  for (int o = 1; o < L; o <<= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

/// Adds what lanes hold of the same channels (lane l of L: chunks l, l + L ... of row_lanes.h) over the 32 / L rows of
/// a warp, in all lanes. Whole warps only.
template <int L, int K>
AVID_DEVICE void sum_over_rows(float (&v)[K][8]) {
#pragma unroll
  for (int j = 0; j < K; ++j) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
#pragma unroll
      for (int o = L; o < 32; o <<= 1) v[j][e] += __shfl_xor_sync(0xffffffffu, v[j][e], o);
    }
  }
}

struct RowMoments {
  float mean, rstd;
};

/// Mean and 1 / sqrt(var + eps) of a row in registers: lane l of L holds chunks l, l + L ... (row_lanes.h).
template <int L, int K, class Elem>
AVID_DEVICE RowMoments row_moments(const Chunk8<Elem> (&x)[K], int lane, int C, float eps) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < K; ++j) {
    float v[8];
    unpack(x[j], v);
#pragma unroll
    for (int e = 0; e < 8; ++e) sum += v[e];
  }
  const float mean = lane_sum<L>(sum) / static_cast<float>(C);
  float squares = 0;
#pragma unroll
  for (int j = 0; j < K; ++j) {
    const int valid = C - (lane + j * L) * 8;
    float v[8];
    unpack(x[j], v);
#pragma unroll
    for (int e = 0; e < 8; ++e) squares += e < valid ? (v[e] - mean) * (v[e] - mean) : 0.0f;
  }
  return {mean, rsqrtf(lane_sum<L>(squares) / static_cast<float>(C) + eps)};
}

}  // namespace avid::kernels::AVID_GPU
