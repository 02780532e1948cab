// kernels/device/temporal_fused_bwd.h -- what the fused backward kernels of temporal attention do with rows of a head
//
// The kernels differ in how rows are multiplied with weights: temporal_attention_fused_bwd.cu,
// temporal_attention_fused_bwd_wgmma.cu. Either way a warp gets blocks of 16 rows as C fragments, and hands gradients
// on as A fragments (temporal_fused_fwd.h). `Shape` says kPair, kTokens (frames), kLogits (of a pixel and head) and
// kBiasCopies (of the sums of d_bias: a warp's own for 8 frames, or the block's).
#pragma once

#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels::AVID_GPU {

/// The rotary code of a lane's rows, channels of tiles j and j + 1. Both rows of a pair of pixels are of one frame.
template <bool kPair>
struct LaneAngles {
  float4 of_row[kPair ? 1 : 2];  ///< cosine and sine in tile j, then in tile j + 1

  /// `angles`: those of row g; of row g + 8 they lie 8 frames further on.
  AVID_DEVICE void load(const float4* angles, int j) {
#pragma unroll
    for (int half = 0; half < (kPair ? 1 : 2); ++half) of_row[half] = angles[2 * j + half * 4 * kAnglePitch];
  }
  AVID_DEVICE float2 operator()(int tile, int half) const {
    const float4& angle = of_row[kPair ? 0 : half];
    return tile == 0 ? make_float2(angle.x, angle.y) : make_float2(angle.z, angle.w);
  }
};

/// Logits of a block of 16 rows from its products with keys 0 - 7 and with keys 8 - 15. A pair of pixels has half of
/// either.
template <bool kPair>
AVID_DEVICE TokenLogits block_logits(const float (&first)[4], const float (&second)[4]) {
  TokenLogits s = {};
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    s.v[0][0][e] = first[e], s.v[1][1][e] = second[2 + e];
    if (!kPair) s.v[1][0][e] = first[2 + e], s.v[0][1][e] = second[e];
  }
  return s;
}

/// a b^T of a block of 16 rows.
template <bool kPair, int kHeadTiles, int kMost>
AVID_DEVICE TokenLogits packed_products(const RowTiles<kMost>& a, const RowTiles<kMost>& b) {
  float first[4] = {}, second[4] = {};
#pragma unroll
  for (int k = 0; k < kHeadTiles / 2; ++k) {
    const std::uint32_t left[4] = {a[2 * k][0], a[2 * k][1], a[2 * k + 1][0], a[2 * k + 1][1]};
    const std::uint32_t b0[2] = {b[2 * k][0], b[2 * k + 1][0]}, b1[2] = {b[2 * k][1], b[2 * k + 1][1]};
    mma_bf16_16x8x16(first, left, b0, first);
    mma_bf16_16x8x16(second, left, b1, second);
  }
  if constexpr (kHeadTiles % 2 == 1) {
    constexpr int j = kHeadTiles - 1;
    const std::uint32_t left[2] = {a[j][0], a[j][1]}, b0[1] = {b[j][0]}, b1[1] = {b[j][1]};
    mma_bf16_16x8x8(first, left, b0, first);
    mma_bf16_16x8x8(second, left, b1, second);
  }
  return block_logits<kPair>(first, second);
}

/// What a tile of 8 channels of r = d_y (w_out w_v) adds for a block: d_h += P^T r, and for a pair of pixels, whose
/// rows have 8 keys of their own, d_p += r h^T. `r`: rows g and g + 8; `keys`: h, rows 0 - 7 and 8 - 15.
template <bool kPair>
AVID_DEVICE void add_value_tile(
    float (&d_h)[4], float (&d_p)[4], const std::uint32_t (&prob_turned)[4], const std::uint32_t (&r)[2],
    const std::uint32_t (&keys)[2]) {
  if constexpr (kPair) {
    // The channels of both pixels are two halves of a step of 16: no product is without use.
    const std::uint32_t apart[4] = {r[0], 0u, 0u, r[1]};
    mma_bf16_16x8x16(d_p, apart, keys, d_p);
  }
  const std::uint32_t tokens[2] = {movmatrix(r[0]), movmatrix(r[1])};
  mma_bf16_16x8x16(d_h, prob_turned, tokens, d_h);
}

/// d_p += r h^T of one pixel of 16 frames, one tile of 8 channels or two: d_p [keys 0 - 7, keys 8 - 15][C fragment],
/// r [tile][half], keys [tile, rows 0 - 7 and 8 - 15].
template <int kCount>
AVID_DEVICE void add_key_products(float (&d_p)[2][4], const std::uint32_t (&r)[2][2], const std::uint32_t (&keys)[4]) {
#pragma unroll
  for (int of_keys = 0; of_keys < 2; ++of_keys) {
    float(&sum)[4] = d_p[of_keys];
    if constexpr (kCount == 2) {
      const std::uint32_t left[4] = {r[0][0], r[0][1], r[1][0], r[1][1]};
      const std::uint32_t right[2] = {keys[of_keys], keys[2 + of_keys]};
      mma_bf16_16x8x16(sum, left, right, sum);
    } else {
      const std::uint32_t left[2] = {r[0][0], r[0][1]}, right[1] = {keys[of_keys]};
      mma_bf16_16x8x8(sum, left, right, sum);
    }
  }
}

/// From d_p, the gradient of the probabilities of a block, to that of its logits: times `scale` as left operand `m`
/// and, transposed, `turned`; without it added to `sum` (BiasSums::add).
template <bool kPair>
AVID_DEVICE void logit_gradients(
    std::uint32_t (&m)[4], std::uint32_t (&turned)[4], float (&sum)[2][2][2], const TokenLogits& prob,
    const float (&d_p)[2][4], float scale) {
  TokenLogits d = block_logits<kPair>(d_p[0], d_p[kPair ? 0 : 1]);
  softmax_tokens_bwd<kPair>(prob, d);
#pragma unroll
  for (int query = 0; query < 2; ++query) {
#pragma unroll
    for (int key = 0; key < 2; ++key) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (kPair && query != key) continue;
        sum[kPair ? 0 : query][kPair ? 0 : key][e] += d.v[query][key][e];
        d.v[query][key][e] *= scale;  // once here instead of on q and all of d_q and d_k
      }
    }
  }
  logits_fragment<kPair>(m, d);
  transpose_fragment<kPair>(turned, m);
}

/// One tile of d = M x of a block, through the inverse rotary code: the gradient of q (x is k) or k (x is q). `tile`:
/// x, the lane's rows g and g + 8; v: which of the two tiles that `angle` is of.
template <bool kPair>
AVID_DEVICE void head_gradient(
    std::uint32_t (&packed)[2], const std::uint32_t (&m)[4], const std::uint32_t (&tile)[2], bool turns,
    const LaneAngles<kPair>& angle, int v) {
  const std::uint32_t b[2] = {movmatrix(tile[0]), movmatrix(tile[1])};
  float c[4] = {};
  mma_bf16_16x8x16(c, m, b, c);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float u = c[2 * half], w = c[2 * half + 1];
    if (turns) {
      const float2 turn = angle(v, half);
      const float turned = u * turn.x + w * turn.y;
      w = w * turn.x - u * turn.y;
      u = turned;
    }
    packed[half] = pack_bf16x2(u, w);
  }
}

/// Stands for the number of a row that does not exist.
constexpr unsigned kNoRow = ~0u;

/// Where a head's gradient of q or k lies in the lane's rows of `to`: whole groups of 16 channels from column whole_at
/// on, what is left of `width` channels from rest_at on. (Row numbers: pointers would take four times the registers.)
struct StoredGradient {
  bf16* to;
  unsigned pitch;
  int whole_at, rest_at, width;
};

/// Stores tiles j and j + 1 of 8 channels (or tile j alone) of the lane's two rows of a block: [tile][row].
template <int kHeadTiles>
AVID_DEVICE void store_tiles(
    const StoredGradient& at, int j, const std::uint32_t (&packed)[2][2], const unsigned* row, int t) {
  const int to_rest = at.rest_at - at.whole_at - at.width / 16 * 16;  // from where a channel would lie among the groups
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const unsigned number = row[half * 8];
    if (number == kNoRow) continue;
    bf16* const group = at.to + (std::size_t{number} * at.pitch + at.whole_at + 4 * t) + j * 8;
    if (j + 1 == kHeadTiles) {  // alone: the lane has channels 2 t and 2 t + 1
      if (j * 8 + 2 * t < at.width) *reinterpret_cast<std::uint32_t*>(group + (to_rest - 2 * t)) = packed[0][half];
    } else if (j * 8 + 16 <= fewest_channels(kHeadTiles) || j * 8 + 16 <= at.width) {
      *reinterpret_cast<uint2*>(group) = make_uint2(packed[0][half], packed[1][half]);
    } else {
#pragma unroll
      for (int v = 0; v < 2; ++v)
        if (j * 8 + 4 * t + 2 * v < at.width)
          *reinterpret_cast<std::uint32_t*>(group + (to_rest + 2 * v)) = packed[v][half];
    }
  }
}

/// Stores the probabilities of a head for the pixels of a block of 16 rows (TemporalFusedGrads::prob). `m`: as a left
/// operand; `matrix`: the number of the first pixel's, that of a second one is `heads` more.
template <class Shape>
AVID_DEVICE void store_probabilities(
    bf16* prob, const std::uint32_t (&m)[4], unsigned matrix, int heads, const unsigned* row, int lane) {
  if constexpr (Shape::kPair) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (row[half * 8] != kNoRow)
        reinterpret_cast<std::uint32_t*>(prob)[std::size_t{matrix + half * heads} * 32 + lane] = m[3 * half];
  } else if (row[0] != kNoRow) {
    uint2* const to = reinterpret_cast<uint2*>(prob) + std::size_t{matrix} * 64 + lane;
    to[0] = make_uint2(m[0], m[2]), to[32] = make_uint2(m[1], m[3]);
  }
}

/// The sum over a block's warps, whose shares lie `width` apart.
AVID_DEVICE float sum_of_warps(const float* from, int width) {
  return ((from[0] + from[width]) + from[2 * width]) + from[3 * width];
}

/// Where the lane's logit of query g and key 2t lies among those of a pixel. (2 lane is the same for 8 frames.)
template <class Shape>
AVID_DEVICE int own_logit(int lane) {
  return Shape::kPair ? lane * 2 : lane / 4 * Shape::kTokens + lane % 4 * 2;
}

/// Sums of the gradients of logits over a block's pixels, [head][query][key]. Of 8 frames every warp has its own; those
/// of 16 are four times as many and the block's: its warps lay down their shares of one head, and all add them.
template <class Shape>
struct BiasSums {
  static constexpr int kLogits = Shape::kLogits;
  float* shares;  ///< of 16 frames: of a head, [warp][query][key]
  float* sums;    ///< [warp][head][query][key], of 16 frames without warps
  int N;

  AVID_DEVICE BiasSums(SharedArena& arena, int N)
      : shares(arena.take<float>(Shape::kPair ? 0 : 4 * kLogits, "d_bias of a head")),
        sums(arena.take<float>(Shape::kBiasCopies * N * kLogits, "sums of d_bias")),
        N(N) {
    for (int e = threadIdx.x; e < Shape::kBiasCopies * N * kLogits; e += kFusedThreads) sums[e] = 0;
  }

  /// The lane's share of a head: [query g, g + 8][keys from 2t, from 2t + 8][key + 0, + 1], of 8 frames [0][0] only.
  AVID_DEVICE void add(const float (&d)[2][2][2], int warp, int head, int own_logit) {
    if constexpr (Shape::kPair) {
      float* const own = sums + warp * N * kLogits + own_logit;
      own[head * kLogits] += d[0][0][0];
      own[head * kLogits + 1] += d[0][0][1];
    } else {
      float* const own = shares + warp * kLogits + own_logit;
#pragma unroll
      for (int query = 0; query < 2; ++query) {
#pragma unroll
        for (int key = 0; key < 2; ++key)
          *reinterpret_cast<float2*>(own + query * 8 * Shape::kTokens + key * 8) =
              make_float2(d[query][key][0], d[query][key][1]);
      }
    }
  }
  /// Behind a barrier: adds up what the warps laid down. Another barrier comes before they do so again.
  AVID_DEVICE void collect(int head) {
    if constexpr (!Shape::kPair) {
#pragma unroll
      for (int from = 0; from < kLogits; from += kFusedThreads) {
        const int e = from + static_cast<int>(threadIdx.x);
        sums[head * kLogits + e] += sum_of_warps(shares + e, kLogits);
      }
    }
  }
  /// Behind the last barrier: the block's sum of logit e of all heads'.
  AVID_DEVICE float of_block(int e) const { return Shape::kPair ? sum_of_warps(sums + e, N * kLogits) : sums[e]; }
};

/// Zeros in a row of `to` from column `from` up to the next multiple of 16.
AVID_DEVICE void zero_row_gaps(const Rows<bf16>& to, unsigned row, int from, int t) {
#pragma unroll
  for (int c = 2 * t; c < 16; c += 8)
    if (row != kNoRow && c < (16 - from % 16) % 16) *reinterpret_cast<std::uint32_t*>(to.row(row) + from + c) = 0u;
}

/// Calls f(row of the warp's kWarpRows, chunk, number of the row, whether that chunk exists) for each of kChunks chunks
/// of the lane's rows, every eighth, that is the lane's own.
template <int kWarpRows, int kChunks, class F>
AVID_DEVICE void for_own_chunks(const unsigned* row, int chunks, int g, int t, const F& f) {
#pragma unroll
  for (int pass = 0; pass < kWarpRows / 8; ++pass) {
    const unsigned number = row[pass * 8];
#pragma unroll
    for (int c = 0; c < kChunks; c += 4) {
      if (c + 4 > kChunks && c + t >= kChunks) break;
      f(pass * 8 + g, c + t, number, number != kNoRow && (c + 4 <= fewest_tiles(kChunks) || c + t < chunks));
    }
  }
}

/// The first `count` channels of a chunk, zeros behind them.
AVID_DEVICE uint4 first_channels(const uint4& chunk, int count) {
  const auto keep = [&](std::uint32_t pair, int from) {
    return from + 1 < count ? pair : from < count ? pair & 0xffffu : 0u;
  };
  return make_uint4(keep(chunk.x, 0), keep(chunk.y, 2), keep(chunk.z, 4), keep(chunk.w, 6));
}

/// Through the norm, in place of x in shared memory: d_x = rstd (q - mean(q) - xh mean(q xh)) + d_y with q = d_h gamma,
/// and d_gamma += d_h xh over the warp's rows, kBlocks times 16. `x`, `d_y`: the warp's first row, with kPitch elements
/// from a row to the next, kChunkPitch from a chunk to the next; `moments`: mean and 1 / deviation.
template <int kPitch, int kChunkPitch, int kBlocks, int kTiles>
AVID_DEVICE void norm_gradient(
    const float (&d_h)[kBlocks][kTiles][4], bf16* x, const bf16* d_y, const float2* moments, const float* gamma,
    float* d_gamma, float inverse_C, int g, int t) {
  constexpr int kStep = kChunkPitch / 2;  // words
  float shares[kTiles][2] = {};
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = i * 16 + half * 8 + g;
      const float2 m = moments[r];
      auto* const row = reinterpret_cast<std::uint32_t*>(x + r * kPitch) + t;
      const auto* const d_row = reinterpret_cast<const std::uint32_t*>(d_y + r * kPitch) + t;
      const auto normalised = [&](int j) {
        const float2 v = unpack_bf16x2(row[kStep * j]);
        return make_float2((v.x - m.x) * m.y, (v.y - m.x) * m.y);
      };
      float sum_q = 0, sum_q_xh = 0;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const float2 xh = normalised(j), factor = *reinterpret_cast<const float2*>(gamma + j * 8 + 2 * t);
        const float first = d_h[i][j][2 * half], second = d_h[i][j][2 * half + 1];
        shares[j][0] = fmaf(first, xh.x, shares[j][0]);
        shares[j][1] = fmaf(second, xh.y, shares[j][1]);
        sum_q += first * factor.x + second * factor.y;
        sum_q_xh += first * factor.x * xh.x + second * factor.y * xh.y;
      }
      const float mean_q = quad_sum(sum_q) * inverse_C, mean_q_xh = quad_sum(sum_q_xh) * inverse_C;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const float2 xh = normalised(j), factor = *reinterpret_cast<const float2*>(gamma + j * 8 + 2 * t);
        const float2 residual = unpack_bf16x2(d_row[kStep * j]);
        const auto of = [&](float d, float gamma_c, float xh_c, float residual_c) {
          return fmaf(m.y, d * gamma_c - mean_q - xh_c * mean_q_xh, residual_c);
        };
        row[kStep * j] = pack_bf16x2(
            of(d_h[i][j][2 * half], factor.x, xh.x, residual.x),
            of(d_h[i][j][2 * half + 1], factor.y, xh.y, residual.y));
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int o = 4; o < 32; o <<= 1) shares[j][e] += __shfl_xor_sync(0xffffffffu, shares[j][e], o);
      if (g == 0) d_gamma[j * 8 + 2 * t + e] += shares[j][e];
    }
  }
}

/// Behind the last barrier: the block's sums for d_bias and d_gamma, a row of either's partial sums. `d_gamma`: [warp]
/// [channel], `channels` of each.
template <class Shape>
AVID_DEVICE void write_partials(
    const TemporalFusedGrads& grads, const BiasSums<Shape>& bias_sums, const float* d_gamma, int channels, int N,
    int C) {
  constexpr int kLogits = Shape::kLogits;
  if (grads.d_bias_partials)
    for (int e = threadIdx.x; e < N * kLogits; e += kFusedThreads)
      grads.d_bias_partials[std::int64_t{blockIdx.x} * N * kLogits + e] = bias_sums.of_block(e);
  if (grads.d_gamma_partials)
    for (int e = threadIdx.x; e < C; e += kFusedThreads)
      grads.d_gamma_partials[std::int64_t{blockIdx.x} * C + e] = sum_of_warps(d_gamma + e, channels);
}

/// Launches a backward kernel, whose tiles are Shape::kPixels pixels. std::invalid_argument, which begins with `name`,
/// for more rows than their numbers can count.
template <class Shape, class Kernel>
void launch_fused_bwd(
    const char* name, Kernel kernel, const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  const std::int64_t tiles = (p.B * p.S + Shape::kPixels - 1) / Shape::kPixels;
  if (p.B * p.S * Shape::kTokens >= kNoRow)
    throw std::invalid_argument(std::string(name) + ": expected fewer than 2^32 rows in a chunk");
  constexpr std::int64_t kTileRows = Shape::kPixels * Shape::kTokens;
  launch(
      kernel, dim3(static_cast<unsigned>(temporal_fused_partials(p.B, p.T, p.S, kTileRows, p.most_blocks))),
      dim3(kFusedThreads), static_cast<std::size_t>(Shape::shared_bytes(static_cast<int>(p.N))), stream, p, g,
      static_cast<unsigned>(tiles), 1.0f / std::sqrt(static_cast<float>(p.D)), 1.0f / static_cast<float>(p.C));
}

}  // namespace avid::kernels::AVID_GPU
