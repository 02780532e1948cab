// kernels/device/linear_attention_contexts.h -- pass 1 of linear attention forward: what it sums over positions
//
// For bf16 and heads of 32 channels. Per head, with h = prenorm(x), as in the backward pass: v occurs in a linear
// expression only, so it is never formed.
//
// Sums    g = sum_s exp(k_s - max) h_s^T [32, C], with the maximum and the sum of exponentials of each channel of k. A
//         block has a slab of a frame and up to eight heads, a warp one of them (HeadSums); h in tiles of 64 positions
// Fold    per frame and head: context = (g / sum) w_v^T, and m[c, i] = D^-1/2 sum_j w_out[c, j] context[i, j], by which
//         the second pass multiplies. On FP32 units: a thread owns 2 x 2 of context, then 4 x 4 of m
// Traffic x once for eight heads; per head and 1024 positions 13 KB of g at 100 channels, written and read
// Shared  28 KB and 44 KB at 100 channels
#pragma once

#include "kernels/device/linear_attention_sums.h"

namespace avid::kernels::AVID_GPU {

constexpr int kHeadsPerBlock = 8;  ///< in pass 1
constexpr int kContextPitch = 36;  ///< floats of a row of a 32 x 32 matrix in shared memory

struct LinearContexts {
  int S, C, N, slabs;
  int width;  ///< C rounded up to 8
  float scale;
  Rows<const BFloat16> x, w_qkv, w_out;
  const float* gamma;
  float* partial;    ///< [F,slabs,N][32*width + 64]: g, maxima, sums
  BFloat16* folded;  ///< [F,width,N*32]: m

  AVID_DEVICE float* partial_of(std::int64_t frame, int slab, int head) const {
    return partial + ((frame * slabs + slab) * N + head) * (32 * width + 64);
  }
};

/// With 13 chunks registers do not suffice on compute capability 9.0 (16 bytes spill).
template <int kN>
constexpr bool contexts_spare = kN == 13;
static_assert(kSpareThreads == 32 * kHeadsPerBlock);

/// Grid F * slabs * groups of `heads` heads; a warp a head.
template <int kN>
__global__ void __launch_bounds__(32 * kHeadsPerBlock, 1)
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
  const int head = static_cast<int>(blockIdx.x % groups) * heads + warp;
  const int begin = slab * kTwoPassSlab, end = min(p.S, begin + kTwoPassSlab);

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
  if (head < p.N) sums.load_weights(p.w_qkv, p.C, (p.N + head) * 32, spare);
  __syncthreads();
  int buffer = 0;
  for (int t0 = begin; t0 < end; t0 += kSumsTile, buffer ^= 1) {
    bf16* h = h_tiles + buffer * kTileElems;
    cp_async_wait<0>();
    __syncwarp();
    for (int four = warp; four < kSumsTile / 4; four += warps)
      normalise_copied_rows<kN>(p.C, h + four * 4 * Tile::kPitch, gamma);
    __syncthreads();  // the other buffer is free once all warps are here
    if (t0 + kSumsTile < end) copy_tile(t0 + kSumsTile, buffer ^ 1);
    if (head >= p.N) continue;
#pragma unroll 1
    for (int first = 0; first < min(kSumsTile, end - t0); first += 32)
      sums.add_k(h + first * Tile::kPitch, end - t0 - first, spare);
  }
  if (head >= p.N) return;
  float* out = p.partial_of(frame, slab, head);
  sums.store(out, p.width);
  sums.store_softmax(out + 32 * p.width, spare);
}

/// d += column[e] * row for four rows e of a 4 x 4 piece.
AVID_DEVICE void add_outer(float (&d)[4][4], const float* column, const float4& row) {
  const float4 four = *reinterpret_cast<const float4*>(column);
  const float of[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    d[e][0] = fmaf(of[e], row.x, d[e][0]);
    d[e][1] = fmaf(of[e], row.y, d[e][1]);
    d[e][2] = fmaf(of[e], row.z, d[e][2]);
    d[e][3] = fmaf(of[e], row.w, d[e][3]);
  }
}
/// d += column[e] * row[n] for an 8 x 8 piece.
AVID_DEVICE void add_outer8(float (&d)[8][8], const float* column, const float* row) {
  float of[8], by[8];
#pragma unroll
  for (int half = 0; half < 8; half += 4) {
    const float4 c = *reinterpret_cast<const float4*>(column + half), r = *reinterpret_cast<const float4*>(row + half);
    of[half] = c.x, of[half + 1] = c.y, of[half + 2] = c.z, of[half + 3] = c.w;
    by[half] = r.x, by[half + 1] = r.y, by[half + 2] = r.z, by[half + 3] = r.w;
  }
#pragma unroll
  for (int e = 0; e < 8; ++e)
#pragma unroll
    for (int n = 0; n < 8; ++n) d[e][n] = fmaf(of[e], by[n], d[e][n]);
}
AVID_DEVICE float dot4(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// The weights of softmax over the slabs of a channel of k: `maxima` and `sums` of slab s lie s * step floats further.
struct SlabSoftmax {
  float top = -__FLT_MAX__, total = 0;
  AVID_DEVICE SlabSoftmax(const float* maxima, const float* sums, std::int64_t step, int slabs) {
    for (int s = 0; s < slabs; ++s) top = fmaxf(top, maxima[s * step]);
    for (int s = 0; s < slabs; ++s) total = fmaf(sums[s * step], __expf(maxima[s * step] - top), total);
  }
};

/// The weights of a head in f32, a block's work: w_v[i] is row i of those of v, w_o[j] the weights of out of channel j;
/// [32] rows, `pitch` apart, zero behind channel C. Args: LinearContexts or LinearBwd.
template <int kThreads, class Args>
AVID_DEVICE void load_head_weights(const Args& p, int head, float* w_v, float* w_o, int pitch) {
  for (int e = threadIdx.x; e < 32 * p.width; e += kThreads) {
    const int i = e / p.width, c = e % p.width;
    w_v[i * pitch + c] = c < p.C ? to_float(p.w_qkv.row((2 * p.N + head) * 32 + i)[c]) : 0.0f;
  }
  for (int e = threadIdx.x; e < 32 * p.width; e += kThreads) {
    const int c = e / 32, j = e % 32;
    w_o[j * pitch + c] = c < p.C ? to_float(p.w_out.row(c)[head * 32 + j]) : 0.0f;
  }
}

/// Grid (F, N).
template <int kThreads>
__global__ void __launch_bounds__(kThreads, 2) linear_attention_fold_kernel(LinearContexts p) {
  static_assert(kThreads == 256);
  const int pitch = p.width + 4, quads = p.width / 4, head = static_cast<int>(blockIdx.y);
  const std::int64_t frame = blockIdx.x, step = std::int64_t{p.N} * (32 * p.width + 64);
  SharedArena arena;
  float* g = arena.take<float>(32 * pitch, "g");
  float* w_v = arena.take<float>(32 * pitch, "w_v");
  float* w_o = arena.take<float>(32 * pitch, "w_o");
  float* context_t = arena.take<float>(32 * kContextPitch, "context^T");
  const float* partial = p.partial_of(frame, 0, head);
  for (int e = threadIdx.x; e < 32 * quads; e += kThreads) {
    const int i = e / quads, c = e % quads * 4;
    const float* maxima = partial + 32 * p.width + i;
    const SlabSoftmax softmax(maxima, maxima + 32, step, p.slabs);
    float4 sum = make_float4(0, 0, 0, 0);
    for (int s = 0; s < p.slabs; ++s) {
      const float factor = __expf(maxima[s * step] - softmax.top);
      const float4 v = *reinterpret_cast<const float4*>(partial + s * step + i * p.width + c);
      sum.x = fmaf(v.x, factor, sum.x), sum.y = fmaf(v.y, factor, sum.y);
      sum.z = fmaf(v.z, factor, sum.z), sum.w = fmaf(v.w, factor, sum.w);
    }
    const float factor = p.scale / softmax.total;
    *reinterpret_cast<float4*>(g + i * pitch + c) =
        make_float4(sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor);
  }
  load_head_weights<kThreads>(p, head, w_v, w_o, pitch);
  __syncthreads();
  {  // lanes are 8 rows of g by 4 of w_v: either is one pass through shared memory
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int i0 = warp % 2 * 8 + lane % 8, j0 = warp / 2 * 4 + lane / 8;  // and 16 further
    float context[2][2] = {};
    for (int c = 0; c < p.width; c += 4) {
      const auto at = [&](const float* matrix, int r) {
        return *reinterpret_cast<const float4*>(matrix + r * pitch + c);
      };
      const float4 of_g[2] = {at(g, i0), at(g, i0 + 16)}, v[2] = {at(w_v, j0), at(w_v, j0 + 16)};
#pragma unroll
      for (int a = 0; a < 2; ++a)
#pragma unroll
        for (int b = 0; b < 2; ++b) context[a][b] = dot4(of_g[a], v[b], context[a][b]);
    }
#pragma unroll
    for (int a = 0; a < 2; ++a)
#pragma unroll
      for (int b = 0; b < 2; ++b) context_t[(j0 + 16 * b) * kContextPitch + i0 + 16 * a] = context[a][b];
  }
  __syncthreads();
  const int i0 = threadIdx.x % 8 * 4, c0 = threadIdx.x / 8 * 4;
  if (c0 >= p.width) return;
  float m[4][4] = {};  // [c][i]
#pragma unroll 4
  for (int j = 0; j < 32; ++j)
    add_outer(m, w_o + j * pitch + c0, *reinterpret_cast<const float4*>(context_t + j * kContextPitch + i0));
#pragma unroll
  for (int e = 0; e < 4; ++e)
    *reinterpret_cast<uint2*>(p.folded + ((frame * p.width + c0 + e) * p.N + head) * 32 + i0) =
        make_uint2(pack_bf16x2(m[e][0], m[e][1]), pack_bf16x2(m[e][2], m[e][3]));
}

}  // namespace avid::kernels::AVID_GPU
