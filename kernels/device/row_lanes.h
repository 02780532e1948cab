// kernels/device/row_lanes.h -- rows of channels in registers: L lanes hold a row, each lane K chunks of 8 channels
//
// Lane l of a row holds chunks l, l + L, l + 2L ... (channels 8c .. 8c+7 of chunk c). A warp holds 32/L rows, so a
// sum over a row is K * 8 additions in a thread and log2 L shuffles; no shared memory, one read of every element.
// Rows start at 16-byte boundaries; what a chunk holds behind the last channel is read as stored (zero) or as zero.
#pragma once

#include "kernels/device/gpu.h"

namespace avid::kernels::AVID_GPU {

inline constexpr int kRowBlock = 256;  ///< threads of a block of the row kernels

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

struct RowMoments {
  float mean, rstd;
};

/// Mean and 1 / sqrt(var + eps) of a row in registers.
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

/// The sum over a block of kRowBlock threads, in all of them; `scratch` holds kRowBlock / 32 floats. Two barriers.
AVID_DEVICE float block_sum(float v, float* scratch) {
  v = lane_sum<32>(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kRowBlock / 32; ++w) sum += scratch[w];
  return sum;
}

/// Adds the column sums of a block's lanes in a fixed order (lanes of a warp, then warps) and writes them to
/// `partial` ([W] with W = chunks * 8 floats). `scratch` holds kRowBlock / 32 * L * K * 8 floats. Two barriers.
template <int L, int K>
AVID_DEVICE void store_column_sums(float (&sums)[K][8], float* scratch, float* partial, int chunks) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int j = 0; j < K; ++j)
#pragma unroll
    for (int e = 0; e < 8; ++e) {
#pragma unroll
      for (int o = L; o < 32; o <<= 1) sums[j][e] += __shfl_xor_sync(0xffffffffu, sums[j][e], o);
    }
  __syncthreads();
  if (lane < L) {
#pragma unroll
    for (int j = 0; j < K; ++j)
#pragma unroll
      for (int e = 0; e < 8; ++e) scratch[(warp * L * K + lane + j * L) * 8 + e] = sums[j][e];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < chunks * 8; i += kRowBlock) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kRowBlock / 32; ++w) sum += scratch[w * L * K * 8 + i];
    partial[i] = sum;
  }
}

/// out[c] = sum over rows of in[r,c], c < width: 8 rows at a time, then the 8 in order. Launch: sum_rows().
template <int kGroups>
__global__ void __launch_bounds__(32 * kGroups)
    sum_rows_kernel(const float* in, std::int64_t rows, std::int64_t pitch, int width, float* out) {
  AVID_SHARED(float, sums, [kGroups][32]);
  const int c = static_cast<int>(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  if (c < width)
    for (std::int64_t r = threadIdx.y; r < rows; r += kGroups) sum += in[r * pitch + c];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= width) return;
  for (int g = 1; g < kGroups; ++g) sum += sums[g][threadIdx.x];
  out[c] = sum;
}

/// Queues out[c] = sum_r in[r,c] in a fixed order; zeros when there are no rows.
inline void sum_rows(
    const Stream& stream, const float* in, std::int64_t rows, std::int64_t pitch, std::int64_t width, float* out) {
  constexpr int kGroups = 16;
  if (width == 0) return;
  launch(
      sum_rows_kernel<kGroups>, dim3(static_cast<unsigned>((width + 31) / 32)), dim3(32, kGroups), 0, stream, in, rows,
      pitch, static_cast<int>(width), out);
}

/// The widest row that the register kernels hold.
inline constexpr int kMaxLaneChannels = 1024;

/// Calls f.operator()<L, K>() with lanes and chunks for rows of C <= kMaxLaneChannels channels. Few shapes: f32 is
/// the path of comparisons, bf16 the one people train with.
template <class Elem, class F>
void with_row_lanes(std::int64_t C, F&& f) {
  if constexpr (sizeof(Elem) == 2) {
    if (C <= 64) return f.template operator()<8, 1>();
    if (C <= 128) return f.template operator()<8, 2>();
    if (C <= 192) return f.template operator()<8, 3>();
    if (C <= 256) return f.template operator()<16, 2>();
    if (C <= 384) return f.template operator()<16, 3>();
  } else {
    if (C <= 128) return f.template operator()<8, 2>();
    if (C <= 384) return f.template operator()<16, 3>();
  }
  f.template operator()<32, 4>();
}

}  // namespace avid::kernels::AVID_GPU
