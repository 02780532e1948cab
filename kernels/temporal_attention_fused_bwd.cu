// kernels/temporal_attention_fused_bwd.cu -- temporal attention's backward pass in one kernel, but for the gradients of
// weights (contract: temporal_attention_fused.h)
//
// Math       kernels/temporal_attention_cpu.cpp. v and o occur in linear expressions only, so neither they nor their
//            gradients are formed: with M = w_out w_v of a head (`values`), C x C,
//              r = d_y M    d_P = r h^T    d_h = sum over heads of P^T r + d_q w_q + d_k w_k
//            then d_x by the norm's gradient (kernels/layer_norm.cu).
// Parallel   as in temporal_attention_fused.cu: 16 pixels x 8 frames a tile, 4 warps of 32 rows, head by head in
//            registers: q and k are projected and packed to bf16 (56 registers at 56 channels); r comes 32 channels at
//            a time and is gone after its two products; d_q and d_k are stored and multiplied as they are made. d_h of
//            all heads stays in f32 (2 x 12 tiles at 96 channels). Weights stream through three buffers, those of q
//            and k twice. Behind the last head x comes in h's place in shared memory, and d_x in x's.
//            Blocks are persistent: each walks over tiles with a grid stride and sums the gradients of the bias and of
//            gamma per warp in shared memory.
// Traffic    reads x (the second time from L2) and d_y, writes h, probabilities (16 bytes of a row and head), d_q and
//            d_k, d_x once; all weights once per tile through L2. Heads without gaps, in whole sectors (StoredHeads):
//            at 6 heads of 50, 100 bytes of each in 4 sectors, not 112 in 7
// Numerics   h, q, k, w_out w_v, r, p, d_logits, d_q and d_k are rounded to bf16, sums in f32: d_h is not rounded. No
//            atomics.
// Limits     as forward; 8 frames; N <= 16 (sums of the bias in shared memory)
// Compiled   nvcc 13, sm_80 (sm_90), no spills: instructions per product in the loop over heads 5.7 (5.5) for up to
//            104 channels, 5.5 (5.7), 7.2 (7.6), 13.0 (13.3) for 96, 56, 32, the store of an incomplete group beside
//            that of a whole one among them; 255 (255), 252 (248), 219 (217), 168 (168) registers
// Measured   never run on a GPU yet
// Predicted  an update of AVID 71M with 64 clips: 20.8 ms on an A100, 12.1 ms on an H200, where the kernel that also
//            stored d_v took 15.6 and 8.5 ms, and the product from d_qkv to d_x behind it 14.3 and 4.8. All of the
//            backward pass: 55.9 instead of 66.7 ms, and 25.7 instead of 27.0; of that 1.3 and 0.1 because the count
//            of traffic now sees where h ends
// Lost       d_h's part of values beside d_q and d_k in memory, added by that product: 3 ms less on an A100, not 9.5.
//            Logits from fragments with the two pixels in the halves of a step (as d_P's are): quads of registers with
//            zeros, which spill
// Open       turning q, k and r costs two movmatrix for each product with an 8x8 matrix, and zeros beside it are moved
//            again and again: 0.7 MOV per product. On an A100 one block has a multiprocessor to itself
// Oracle     kernels/temporal_attention_cpu.cpp in f64, compared in tests/sim/temporal_attention_test.cpp
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kFusedFrames = 8, kFusedPixels = kFusedRows / kFusedFrames;

template <int kTiles, int kHeadTiles>
struct FusedBwdShape : FusedTiles<kTiles, kHeadTiles> {
  using Tiles = FusedTiles<kTiles, kHeadTiles>;
  static constexpr int kSlices = 4 + Tiles::kValueSlices;  ///< of weights: q, k, values, q and k
  static constexpr int kUnrolled = kTiles >= 7 ? 1 : Tiles::kSteps;
  static constexpr int shared_bytes(int N) {
    return (2 * kFusedRows * Tiles::kRowPitch + kFusedStages * Tiles::kSlice) * 2 + 4 * N * 64 * 4 +
           kFusedFrames * kAnglePitch * 8 + kFusedRows * 12 + 5 * kTiles * 8 * 4;
  }
};

/// 32 rows (two blocks i of 16) by 64 channels as bf16 pairs: [i][tile of 8 channels][row g or g + 8].
using PackedRows = std::uint32_t[2][8][2];
/// What the lane addresses in ldmatrix of 32 rows: in a step of 16 channels, and in one of 8.
struct LeftRows {
  shared_address whole, half;
};

/// q or k of a head: 32 rows of h times its weights, the rotary code, bf16.
template <class Shape, int kHeadTiles>
AVID_DEVICE void project_rotated(
    PackedRows& out, const LeftRows& h, shared_address weights, shared_address weights_half, const float4* angles) {
  HeadAccumulators acc;
  project_rows<Shape, kHeadTiles>(acc, h.whole, weights, h.half, weights_half);
  float4 angle{};
#pragma unroll
  for (int j = 0; j < kHeadTiles; ++j) {
    if (j < 4 && j % 2 == 0) angle = angles[2 * j];
    const float cosine = j % 2 == 0 ? angle.x : angle.z, sine = j % 2 == 0 ? angle.y : angle.w;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x = acc[i][j][2 * half], y = acc[i][j][2 * half + 1];
        if (j < 4) {
          const float turned = x * cosine - y * sine;
          y = y * cosine + x * sine;
          x = turned;
        }
        out[i][j][half] = pack_bf16x2(x, y);
      }
    }
  }
}

/// Logits of a pair of pixels: rows 0 - 7 of one fragment, rows 8 - 15 of another.
AVID_DEVICE TokenLogits pair_logits(const float (&first)[4], const float (&second)[4]) {
  TokenLogits s = {};
  s.v[0][0][0] = first[0], s.v[0][0][1] = first[1];
  s.v[1][1][0] = second[2], s.v[1][1][1] = second[3];
  return s;
}

/// The logits' shape of a pair of pixels: a b^T of a block. Half of either product is of use.
template <int kHeadTiles>
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
  return pair_logits(first, second);
}

/// What passes through values, for kCount tiles of 8 channels from kFirst on: r = d_y (w_out w_v), d_p += r h^T,
/// d_h += P^T r. `weights` are rows kFirst * 8 and on of the values' slice.
template <class Shape, int kFirst, int kCount>
AVID_DEVICE void add_value_gradients(
    float (&d_h)[2][Shape::kChunks][4], float (&d_p)[2][4], const std::uint32_t (&prob_turned)[2][2], const LeftRows& h,
    shared_address weights, shared_address weights_half) {
  constexpr std::uint32_t kToDy = kFusedRows * Shape::kRowPitch * 2;
  HeadAccumulators r;
  project_rows<Shape, kCount>(r, h.whole + kToDy, weights, h.half + kToDy, weights_half);
#pragma unroll
  for (int j = 0; j < kCount; j += 2) {
    std::uint32_t keys[2][4];  // h: [i][tile, pixel]
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
#pragma unroll
    for (int v = 0; v < 2 && j + v < kCount; ++v) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float(&sum)[4] = r[i][j + v];
        const std::uint32_t packed[2] = {pack_bf16x2(sum[0], sum[1]), pack_bf16x2(sum[2], sum[3])};
        const std::uint32_t of_pixel[2] = {keys[i][2 * v], keys[i][2 * v + 1]};
        // The channels of both pixels are two halves of a step of 16: no product is without use.
        const std::uint32_t apart[4] = {packed[0], 0u, 0u, packed[1]};
        mma_bf16_16x8x16(d_p[i], apart, of_pixel, d_p[i]);
        const std::uint32_t p[4] = {prob_turned[i][0], 0u, 0u, prob_turned[i][1]};
        const std::uint32_t tokens[2] = {movmatrix(packed[0]), movmatrix(packed[1])};
        mma_bf16_16x8x16(d_h[i][kFirst + j + v], p, tokens, d_h[i][kFirst + j + v]);
      }
    }
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
    float (&d_h)[2][Shape::kChunks][4], const std::uint32_t (&m)[2][2], const PackedRows& x, const float4* angles,
    shared_address weights, shared_address weights_half, const StoredGradient& stored, const unsigned* row, int t) {
  constexpr int kTiles = Shape::kChunks;
#pragma unroll
  for (int j = 0; j < kHeadTiles; j += 2) {
    if (j >= fewest_tiles(kHeadTiles) && j * 8 >= stored.width) break;
    std::uint32_t packed[2][2][2] = {};  // [i][tile][half]
    float4 angle{};
    if (j < 4) angle = angles[2 * j];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int v = 0; v < 2 && j + v < kHeadTiles; ++v) {
        const std::uint32_t a[4] = {m[i][0], 0u, 0u, m[i][1]};
        const std::uint32_t b[2] = {movmatrix(x[i][j + v][0]), movmatrix(x[i][j + v][1])};
        float c[4] = {};
        mma_bf16_16x8x16(c, a, b, c);
        const float cosine = v == 0 ? angle.x : angle.z, sine = v == 0 ? angle.y : angle.w;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float u = c[2 * half], w = c[2 * half + 1];
          if (j < 4) {
            const float turned = u * cosine + w * sine;
            w = w * cosine - u * sine;
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

template <int kTiles, int kHeadTiles>
__global__ void __launch_bounds__(kFusedThreads) temporal_fused_bwd_kernel(
    TemporalFusedArgs p, TemporalFusedGrads grads, unsigned num_tiles, float scale, float inverse_C) {
  using Shape = FusedBwdShape<kTiles, kHeadTiles>;
  constexpr int kPitch = Shape::kRowPitch;
  SharedArena arena;
  bf16* const h_tile = arena.take<bf16>(2 * kFusedRows * kPitch, "h and d_y");
  bf16* const slices = arena.take<bf16>(kFusedStages * Shape::kSlice, "weights");
  const int N = static_cast<int>(p.N), C = static_cast<int>(p.C), chunks = (C + 7) / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  float2* const all_angles = arena.take<float2>(kFusedFrames * kAnglePitch, "angles");
  fill_angles<kFusedFrames>(all_angles, p);
  float2* const moments = arena.take<float2>(kFusedRows, "moments of rows");
  unsigned* const row = arena.take<unsigned>(kFusedRows, "numbers of rows") + warp * 32 + g;  // the lane's, 8 apart
  float* const gamma = arena.take<float>(5 * kTiles * 8, "gamma and d_gamma");
  float* const d_gamma = gamma + kTiles * 8;  // [warp][channel]
  for (int e = threadIdx.x; e < 5 * kTiles * 8; e += kFusedThreads) gamma[e] = e < C ? p.gamma[e] : 0.0f;
  float* const sums = arena.take<float>(4 * N * 64, "sums of d_bias");  // [warp][head][8][8]
  float* const own_sums = sums + warp * N * 64 + lane * 2;
  for (int head = 0; head < N; ++head) own_sums[head * 64] = own_sums[head * 64 + 1] = 0;
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
      const FusedRow<kFusedFrames> at(p.B, p.S, tile, warp * 32 + pass * 8 + g);
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
    normalise_rows<kFusedFrames, kTiles, kPitch>(h_tile, p.x, p.gamma, C, p.B, p.S, tile, grads.h, warp, g, t, moments);
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
      TokenLogits prob[2], bias = {};
#pragma unroll
      for (int e = 0; e < 2; ++e) bias.v[0][0][e] = bias.v[1][1][e] = p.bias[head * 64 + lane * 2 + e] * kFusedLog2E;
      std::uint32_t turned[2][2];  // of a fragment of a pair of pixels only registers 0 and 3 are not zero
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        prob[i] = packed_products<kHeadTiles>(q[i], k[i]);
        softmax_tokens<true, true>(prob[i], bias, scale * kFusedLog2E);
        std::uint32_t m[4];
        logits_fragment<true>(m, prob[i]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // 128 bytes of a pixel
          const unsigned matrix = (tile * kFusedPixels + warp * 4 + i * 2 + half) * N + head;
          if (row[i * 16 + half * 8] != kNoRow)
            reinterpret_cast<std::uint32_t*>(grads.prob)[std::size_t{matrix} * 32 + lane] = m[3 * half];
          turned[i][half] = movmatrix(m[3 * half]);
        }
      }
      float d_p[2][4] = {};
      const auto values = [&](auto slice) {
        constexpr int kFirst = slice() * 8, kCount = Shape::value_tiles(slice()), kBefore = std::min(kCount, 4);
        const shared_address weights(ring.template next<2 + slice()>(p, head));
        add_value_gradients<Shape, kFirst, kBefore>(d_h, d_p, turned, h, weights + right_lane, weights + half_lane);
        if constexpr (kCount > 4)
          add_value_gradients<Shape, kFirst + 4, kCount - 4>(
              d_h, d_p, turned, h, weights + (32 * kPitch * 2 + right_lane), weights + (32 * kPitch * 2 + half_lane));
      };
      values(std::integral_constant<int, 0>{});
      if constexpr (Shape::kValueSlices == 2) values(std::integral_constant<int, 1>{});
      float sum[2] = {};
      std::uint32_t m[2][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        TokenLogits d = pair_logits(d_p[i], d_p[i]);
        softmax_tokens_bwd<true>(prob[i], d);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          sum[e] += d.v[0][0][e] + d.v[1][1][e];
          d.v[0][0][e] *= scale, d.v[1][1][e] *= scale;  // once here instead of on q and all of d_q and d_k
        }
        std::uint32_t fragment[4];
        logits_fragment<true>(fragment, d);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          m[i][half] = fragment[3 * half];
          turned[i][half] = movmatrix(m[i][half]);
        }
      }
      own_sums[head * 64] += sum[0];
      own_sums[head * 64 + 1] += sum[1];
      const auto stored = [&](int at) {
        return StoredGradient{
            grads.d_qk.data, static_cast<unsigned>(grads.d_qk.pitch), at * whole, 2 * N * whole + at * (width - whole),
            width};
      };
      const shared_address w_q(ring.template next<2 + Shape::kValueSlices>(p, head));
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
  const auto store_sums = [&](const float* of_warps, int count, int width_of_warp, float* to) {
    if (to == nullptr) return;
    for (int e = threadIdx.x; e < count; e += kFusedThreads) {
      const float* const from = of_warps + e;
      to[std::int64_t{blockIdx.x} * count + e] =
          ((from[0] + from[width_of_warp]) + from[2 * width_of_warp]) + from[3 * width_of_warp];
    }
  };
  store_sums(sums, N * 64, N * 64, grads.d_bias_partials);
  store_sums(d_gamma, C, kTiles * 8, grads.d_gamma_partials);
}

template <int kTiles, int kHeadTiles>
void launch_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  const std::int64_t tiles = (p.B * p.S + kFusedPixels - 1) / kFusedPixels;
  if (p.B * p.S * kFusedFrames >= kNoRow)
    throw std::invalid_argument("temporal_fused_bwd: expected fewer than 2^32 rows in a chunk");
  launch(
      temporal_fused_bwd_kernel<kTiles, kHeadTiles>,
      dim3(static_cast<unsigned>(temporal_fused_partials(p.B, p.S, p.most_blocks))), dim3(kFusedThreads),
      static_cast<std::size_t>(FusedBwdShape<kTiles, kHeadTiles>::shared_bytes(static_cast<int>(p.N))), stream, p, g,
      static_cast<unsigned>(tiles), 1.0f / std::sqrt(static_cast<float>(p.D)), 1.0f / static_cast<float>(p.C));
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  switch (temporal_fused_kernel(DType::bf16, 8, p.C, p.D, 0)) {
    case 0: return AVID_GPU::launch_fused_bwd<4, 4>(stream, p, g);
    case 1: return AVID_GPU::launch_fused_bwd<7, 7>(stream, p, g);
    case 2: return AVID_GPU::launch_fused_bwd<12, 7>(stream, p, g);
    case 3: return AVID_GPU::launch_fused_bwd<13, 8>(stream, p, g);
  }
  throw std::invalid_argument(
      "temporal_fused_bwd: no kernel for C = " + std::to_string(p.C) + ", D = " + std::to_string(p.D));
}

template void temporal_fused_bwd<Gpu>(const Stream&, const TemporalFusedArgs&, const TemporalFusedGrads&);

}  // namespace avid::kernels
