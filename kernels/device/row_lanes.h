// kernels/device/row_lanes.h -- rows of channels in registers: L lanes hold a row, each lane K chunks of 8 channels
//
// Lane l of a row holds chunks l, l + L, l + 2L ... (channels 8c .. 8c+7 of chunk c). A warp holds 32/L rows, so a
// sum over a row is K * 8 additions in a thread and log2 L shuffles; no shared memory, one read of every element.
// Chunks themselves: row_chunks.h.
#pragma once

#include "kernels/device/row_chunks.h"

namespace avid::kernels::AVID_GPU {

inline constexpr int kRowBlock = 256;  ///< threads of a block of the row kernels

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
  sum_over_rows<L>(sums);
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
