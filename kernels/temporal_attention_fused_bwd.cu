// kernels/temporal_attention_fused_bwd.cu -- temporal attention's backward pass in one kernel, but for the gradients of
// weights (contract: temporal_attention_fused.h)
//
// Math       kernels/temporal_attention_cpu.cpp. v and o occur in linear expressions only, so neither they nor their
//            gradients are formed: with M = w_out w_v of a head (`values`), C x C,
//              r = d_y M    d_P = r h^T    d_h = sum over heads of P^T r + d_q w_q + d_k w_k
//            then d_x by the norm's gradient (kernels/layer_norm.cu).
// Parallel   as in temporal_attention_fused.cu: tiles of 16 pixels x 8 frames or of 8 x 16, 4 warps of 32 rows, head
//            by head in registers: q and k are projected and packed to bf16 (56 registers at 56 channels); r comes 32
//            channels at a time (16 of rows of 104 channels and 16 frames, whose d_P takes twice the registers) and is
//            gone after its two products; d_q and d_k are stored and multiplied as they are made. d_h of all heads
//            stays in f32 (2 x 12 tiles at 96 channels). Weights stream through three buffers, those of q and k twice.
//            Behind the last head x comes in h's place in shared memory, and d_x in x's. 16 frames fill the products of
//            a block of 16 rows that two pixels of 8 fill by half: the products of a row are as many.
//            Blocks are persistent: each walks over tiles with a grid stride and sums the gradients of the bias and of
//            gamma per warp in shared memory. Sums of the bias for 16 frames would take 32 KB at 8 heads, and an H200's
//            multiprocessor would lose its second block: they are the block's, added head by head in the warps' order.
// Traffic    reads x (the second time from L2) and d_y, writes h, probabilities (2 T bytes of a row and head), d_q and
//            d_k, d_x once; all weights once per tile through L2. Heads without gaps, in whole sectors (StoredHeads):
//            at 6 heads of 50, 100 bytes of each in 4 sectors, not 112 in 7
// Numerics   h, q, k, w_out w_v, r, p, d_logits, d_q and d_k are rounded to bf16, sums in f32: d_h is not rounded. No
//            atomics.
// Limits     as forward; N <= 16 (sums of the bias in shared memory)
// Compiled   nvcc 13, sm_80 (sm_90), no spills: instructions per product in the loop over heads 5.7 (5.6) for up to
//            104 channels, 5.6, 7.3 (7.7), 13.2 (13.4) for 96, 56, 32, the store of an incomplete group beside that of
//            a whole one among them; 255, 255 (252), 216 (220), 168 registers. 16 frames: 6.0 (5.8), 5.8, 7.5 (7.9),
//            13.8 (14.0); 255, 255, 229 (232), 166 (163) registers
// Measured   never run on a GPU yet
// Predicted  an update of AVID 71M with 64 clips: 20.8 ms on an A100, 12.1 ms on an H200, where the kernel that also
//            stored d_v took 15.6 and 8.5 ms, and the product from d_qkv to d_x behind it 14.3 and 4.8. All of the
//            backward pass: 55.9 instead of 66.7 ms, and 25.7 instead of 27.0; of that 1.3 and 0.1 because the count
//            of traffic now sees where h ends. 16 frames, an update of the base with 8 clips: 22.9 instead of 41.1 ms
//            composed, and 10.8 instead of 14.9, for all of the backward pass; 8.3 and 4.7 of that here
// Lost       d_h's part of values beside d_q and d_k in memory, added by that product: 3 ms less on an A100, not 9.5.
//            Logits from fragments with the two pixels in the halves of a step (as d_P's are): quads of registers with
//            zeros, which spill
// Open       turning q, k and r costs two movmatrix for each product with an 8x8 matrix, and zeros beside it are moved
//            again and again: 0.7 MOV per product. On an A100 one block has a multiprocessor to itself
// Oracle     kernels/temporal_attention_cpu.cpp in f64, compared in tests/sim/temporal_attention_test.cpp
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <type_traits>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels {
namespace AVID_GPU {

template <int kFrames, int kTiles, int kHeadTiles>
struct FusedBwdShape : FusedTiles<kTiles, kHeadTiles> {
  using Tiles = FusedTiles<kTiles, kHeadTiles>;
  static constexpr int kTokens = kFrames;                  ///< of a pixel
  static constexpr bool kPair = kFrames == 8;              ///< two pixels in 16 rows
  static constexpr int kPixels = kFusedRows / kFrames;     ///< of a tile
  static constexpr int kBlockPixels = 16 / kFrames;        ///< of 16 rows
  static constexpr int kLogits = kFrames * kFrames;        ///< of a pixel and head
  static constexpr int kSlices = 4 + Tiles::kValueSlices;  ///< of weights: q, k, values, q and k
  static constexpr int kBiasCopies = kPair ? 4 : 1;        ///< of the sums of d_bias (BiasSums)
  static constexpr int kUnrolled = kTiles >= 7 ? 1 : Tiles::kSteps;
  static constexpr int kValueTiles = kPair || kTiles < 13 ? 4 : 2;  ///< of r at a time; more spill
  static constexpr int shared_bytes(int N) {
    return (2 * kFusedRows * Tiles::kRowPitch + kFusedStages * Tiles::kSlice) * 2 +
           (kBiasCopies * N + (kPair ? 0 : 4)) * kLogits * 4 + kFrames * kAnglePitch * 8 + kFusedRows * 12 +
           5 * kTiles * 8 * 4;
  }
};

/// 32 rows (two blocks i of 16) by 64 channels as bf16 pairs: [i][tile of 8 channels][row g or g + 8].
using PackedRows = std::uint32_t[2][8][2];
/// What the lane addresses in ldmatrix of 32 rows: in a step of 16 channels, and in one of 8.
struct LeftRows {
  shared_address whole, half;
};

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

/// q or k of a head: 32 rows of h times its weights, the rotary code, bf16.
template <class Shape, int kHeadTiles>
AVID_DEVICE void project_rotated(
    PackedRows& out, const LeftRows& h, shared_address weights, shared_address weights_half, const float4* angles) {
  HeadAccumulators acc;
  project_rows<Shape, kHeadTiles>(acc, h.whole, weights, h.half, weights_half);
  LaneAngles<Shape::kPair> angle = {};
#pragma unroll
  for (int j = 0; j < kHeadTiles; ++j) {
    if (j < 4 && j % 2 == 0) angle.load(angles, j);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x = acc[i][j][2 * half], y = acc[i][j][2 * half + 1];
        if (j < 4) {
          const float2 turn = angle(j % 2, half);
          const float turned = x * turn.x - y * turn.y;
          y = y * turn.x + x * turn.y;
          x = turned;
        }
        out[i][j][half] = pack_bf16x2(x, y);
      }
    }
  }
}

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
template <bool kPair, int kHeadTiles>
AVID_DEVICE TokenLogits packed_products(const std::uint32_t (&a)[8][2], const std::uint32_t (&b)[8][2]) {
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

/// d_P of 32 rows: [i][keys 0 - 7, keys 8 - 15][C fragment]. A pair of pixels, whose rows have 8 keys of their own,
/// uses [i][0] only.
using ProbGradients = float[2][2][4];

/// What passes through values, for kCount tiles of 8 channels from kFirst on: r = d_y (w_out w_v), d_p += r h^T,
/// d_h += P^T r. `weights` are rows kFirst * 8 and on of the values' slice.
template <class Shape, int kFirst, int kCount>
AVID_DEVICE void add_value_tiles(
    float (&d_h)[2][Shape::kChunks][4], ProbGradients& d_p, const std::uint32_t (&prob_turned)[2][4], const LeftRows& h,
    shared_address weights, shared_address weights_half) {
  constexpr std::uint32_t kToDy = kFusedRows * Shape::kRowPitch * 2;
  HeadAccumulators r;
  project_rows<Shape, kCount>(r, h.whole + kToDy, weights, h.half + kToDy, weights_half);
#pragma unroll
  for (int j = 0; j < kCount; j += 2) {
    std::uint32_t keys[2][4];  // h: [i][tile, rows 0 - 7 and 8 - 15]
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const shared_address at = h.whole + (i * 16 * Shape::kRowPitch + (kFirst + j) * 8) * 2;
      if (j + 1 < kCount) {
        ldmatrix_x4(keys[i], at);
      } else {
        std::uint32_t single[2];
        ldmatrix_x2(single, at);
        keys[i][0] = single[0], keys[i][1] = single[1];
      }
    }
    std::uint32_t packed[2][2][2];  // r: [i][tile][half]
#pragma unroll
    for (int v = 0; v < 2 && j + v < kCount; ++v) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float(&sum)[4] = r[i][j + v];
        std::uint32_t(&tile)[2] = packed[i][v];
        tile[0] = pack_bf16x2(sum[0], sum[1]), tile[1] = pack_bf16x2(sum[2], sum[3]);
        if constexpr (Shape::kPair) {
          // The channels of both pixels are two halves of a step of 16: no product is without use.
          const std::uint32_t of_pixel[2] = {keys[i][2 * v], keys[i][2 * v + 1]};
          const std::uint32_t apart[4] = {tile[0], 0u, 0u, tile[1]};
          mma_bf16_16x8x16(d_p[i][0], apart, of_pixel, d_p[i][0]);
        }
        const std::uint32_t tokens[2] = {movmatrix(tile[0]), movmatrix(tile[1])};
        mma_bf16_16x8x16(d_h[i][kFirst + j + v], prob_turned[i], tokens, d_h[i][kFirst + j + v]);
      }
    }
    if constexpr (!Shape::kPair) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int of_keys = 0; of_keys < 2; ++of_keys) {
          float(&sum)[4] = d_p[i][of_keys];
          if (j + 1 < kCount) {
            const std::uint32_t left[4] = {packed[i][0][0], packed[i][0][1], packed[i][1][0], packed[i][1][1]};
            const std::uint32_t right[2] = {keys[i][of_keys], keys[i][2 + of_keys]};
            mma_bf16_16x8x16(sum, left, right, sum);
          } else {
            const std::uint32_t left[2] = {packed[i][0][0], packed[i][0][1]}, right[1] = {keys[i][of_keys]};
            mma_bf16_16x8x8(sum, left, right, sum);
          }
        }
      }
    }
  }
}

/// The same for any number of tiles, Shape::kValueTiles of r at a time.
template <class Shape, int kFirst, int kCount>
AVID_DEVICE void add_value_gradients(
    float (&d_h)[2][Shape::kChunks][4], ProbGradients& d_p, const std::uint32_t (&prob_turned)[2][4], const LeftRows& h,
    shared_address weights, shared_address weights_half) {
  constexpr int kNow = std::min(kCount, Shape::kValueTiles);
  add_value_tiles<Shape, kFirst, kNow>(d_h, d_p, prob_turned, h, weights, weights_half);
  if constexpr (kCount > kNow) {
    constexpr int kStep = kNow * 8 * Shape::kRowPitch * 2;
    add_value_gradients<Shape, kFirst + kNow, kCount - kNow>(
        d_h, d_p, prob_turned, h, weights + kStep, weights_half + kStep);
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

/// d = M x for the pixels of a warp, and the inverse rotary code: the gradient of q (x is k) or k (x is q). It is
/// stored, and d_h += d w. `weights`: what the lane addresses in ldmatrix of w, [head channel][channel], as a right
/// operand that is turned: 16 rows by 16 channels, or (weights_half) 8 rows by 32.
template <class Shape, int kHeadTiles>
AVID_DEVICE void add_head_gradient(
    float (&d_h)[2][Shape::kChunks][4], const std::uint32_t (&m)[2][4], const PackedRows& x, const float4* angles,
    shared_address weights, shared_address weights_half, const StoredGradient& stored, const unsigned* row, int t) {
  constexpr int kTiles = Shape::kChunks;
#pragma unroll
  for (int j = 0; j < kHeadTiles; j += 2) {
    if (j >= fewest_tiles(kHeadTiles) && j * 8 >= stored.width) break;
    std::uint32_t packed[2][2][2] = {};  // [i][tile][half]
    LaneAngles<Shape::kPair> angle = {};
    if (j < 4) angle.load(angles, j);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int v = 0; v < 2 && j + v < kHeadTiles; ++v) {
        const std::uint32_t b[2] = {movmatrix(x[i][j + v][0]), movmatrix(x[i][j + v][1])};
        float c[4] = {};
        mma_bf16_16x8x16(c, m[i], b, c);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float u = c[2 * half], w = c[2 * half + 1];
          if (j < 4) {
            const float2 turn = angle(v, half);
            const float turned = u * turn.x + w * turn.y;
            w = w * turn.x - u * turn.y;
            u = turned;
          }
          packed[i][v][half] = pack_bf16x2(u, w);
        }
      }
      store_tiles<kHeadTiles>(stored, j, packed[i], row + i * 16, t);
    }
    if (j + 1 < kHeadTiles) {
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        std::uint32_t b[4] = {};
        if (n + 1 < kTiles) {
          ldmatrix_x4_trans(b, weights + (j * 8 * Shape::kRowPitch + n * 8) * 2);
        } else {
          std::uint32_t single[2];
          ldmatrix_x2_trans(single, weights + (j * 8 * Shape::kRowPitch + n * 8) * 2);
          b[0] = single[0], b[1] = single[1];
        }
        const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const std::uint32_t a[4] = {packed[i][0][0], packed[i][0][1], packed[i][1][0], packed[i][1][1]};
          mma_bf16_16x8x16(d_h[i][n], a, b0, d_h[i][n]);
          if (n + 1 < kTiles) mma_bf16_16x8x16(d_h[i][n + 1], a, b1, d_h[i][n + 1]);
        }
      }
    } else {
#pragma unroll
      for (int n = 0; n < kTiles; n += 4) {
        std::uint32_t b[4];  // behind the last channel: of the next row, not used
        ldmatrix_x4_trans(b, weights_half + (j * 8 * Shape::kRowPitch + n * 8) * 2);
#pragma unroll
        for (int k = 0; k < 4 && n + k < kTiles; ++k) {
          const std::uint32_t column[1] = {b[k]};
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const std::uint32_t a[2] = {packed[i][0][0], packed[i][0][1]};
            mma_bf16_16x8x8(d_h[i][n + k], a, column, d_h[i][n + k]);
          }
        }
      }
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

/// Calls f(row of the warp's 32, chunk, number of the row, whether that chunk exists) for each of kChunks chunks of the
/// lane's four rows that is the lane's own.
template <int kChunks, class F>
AVID_DEVICE void for_own_chunks(const unsigned* row, int chunks, int g, int t, const F& f) {
#pragma unroll
  for (int pass = 0; pass < 4; ++pass) {
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
/// and d_gamma += d_h xh over the warp's rows. `x`, `d_y`: the warp's first row; `moments`: mean and 1 / deviation.
template <class Shape>
AVID_DEVICE void norm_gradient(
    const float (&d_h)[2][Shape::kChunks][4], bf16* x, const bf16* d_y, const float2* moments, const float* gamma,
    float* d_gamma, float inverse_C, int g, int t) {
  constexpr int kTiles = Shape::kChunks;
  float shares[kTiles][2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = i * 16 + half * 8 + g;
      const float2 m = moments[r];
      auto* const row = reinterpret_cast<std::uint32_t*>(x + r * Shape::kRowPitch) + t;
      const auto* const d_row = reinterpret_cast<const std::uint32_t*>(d_y + r * Shape::kRowPitch) + t;
      const auto normalised = [&](int j) {
        const float2 v = unpack_bf16x2(row[4 * j]);
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
        const float2 residual = unpack_bf16x2(d_row[4 * j]);
        const auto of = [&](float d, float gamma_c, float xh_c, float residual_c) {
          return fmaf(m.y, d * gamma_c - mean_q - xh_c * mean_q_xh, residual_c);
        };
        row[4 * j] = pack_bf16x2(
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

template <int kFrames, int kTiles, int kHeadTiles>
__global__ void __launch_bounds__(kFusedThreads) temporal_fused_bwd_kernel(
    TemporalFusedArgs p, TemporalFusedGrads grads, unsigned num_tiles, float scale, float inverse_C) {
  using Shape = FusedBwdShape<kFrames, kTiles, kHeadTiles>;
  constexpr bool kPair = Shape::kPair;
  constexpr int kPitch = Shape::kRowPitch, kLogits = Shape::kLogits;
  SharedArena arena;
  bf16* const h_tile = arena.take<bf16>(2 * kFusedRows * kPitch, "h and d_y");
  bf16* const slices = arena.take<bf16>(kFusedStages * Shape::kSlice, "weights");
  const int N = static_cast<int>(p.N), C = static_cast<int>(p.C), chunks = (C + 7) / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  float2* const all_angles = arena.take<float2>(kFrames * kAnglePitch, "angles");
  fill_angles<kFrames>(all_angles, p);
  float2* const moments = arena.take<float2>(kFusedRows, "moments of rows");
  unsigned* const row = arena.take<unsigned>(kFusedRows, "numbers of rows") + warp * 32 + g;  // the lane's, 8 apart
  float* const gamma = arena.take<float>(5 * kTiles * 8, "gamma and d_gamma");
  float* const d_gamma = gamma + kTiles * 8;  // [warp][channel]
  for (int e = threadIdx.x; e < 5 * kTiles * 8; e += kFusedThreads) gamma[e] = e < C ? p.gamma[e] : 0.0f;
  BiasSums<Shape> bias_sums(arena, N);
  // Two tiles of the lane, j and j + 1, turn by angles[2 j].
  const float4* const angles = reinterpret_cast<const float4*>(all_angles + g * kAnglePitch + 2 * t);
  // What the lane addresses in ldmatrix (temporal_attention_fused.cu): rows, weights, either in steps of 8 channels.
  const std::uint32_t left_lane = (lane % 16 * kPitch + lane / 16 * 8) * 2;
  const std::uint32_t right_lane = ((lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8) * 2;
  const std::uint32_t half_lane = lane * kPitch * 2, turned_half_lane = (lane % 8 * kPitch + lane / 8 * 8) * 2;
  bf16* const own_h = h_tile + warp * 32 * kPitch;
  bf16* const own_d_y = own_h + kFusedRows * kPitch;
  const LeftRows h = {shared_address(own_h) + left_lane, shared_address(own_h) + half_lane};
  const int width = grads.stored.width, whole = grads.stored.whole;
  for (unsigned tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    __syncthreads();  // the last tile's weights are done
    for (int pass = 0; pass < 4; ++pass) {
      const FusedRow<kFrames> at(p.B, p.S, tile, warp * 32 + pass * 8 + g);
      const unsigned number = at.valid ? static_cast<unsigned>(at.row) : kNoRow;
      if (t == 0) row[pass * 8] = number;
      zero_row_gaps(grads.d_qk, number, 2 * N * width, t);
    }
    __syncwarp();
    const auto copy_rows = [&](bf16* to, const Rows<const bf16>& rows) {
      for_own_chunks<kTiles>(row, chunks, g, t, [&](int r, int c, unsigned from, bool exists) {
        cp_async_16(to + r * kPitch + c * 8, exists ? rows.row(from) + c * 8 : rows.data, exists);
      });
    };
    copy_rows(own_d_y, grads.d_y);
    WeightRing<Shape> ring(p, slices);
    normalise_rows<kFrames, kTiles, kPitch>(h_tile, p.x, p.gamma, C, p.B, p.S, tile, grads.h, warp, g, t, moments);
    float d_h[2][kTiles][4] = {};
    for (int head = 0; head < N; ++head) {
      PackedRows q, k;
      {
        const shared_address weights(ring.template next<0>(p, head));
        project_rotated<Shape, kHeadTiles>(q, h, weights + right_lane, weights + half_lane, angles);
      }
      {
        const shared_address weights(ring.template next<1>(p, head));
        project_rotated<Shape, kHeadTiles>(k, h, weights + right_lane, weights + half_lane, angles);
      }
      TokenLogits prob[2];
      std::uint32_t turned[2][4];  // P^T
      {
        TokenLogits bias = {};
        const float* const of_row = p.bias + head * kLogits + own_logit<Shape>(lane);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          bias.v[0][0][e] = of_row[e] * kFusedLog2E;
          if (kPair) {
            bias.v[1][1][e] = bias.v[0][0][e];
          } else {
            bias.v[0][1][e] = of_row[8 + e] * kFusedLog2E;
            bias.v[1][0][e] = of_row[8 * kFrames + e] * kFusedLog2E;
            bias.v[1][1][e] = of_row[8 * kFrames + 8 + e] * kFusedLog2E;
          }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          prob[i] = packed_products<kPair, kHeadTiles>(q[i], k[i]);
          softmax_tokens<kPair, true>(prob[i], bias, scale * kFusedLog2E);
          std::uint32_t m[4];
          logits_fragment<kPair>(m, prob[i]);
          store_probabilities<Shape>(
              grads.prob, m, (tile * Shape::kPixels + (warp * 2 + i) * Shape::kBlockPixels) * N + head, N, row + i * 16,
              lane);
          transpose_fragment<kPair>(turned[i], m);
        }
      }
      ProbGradients d_p = {};
      const auto values = [&](auto slice) {
        const shared_address weights(ring.template next<2 + slice()>(p, head));
        add_value_gradients<Shape, slice() * 8, Shape::value_tiles(slice())>(
            d_h, d_p, turned, h, weights + right_lane, weights + half_lane);
      };
      values(std::integral_constant<int, 0>{});
      if constexpr (Shape::kValueSlices == 2) values(std::integral_constant<int, 1>{});
      std::uint32_t m[2][4];  // the gradients of the logits
      float sum[2][2][2] = {};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        TokenLogits d = block_logits<kPair>(d_p[i][0], d_p[i][kPair ? 0 : 1]);
        softmax_tokens_bwd<kPair>(prob[i], d);
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
        logits_fragment<kPair>(m[i], d);
        transpose_fragment<kPair>(turned[i], m[i]);
      }
      bias_sums.add(sum, warp, head, own_logit<Shape>(lane));
      const auto stored = [&](int at) {
        return StoredGradient{
            grads.d_qk.data, static_cast<unsigned>(grads.d_qk.pitch), at * whole, 2 * N * whole + at * (width - whole),
            width};
      };
      const shared_address w_q(ring.template next<2 + Shape::kValueSlices>(p, head));
      bias_sums.collect(head);
      if (head + 1 == N) copy_rows(own_h, p.x);  // h is done, x comes in its place
      add_head_gradient<Shape, kHeadTiles>(
          d_h, m, k, angles, w_q + left_lane, w_q + turned_half_lane, stored(head), row, t);
      const shared_address w_k(ring.template next<3 + Shape::kValueSlices>(p, head));
      add_head_gradient<Shape, kHeadTiles>(
          d_h, turned, q, angles, w_k + left_lane, w_k + turned_half_lane, stored(N + head), row, t);
    }
    cp_async_wait<0>();
    __syncwarp();
    norm_gradient<Shape>(d_h, own_h, own_d_y, moments + warp * 32, gamma, d_gamma + warp * kTiles * 8, inverse_C, g, t);
    __syncwarp();
    if (grads.d_x)
      for_own_chunks<kTiles>(row, chunks, g, t, [&](int r, int c, unsigned to, bool exists) {
        if (!exists) return;
        uint4 v = *reinterpret_cast<const uint4*>(own_h + r * kPitch + c * 8);
        if (c * 8 + 8 > C) v = first_channels(v, C - c * 8);
        *reinterpret_cast<uint4*>(grads.d_x.row(to) + c * 8) = v;
      });
  }
  __syncthreads();
  if (grads.d_bias_partials)
    for (int e = threadIdx.x; e < N * kLogits; e += kFusedThreads)
      grads.d_bias_partials[std::int64_t{blockIdx.x} * N * kLogits + e] = bias_sums.of_block(e);
  if (grads.d_gamma_partials)
    for (int e = threadIdx.x; e < C; e += kFusedThreads)
      grads.d_gamma_partials[std::int64_t{blockIdx.x} * C + e] = sum_of_warps(d_gamma + e, kTiles * 8);
}

template <int kFrames, int kTiles, int kHeadTiles>
void launch_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  using Shape = FusedBwdShape<kFrames, kTiles, kHeadTiles>;
  const std::int64_t tiles = (p.B * p.S + Shape::kPixels - 1) / Shape::kPixels;
  if (p.B * p.S * kFrames >= kNoRow)
    throw std::invalid_argument("temporal_fused_bwd: expected fewer than 2^32 rows in a chunk");
  launch(
      temporal_fused_bwd_kernel<kFrames, kTiles, kHeadTiles>,
      dim3(static_cast<unsigned>(temporal_fused_partials(p.B, p.T, p.S, p.most_blocks))), dim3(kFusedThreads),
      static_cast<std::size_t>(Shape::shared_bytes(static_cast<int>(p.N))), stream, p, g, static_cast<unsigned>(tiles),
      1.0f / std::sqrt(static_cast<float>(p.D)), 1.0f / static_cast<float>(p.C));
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  AVID_GPU::with_fused_shape("temporal_fused_bwd", p.T, p.C, p.D, [&]<int kFrames, int kTiles, int kHeadTiles>() {
    AVID_GPU::launch_fused_bwd<kFrames, kTiles, kHeadTiles>(stream, p, g);
  });
}

template void temporal_fused_bwd<Gpu>(const Stream&, const TemporalFusedArgs&, const TemporalFusedGrads&);

}  // namespace avid::kernels
