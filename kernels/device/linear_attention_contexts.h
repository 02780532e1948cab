// kernels/device/linear_attention_contexts.h -- pass 1 of linear attention forward: what it sums over positions
//
// For bf16 and heads of 32 channels. Per head, with h = prenorm(x), as in the backward pass: v occurs in a linear
// expression only, so it is never formed.
//
// Sums    g = sum_s exp(k_s - max) h_s^T [32, C], with the maximum and the sum of exponentials of each channel of k. A
//         block has a slab of a frame and up to eight heads, a warp one of them (HeadSums), or four with two warps each
//         (more than 104 channels); h in tiles of 64 positions
// Fold    per frame and head: context = (g / sum) w_v^T, and m[c, i] = D^-1/2 sum_j w_out[c, j] context[i, j], by which
//         the second pass multiplies. A block a head, everything but the warps' shares of the context in registers; g
//         and the context as two bf16 (2^-17)
//         Where a backward pass is to come, g / sum and the log of the sums are kept for it
//         On a device of compute capability 9.0 linear_attention_sums_wgmma.cu does the sums
// Traffic x once for eight heads; per head and slab 13 KB of g at 100 channels, written and read
// Shared  28 KB at 100 channels, 50 KB at 200
#pragma once

#include "kernels/device/linear_attention_head.h"
#include "kernels/device/linear_attention_sums.h"

namespace avid::kernels::AVID_GPU {

constexpr int kContextWarps = 8;  ///< of a block of pass 1, at most

struct LinearContexts {
  int S, C, N;
  int slab, slabs;  ///< positions of a slab, slabs of a frame
  int width;        ///< C rounded up to 8
  float scale;
  Rows<const BFloat16> x, w_qkv, w_out;
  const float* gamma;
  float* partial;    ///< [F,slabs,N][32*width + 64]: g, maxima, sums
  BFloat16* folded;  ///< [F,width,N*32]: m
  float* key_sums;   ///< as in AttentionBlockDeviceArgs, or null

  AVID_DEVICE float* partial_of(std::int64_t frame, int slab, int head) const {
    return partial + ((frame * slabs + slab) * N + head) * (32 * width + 64);
  }
};

/// With 13 chunks registers do not suffice on compute capability 9.0 (16 bytes spill).
template <int kN>
constexpr bool contexts_spare = kN == 13;
static_assert(kSpareThreads == 32 * kContextWarps);

/// Grid F * slabs * groups of `heads` heads, each with kShares warps.
template <int kN>
__global__ void __launch_bounds__(32 * kContextWarps, 1)
    linear_attention_sums_kernel(LinearContexts p, int heads, int groups) {
  using Tile = LinearBwdTile<kN>;
  constexpr int kTileElems = kSumsTile * Tile::kPitch;
  SharedArena arena;
  bf16* h_tiles = arena.take<bf16>(2 * kTileElems, "h");
  float4* gamma = arena.take<float4>(kN * 2, "gamma");
  constexpr bool kSpare = contexts_spare<kN>;
  float* spare = kSpare ? arena.take<float>(kSpareWords * kSpareThreads, "spare") : nullptr;
  const std::int64_t slab_of_all = blockIdx.x / groups, frame = slab_of_all / p.slabs;
  const int slab = static_cast<int>(slab_of_all % p.slabs);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int head = static_cast<int>(blockIdx.x % groups) * heads + warp / Tile::kShares;
  const int first_channel = warp % Tile::kShares * 16;  // of the head
  const int begin = slab * p.slab, end = min(p.S, begin + p.slab);

  // A warp copies the rows that it will normalise: four at a time.
  const auto copy_tile = [&](int t0, int buffer) {
    for (int four = warp; four < kSumsTile / 4; four += warps)
#pragma unroll 1  // there are no registers for more
      for (int i = lane; i < 4 * kN; i += 32) {
        const int r = four * 4 + i / kN, c = i % kN * 8;
        const bool exists = t0 + r < end && c < p.C;
        cp_async_16(
            h_tiles + buffer * kTileElems + r * Tile::kPitch + c, exists ? p.x.row(frame * p.S + t0 + r) + c : p.x.data,
            exists);
      }
    cp_async_commit();
  };
  copy_tile(begin, 0);
  for (int c = threadIdx.x; c < kN * 8; c += blockDim.x) put_coefficient<kN>(gamma, c, c < p.C ? p.gamma[c] : 0.0f);
  HeadSums<kN, kSpare> sums;
  if (head < p.N) sums.load_weights(p.w_qkv, p.C, (p.N + head) * 32 + first_channel, spare);
  __syncthreads();
  int buffer = 0;
  for (int t0 = begin; t0 < end; t0 += kSumsTile, buffer ^= 1) {
    bf16* h = h_tiles + buffer * kTileElems;
    cp_async_wait<0>();
    __syncwarp();
    for (int four = warp; four < kSumsTile / 4; four += warps)
      normalise_copied_row<kN>(p.C, lane % 8, h + (four * 4 + lane / 8) * Tile::kPitch, gamma);
    __syncthreads();  // the other buffer is free once all warps are here
    if (t0 + kSumsTile < end) copy_tile(t0 + kSumsTile, buffer ^ 1);
    if (head >= p.N) continue;
#pragma unroll 1
    for (int first = 0; first < min(kSumsTile, end - t0); first += 32)
      sums.add_k(h + first * Tile::kPitch, end - t0 - first, spare);
  }
  if (head >= p.N) return;
  float* out = p.partial_of(frame, slab, head);
  sums.store(out + first_channel * p.width, p.width);
  sums.store_softmax(out + 32 * p.width + first_channel, spare);
}

constexpr int kFoldWarps = 4;

/// A block a head of a frame: context, then m. Grid F * N. A warp has a quarter of the columns that the context is
/// summed over, and then of the rows of m; what the warps have of the context is added in their order.
///
/// Both products are of tensor cores, with the f32 operand as two bf16 (linear_attention_head.h); the other is weights,
/// which are bf16. Row 8 q + g of the context, and column 8 q + 2t + e of either product, is head_channel of it: so the
/// context lies as the right operand of the second, and a lane gets eight neighbouring channels of a row of m.
template <int kBlocks>
__global__ void __launch_bounds__(128, kBlocks) linear_attention_fold_kernel(LinearContexts p) {
  AVID_SHARED(float, shares, [kFoldWarps][32][32]);
  const std::int64_t task = blockIdx.x, frame = task / p.N;
  const int head = static_cast<int>(task % p.N), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int g = lane / 4, t = lane % 4;
  const std::int64_t step = std::int64_t{p.N} * (32 * p.width + 64);
  const float *const partial = p.partial_of(frame, 0, head), *const maxima = partial + 32 * p.width;
  float* const kept = p.key_sums != nullptr ? p.key_sums + task * linear_attention_sums_of_head(p.C) : nullptr;
  float top[4], factor[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const int i = head_channel(8 * q + g);
    const SlabSoftmax softmax(maxima + i, maxima + 32 + i, step, p.slabs);
    top[q] = softmax.top, factor[q] = 1.0f / softmax.total;
    if (kept != nullptr && warp == 0 && t == 0) kept[32 * p.width + i] = softmax.top + logf(softmax.total);
  }
  float context[2][4][4] = {};
#pragma unroll 1
  for (int c = 16 * warp + 4 * t; c < p.width + 4 * t; c += 16 * kFoldWarps) {  // the lane's four of 16 columns
    std::uint32_t high[2][4] = {}, low[2][4] = {};
    uint2 w_v[4] = {};
    if (c < p.width) {
      float4 sum[4] = {};
      for (int slab = 0; slab < p.slabs; ++slab) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const int i = head_channel(8 * q + g);
          const float weight = factor[q] * __expf(maxima[slab * step + i] - top[q]);
          const float4 v = *reinterpret_cast<const float4*>(partial + slab * step + i * p.width + c);
          sum[q].x = fmaf(v.x, weight, sum[q].x), sum[q].y = fmaf(v.y, weight, sum[q].y);
          sum[q].z = fmaf(v.z, weight, sum[q].z), sum[q].w = fmaf(v.w, weight, sum[q].w);
        }
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int i = head_channel(8 * q + g);
        if (kept != nullptr) *reinterpret_cast<float4*>(kept + i * p.width + c) = sum[q];
        split_bf16x2(sum[q].x, sum[q].y, high[q / 2][q % 2], low[q / 2][q % 2]);
        split_bf16x2(sum[q].z, sum[q].w, high[q / 2][q % 2 + 2], low[q / 2][q % 2 + 2]);
        w_v[q] = *reinterpret_cast<const uint2*>(p.w_qkv.row((2 * p.N + head) * 32 + i) + c);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const std::uint32_t b[2] = {w_v[n].x, w_v[n].y};
        mma_bf16_16x8x16(context[m][n], low[m], b, context[m][n]);
        mma_bf16_16x8x16(context[m][n], high[m], b, context[m][n]);
      }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) shares[warp][16 * m + 4 * n + e][lane] = context[m][n][e];
  __syncthreads();
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < kFoldWarps; ++w) sum += shares[w][16 * m + 4 * n + e][lane];
        context[m][n][e] = sum;
      }
  std::uint32_t high[4][4], low[4][4];  // right operands: [tile of m's columns][two of the inner dimension's eights]
#pragma unroll
  for (int q = 0; q < 4; ++q)
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float* pair = context[q / 2][n] + q % 2 * 2;
      split_bf16x2(pair[0] * p.scale, pair[1] * p.scale, high[q][n], low[q][n]);
    }
#pragma unroll 1
  for (int c = 16 * warp + g; c < p.width + g; c += 16 * kFoldWarps) {  // rows c and c + 8 of m
    uint4 w_o[2] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (c + 8 * half < p.C)
        w_o[half] = *reinterpret_cast<const uint4*>(p.w_out.row(c + 8 * half) + head * 32 + 8 * t);
    const std::uint32_t a[2][4] = {{w_o[0].x, w_o[1].x, w_o[0].y, w_o[1].y}, {w_o[0].z, w_o[1].z, w_o[0].w, w_o[1].w}};
    float m[4][4] = {};
#pragma unroll
    for (int u = 0; u < 2; ++u)
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const std::uint32_t b_low[2] = {low[q][2 * u], low[q][2 * u + 1]};
        const std::uint32_t b_high[2] = {high[q][2 * u], high[q][2 * u + 1]};
        mma_bf16_16x8x16(m[q], a[u], b_low, m[q]);
        mma_bf16_16x8x16(m[q], a[u], b_high, m[q]);
      }
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (c + 8 * half < p.width)
        *reinterpret_cast<uint4*>(p.folded + ((frame * p.width + c + 8 * half) * p.N + head) * 32 + 8 * t) = make_uint4(
            pack_bf16x2(m[0][2 * half], m[0][2 * half + 1]), pack_bf16x2(m[1][2 * half], m[1][2 * half + 1]),
            pack_bf16x2(m[2][2 * half], m[2][2 * half + 1]), pack_bf16x2(m[3][2 * half], m[3][2 * half + 1]));
  }
}

/// Queues pass 1 on wgmma instead of linear_attention_sums_kernel (linear_attention_sums_wgmma.cu). Hosts ask
/// have_wgmma() first.
void linear_attention_sums_wgmma(const Stream& stream, const LinearContexts& p, std::int64_t frames);

}  // namespace avid::kernels::AVID_GPU
