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
//            composed, and 10.8 instead of 14.9, for all of the backward pass; 8.3 and 4.7 of that here. An H200 now
//            takes temporal_attention_fused_bwd_wgmma.cu, which shares what is between products with weights
// Lost       d_h's part of values beside d_q and d_k in memory, added by that product: 3 ms less on an A100, not 9.5.
//            Logits from fragments with the two pixels in the halves of a step (as d_P's are): quads of registers with
//            zeros, which spill
// Open       turning q, k and r costs two movmatrix for each product with an 8x8 matrix, and zeros beside it are moved
//            again and again: 0.7 MOV per product. On an A100 one block has a multiprocessor to itself
// Oracle     kernels/temporal_attention_cpu.cpp in f64, compared in tests/sim/temporal_attention_test.cpp
#include <algorithm>
#include <type_traits>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/device/temporal_fused_bwd.h"
#include "kernels/gather_gemm.h"
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
using PackedRows = RowTiles<8>[2];
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
        const std::uint32_t of_tile[2] = {keys[i][2 * v], keys[i][2 * v + 1]};
        add_value_tile<Shape::kPair>(d_h[i][kFirst + j + v], d_p[i][0], prob_turned[i], tile, of_tile);
      }
    }
    if constexpr (!Shape::kPair) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (j + 1 < kCount)
          add_key_products<2>(d_p[i], packed[i], keys[i]);
        else
          add_key_products<1>(d_p[i], packed[i], keys[i]);
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
      for (int v = 0; v < 2 && j + v < kHeadTiles; ++v)
        head_gradient<Shape::kPair>(packed[i][v], m[i], x[i][j + v], j < 4, angle, v);
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
      for_own_chunks<32, kTiles>(row, chunks, g, t, [&](int r, int c, unsigned from, bool exists) {
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
        const TokenLogits bias = bias_of_head<kFrames>(p.bias + head * kLogits + own_logit<Shape>(lane));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          prob[i] = packed_products<kPair, kHeadTiles, 8>(q[i], k[i]);
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
      for (int i = 0; i < 2; ++i) logit_gradients<kPair>(m[i], turned[i], sum, prob[i], d_p[i], scale);
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
    norm_gradient<kPitch, 8>(
        d_h, own_h, own_d_y, moments + warp * 32, gamma, d_gamma + warp * kTiles * 8, inverse_C, g, t);
    __syncwarp();
    if (grads.d_x)
      for_own_chunks<32, kTiles>(row, chunks, g, t, [&](int r, int c, unsigned to, bool exists) {
        if (!exists) return;
        uint4 v = *reinterpret_cast<const uint4*>(own_h + r * kPitch + c * 8);
        if (c * 8 + 8 > C) v = first_channels(v, C - c * 8);
        *reinterpret_cast<uint4*>(grads.d_x.row(to) + c * 8) = v;
      });
  }
  __syncthreads();
  write_partials<Shape>(grads, bias_sums, d_gamma, kTiles * 8, N, C);
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  if (have_wgmma<Backend>()) return temporal_fused_bwd_wgmma<Backend>(stream, p, g);
  AVID_GPU::with_fused_shape("temporal_fused_bwd", p.T, p.C, p.D, [&]<int kFrames, int kTiles, int kHeadTiles>() {
    AVID_GPU::launch_fused_bwd<AVID_GPU::FusedBwdShape<kFrames, kTiles, kHeadTiles>>(
        "temporal_fused_bwd", AVID_GPU::temporal_fused_bwd_kernel<kFrames, kTiles, kHeadTiles>, stream, p, g);
  });
}

template void temporal_fused_bwd<Gpu>(const Stream&, const TemporalFusedArgs&, const TemporalFusedGrads&);

}  // namespace avid::kernels
