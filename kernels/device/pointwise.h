// kernels/device/pointwise.h -- what the element-wise kernels share: 16 bytes at a time, one grid over n items, block
// sums
//
// Activation rows start at 16-byte boundaries and are multiples of 16 bytes long, so that a row is a whole number of
// packs and the gap behind its last channel is inside the last pack.
#pragma once

#include "kernels/device/gpu.h"

namespace avid::kernels::AVID_GPU {

inline constexpr int kPointwiseBlock = 256;  ///< threads of a block of the element-wise kernels

/// Elements in 16 bytes: 4 f32 or 8 bf16.
template <class Elem>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(Elem));

AVID_DEVICE void load_pack(const float* p, float (&v)[4]) {
  const float4 pack = *reinterpret_cast<const float4*>(p);
  v[0] = pack.x, v[1] = pack.y, v[2] = pack.z, v[3] = pack.w;
}
AVID_DEVICE void load_pack(const BFloat16* p, float (&v)[8]) {
  const uint4 pack = *reinterpret_cast<const uint4*>(p);
  const std::uint32_t words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_bf16x2(words[i]);
    v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
  }
}
AVID_DEVICE void store_pack(float* p, const float (&v)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
}
AVID_DEVICE void store_pack(BFloat16* p, const float (&v)[8]) {
  *reinterpret_cast<uint4*>(p) =
      make_uint4(pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]), pack_bf16x2(v[4], v[5]), pack_bf16x2(v[6], v[7]));
}

/// v rounded to Elem.
template <class Elem>
AVID_DEVICE Elem to_elem(float v) {
  if constexpr (sizeof(Elem) == 2) {
    return to_bf16(v);
  } else {
    return v;
  }
}

/// 1 / (1 + exp(-x)); 0 and 1 at the infinities, NaN for NaN.
AVID_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// Number of this thread in a one-dimensional grid, and of all threads.
AVID_DEVICE std::int64_t grid_index() { return std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
AVID_DEVICE std::int64_t grid_threads() { return std::int64_t{gridDim.x} * blockDim.x; }

/// The sum over a block of kPointwiseBlock threads, in thread 0 only: lanes in a tree, then the warps in order. All
/// threads call it; `scratch` holds kPointwiseBlock / 32 numbers and is free again after the next barrier.
template <class Number>
AVID_DEVICE Number block_sum_to_first(Number v, Number* scratch) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_down_sync(0xffffffffu, v, o);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < kPointwiseBlock / 32; ++w) v += scratch[w];
  return v;
}

/// Blocks for one thread per item.
inline std::int64_t blocks_for(std::int64_t items) { return (items + kPointwiseBlock - 1) / kPointwiseBlock; }

/// Queues a kernel with one thread per item (and some more); nothing when there are none.
template <class... P, class... A>
void launch_items(void (*kernel)(P...), std::int64_t items, const Stream& stream, A&&... args) {
  if (items <= 0) return;
  launch(
      kernel, dim3(static_cast<unsigned>(blocks_for(items))), dim3(kPointwiseBlock), 0, stream,
      std::forward<A>(args)...);
}

}  // namespace avid::kernels::AVID_GPU
