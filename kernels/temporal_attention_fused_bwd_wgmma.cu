// kernels/temporal_attention_fused_bwd_wgmma.cu -- temporal attention's backward pass in one kernel on a device of
//                                                  compute capability 9.0 (contract: temporal_attention_fused.h)
//
// Math       temporal_attention_fused_bwd.cu
// Layout     rows and weights in planes of one chunk (temporal_fused_wgmma.h). The weights of q and k of a head lie
//            there once and serve two products: that with rows of h reads them as they lie, d_h += d_q w_q + d_k w_k
//            reads them transposed
// Parallel   a block is 8 pixels x 8 frames, or 4 x 16: 64 rows, a warpgroup, a warp has 16 of them. Of a head, with
//            M = w_out w_v: [q k] = h [w_q w_k]^T as one product, r = d_y M as another, and d_h += [d_q d_k] [w_q w_k],
//            whose left operand stays in the registers where d_q and d_k are made. What is between them is that of
//            temporal_attention_fused_bwd.cu, on mma.sync. Blocks are persistent, three run on a multiprocessor (two of
//            rows of 104 channels and of 16 frames)
// Pipeline   logits and softmax run beside the product for r. A step of 16 channels of d_h begins as soon as its two
//            tiles of d_q and d_k are there, and runs while the next ones are made. The rest of the time another block
//            of the multiprocessor multiplies. Weights of values come while gradients are made; those of q and k have
//            one buffer, so a block waits for them between heads
// Traffic    as temporal_attention_fused_bwd.cu, but for weights: those of q and k come once, not twice, for half as
//            many rows: 40 KB per head and 64 rows at 96 channels, in place of 66 KB per 128. Passes through shared
//            memory: two thirds (counted, with the writes)
// Numerics   as temporal_attention_fused_bwd.cu (the order of the sums is the hardware's)
// Limits     as temporal_attention_fused_bwd.cu. Compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes    a tile without swizzle may begin at any multiple of 16 bytes, as gather_gemm_halo_wgmma.cu does
// Work       as temporal_attention_fused_wgmma.cu: a row of an odd number of chunks has one of zeros before it. d_q and
//            d_k of heads of an odd number of tiles end in no half step: they are one row
// Compiled   nvcc 13, sm_90a, no spills: 204, 168, 159, 92 registers at 104, 96, 56, 32 channels (16 frames: 223, 206,
//            141, 107)
// Measured   never run on a GPU yet
// Predicted  H200: 9.5 in place of 12.1 ms of an update of 64 clips of AVID 71M, at 0.47 of the ceiling of wgmma
//            (docs/kernels/attention.md)
// Lost       sums of [q k] and of r in registers of their own at 96 channels: 189, two blocks. In the same ones for all
//            kernels: products one by one (C7511)
// Oracle     kernels/temporal_attention_cpu.cpp in f64: tests/sim/temporal_attention_fused_bwd_wgmma_test.cpp
#include <algorithm>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/device/temporal_fused_bwd.h"
#include "kernels/device/temporal_fused_wgmma.h"
#include "kernels/device/warpgroup.h"
#include "kernels/gather_gemm.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels {
namespace AVID_GPU {

template <int kFrames, int kTiles, int kHeadTiles>
struct WgmmaBwdShape {
  static constexpr bool kPair = kFrames == 8;                           ///< two pixels in 16 rows
  static constexpr int kTokens = kFrames, kLogits = kFrames * kFrames;  ///< of a pixel
  static constexpr int kRows = kFusedBwdWgmmaRows;                      ///< of a tile
  static constexpr int kPixels = kRows / kFrames;                       ///< of a tile
  static constexpr int kBlockPixels = 16 / kFrames;                     ///< of a warp's 16 rows
  static constexpr int kBiasCopies = kPair ? 4 : 1;                     ///< of the sums of d_bias (BiasSums)
  static constexpr int kResident = fused_bwd_wgmma_resident(kFrames, kTiles * 8, 1);
  static constexpr int kSteps = (kTiles + 1) / 2;  ///< of 16 channels of a row
  static constexpr int kHeadWidth = kHeadTiles * 8;
  using RowPlanes = PlanesOf<kRows, 2 * kSteps, 32>;        // a quad of lanes stores four chunks of a row
  using HeadPlanes = PlanesOf<2 * kHeadWidth, kTiles, 16>;  // eight lanes copy eight chunks of a row
  using ValuePlanes = PlanesOf<kTiles * 8, kTiles, 16>;
  static constexpr bool kSharesSums = kResident == 3 && kTiles > 7;  ///< registers are scarce
  static constexpr int shared_bytes(int N) {
    return (2 * RowPlanes::kElements + HeadPlanes::kElements + ValuePlanes::kElements) * 2 + kFrames * kAnglePitch * 8 +
           kRows * 12 + 5 * kTiles * 8 * 4 + (kBiasCopies * N + (kPair ? 0 : 4)) * kLogits * 4;
  }
};

/// The first kCount registers of an array, in the order in which they lie.
template <int kCount, class Array>
AVID_DEVICE float (&as_registers(Array& d))[kCount] {
  static_assert(sizeof(d) >= kCount * sizeof(float));
  return *reinterpret_cast<float(*)[kCount]>(&d);
}

/// The sums of two products, one begun when the other is rounded: in the same registers where those are scarce. (Where
/// they are not, nvcc then has the products of both wait one by one: C7511.)
template <int kFirst, int kSecond, bool kShared>
struct ProductSums {
  float first[kFirst];
  float apart[kShared ? 1 : kSecond];

  AVID_DEVICE float (&second())[kSecond] {
    if constexpr (kShared)
      return as_registers<kSecond>(first);
    else
      return apart;
  }
};

template <int kFrames, int kTiles, int kHeadTiles>
__global__ void __launch_bounds__(kFusedThreads, (WgmmaBwdShape<kFrames, kTiles, kHeadTiles>::kResident))
    temporal_fused_bwd_wgmma_kernel(
        TemporalFusedArgs p, TemporalFusedGrads grads, unsigned num_tiles, float scale, float inverse_C) {
  using Shape = WgmmaBwdShape<kFrames, kTiles, kHeadTiles>;
  using RowPlanes = typename Shape::RowPlanes;
  using HeadPlanes = typename Shape::HeadPlanes;
  using ValuePlanes = typename Shape::ValuePlanes;
  constexpr bool kPair = Shape::kPair;
  constexpr int kRowPlane = RowPlanes::kPlane / 2;
  SharedArena arena;
  constexpr int kZeros = kTiles % 2 * kRowPlane;  // of a plane in front of h, and of d_y
  bf16* const h_rows = arena.take<bf16>(RowPlanes::kElements, "h") + kZeros;
  bf16* const d_y_rows = arena.take<bf16>(RowPlanes::kElements, "d_y") + kZeros;
  bf16* const head_weights = arena.take<bf16>(HeadPlanes::kElements, "weights of q and k");
  bf16* const value_weights = arena.take<bf16>(ValuePlanes::kElements, "values");
  const int N = static_cast<int>(p.N), C = static_cast<int>(p.C), chunks = (C + 7) / 8;
  const int pitch = static_cast<int>(p.head_pitch);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  float2* const all_angles = arena.take<float2>(kFrames * kAnglePitch, "angles");
  fill_angles<kFrames>(all_angles, p);
  float2* const moments = arena.take<float2>(Shape::kRows, "moments of rows");
  // The numbers of the lane's rows lie 8 apart.
  unsigned* const row = arena.take<unsigned>(Shape::kRows, "numbers of rows") + warp * 16 + g;
  float* const gamma = arena.take<float>(5 * kTiles * 8, "gamma and d_gamma");
  float* const d_gamma = gamma + kTiles * 8;  // [warp][channel]
  for (int e = threadIdx.x; e < 5 * kTiles * 8; e += kFusedThreads) gamma[e] = e < C ? p.gamma[e] : 0.0f;
  BiasSums<Shape> bias_sums(arena, N);
  if constexpr (kZeros > 0) {
    bf16* const zeros = (threadIdx.x < 64 ? h_rows : d_y_rows) - kZeros;
    *reinterpret_cast<uint4*>(zeros + threadIdx.x % 64 * 8) = make_uint4(0, 0, 0, 0);
  }
  // Two tiles of the lane, j and j + 1, turn by angles[2 j].
  const float4* const angles = reinterpret_cast<const float4*>(all_angles + g * kAnglePitch + 2 * t);
  bf16* const own_h = h_rows + warp * 16 * 8;
  bf16* const own_d_y = d_y_rows + warp * 16 * 8;
  // What the lane addresses in ldmatrix of the warp's rows of h: rows 0 - 7, 8 - 15 of a chunk, then of the next.
  const shared_address keys_of_lane = shared_address(own_h) + lane % 16 * 16 + lane / 16 * RowPlanes::kPlane;
  const int width = grads.stored.width, whole = grads.stored.whole;

  const auto load_heads = [&](int head) {
    if (head >= N) return;
#pragma unroll 1                 // their addresses take registers
    for (int i = 0; i < 2; ++i)  // q, k
      copy_weights<Shape::kHeadWidth, kTiles, 8, HeadPlanes::kPlane / 2>(
          head_weights + i * Shape::kHeadWidth * 8, p.w_qkv, p.w_qkv.row((i * N + head) * pitch), pitch, chunks);
  };
  const auto load_values = [&](int head) {
    if (head >= N) return;
    copy_weights<kTiles * 8, kTiles, 8, ValuePlanes::kPlane / 2>(
        value_weights, p.values, p.values.row(head * C), C, chunks);
  };

  for (unsigned tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const FusedRow<kFrames, Shape::kRows> at(p.B, p.S, tile, warp * 16 + half * 8 + g);
      const unsigned number = at.valid ? static_cast<unsigned>(at.row) : kNoRow;
      if (t == 0) row[half * 8] = number;
      zero_row_gaps(grads.d_qk, number, 2 * N * width, t);
    }
    __syncwarp();
    const auto copy_rows = [&](bf16* to, const Rows<const bf16>& rows) {
      for_own_chunks<16, kTiles>(row, chunks, g, t, [&](int r, int c, unsigned from, bool exists) {
        cp_async_16(to + c * kRowPlane + r * 8, exists ? rows.row(from) + c * 8 : rows.data, exists);
      });
    };
    load_heads(0);  // behind the last tile's last barrier nobody multiplies with weights any more
    load_values(0);
    copy_rows(own_d_y, grads.d_y);
    normalise_rows<kFrames, kTiles, 8, kRowPlane, 16>(
        h_rows, p.x, p.gamma, C, p.B, p.S, tile, grads.h, warp, g, t, moments);
    float d_h[1][kTiles][4] = {};
    for (int head = 0; head < N; ++head) {
      // All threads' copies and stores are there for the products.
      cp_async_commit();
      cp_async_wait<0>();
      fence_proxy_async();
      __syncthreads();
      ProductSums<HeadPlanes::kRows / 2, ValuePlanes::kRows / 2, Shape::kSharesSums> sums;
      RowTiles<kHeadTiles> q, k;
      {
        begin_projection<Shape, HeadPlanes>(sums.first, h_rows, head_weights);
        wait_for(sums.first);
        LaneAngles<kPair> angle = {};
        const auto take = [&](RowTiles<kHeadTiles>& to, int j, int of_k) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float2 v = pair_of(sums.first, of_k * kHeadTiles + j, half);
            if (j < 4) {
              const float2 turn = angle(j % 2, half);
              v = make_float2(v.x * turn.x - v.y * turn.y, v.y * turn.x + v.x * turn.y);
            }
            to[j][half] = pack_bf16x2(v.x, v.y);
          }
        };
#pragma unroll
        for (int j = 0; j < kHeadTiles; ++j) {
          if (j < 4 && j % 2 == 0) angle.load(angles, j);
          take(q, j, 0);
          take(k, j, 1);
        }
      }
      TokenLogits prob;
      std::uint32_t turned[4];  // P^T
      RowTiles<kTiles> r;
      {
        auto& values = sums.second();
        begin_projection<Shape, ValuePlanes>(values, d_y_rows, value_weights);
        prob = packed_products<kPair, kHeadTiles, kHeadTiles>(q, k);
        softmax_tokens<kPair, true>(
            prob, bias_of_head<kFrames>(p.bias + (head * kFrames + g) * kFrames + 2 * t), scale * kFusedLog2E);
        std::uint32_t m[4];
        logits_fragment<kPair>(m, prob);
        store_probabilities<Shape>(
            grads.prob, m, (tile * Shape::kPixels + warp * Shape::kBlockPixels) * N + head, N, row, lane);
        transpose_fragment<kPair>(turned, m);
        wait_for(values);
        round_tiles<kTiles>(r, [&](int j, int half) { return pair_of(values, j, half); });
      }
      __syncthreads();  // all products with values are done
      load_values(head + 1);

      float d_p[2][4] = {};
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        const shared_address at = keys_of_lane + j * RowPlanes::kPlane;
        std::uint32_t keys[4] = {};  // h: [tile, rows 0 - 7 and 8 - 15]
        if (j + 1 < kTiles) {
          ldmatrix_x4(keys, at);
        } else {
          std::uint32_t single[2];
          ldmatrix_x2(single, at);
          keys[0] = single[0], keys[1] = single[1];
        }
        std::uint32_t tiles[2][2] = {};
#pragma unroll
        for (int v = 0; v < 2 && j + v < kTiles; ++v) {
          tiles[v][0] = r[j + v][0], tiles[v][1] = r[j + v][1];
          const std::uint32_t of_tile[2] = {keys[2 * v], keys[2 * v + 1]};
          add_value_tile<kPair>(d_h[0][j + v], d_p[0], turned, tiles[v], of_tile);
        }
        if constexpr (!kPair) {
          if (j + 1 < kTiles)
            add_key_products<2>(d_p, tiles, keys);
          else
            add_key_products<1>(d_p, tiles, keys);
        }
      }
      std::uint32_t m[4];  // the gradients of the logits
      float sum[2][2][2] = {};
      logit_gradients<kPair>(m, turned, sum, prob, d_p, scale);
      bias_sums.add(sum, warp, head, own_logit<Shape>(lane));
      if (head + 1 == N) {  // the warp is done with h, x comes in its place
        __syncwarp();
        copy_rows(own_h, p.x);
      }

      // d_h += [d_q d_k] w: a step of 16 channels begins as soon as its two tiles are there.
      std::uint32_t d_qk[kHeadTiles][4];
      const std::uint64_t weights = transposed_plain_tile(shared_address(head_weights), HeadPlanes::kPlane);
      int begun = 0;
#pragma unroll
      for (int of_k = 0; of_k < 2; ++of_k) {
        const StoredGradient stored = {
            grads.d_qk.data, static_cast<unsigned>(grads.d_qk.pitch), (of_k * N + head) * whole,
            2 * N * whole + (of_k * N + head) * (width - whole), width};
#pragma unroll
        for (int j = 0; j < kHeadTiles; j += 2) {
          LaneAngles<kPair> angle = {};
          if (j < 4) angle.load(angles, j);
          std::uint32_t packed[2][2] = {};  // [tile][half]
#pragma unroll
          for (int v = 0; v < 2 && j + v < kHeadTiles; ++v) {
            head_gradient<kPair>(packed[v], of_k ? turned : m, of_k ? q[j + v] : k[j + v], j < 4, angle, v);
            const int at = of_k * kHeadTiles + j + v;
            d_qk[at / 2][at % 2 * 2] = packed[v][0], d_qk[at / 2][at % 2 * 2 + 1] = packed[v][1];
          }
          store_tiles<kHeadTiles>(stored, j, packed, row, t);
          for (; 2 * begun + 1 < of_k * kHeadTiles + std::min(j + 2, kHeadTiles); ++begun) {
            wgmma_fence();
            wgmma_bf16_fragment<kTiles * 8>(as_registers<kTiles * 4>(d_h), d_qk[begun], weights + begun * 16);
            wgmma_commit();
          }
        }
      }
      wait_for(as_registers<kTiles * 4>(d_h));
#pragma unroll
      for (int s = 0; s < kHeadTiles; ++s) wgmma_settle(d_qk[s]);
      __syncthreads();  // all products with the weights of q and k are done
      load_heads(head + 1);
      bias_sums.collect(head);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    norm_gradient<8, kRowPlane>(
        d_h, own_h, own_d_y, moments + warp * 16, gamma, d_gamma + warp * kTiles * 8, inverse_C, g, t);
    __syncwarp();
    if (grads.d_x)
      for_own_chunks<16, kTiles>(row, chunks, g, t, [&](int r, int c, unsigned to, bool exists) {
        if (!exists) return;
        uint4 v = *reinterpret_cast<const uint4*>(own_h + c * kRowPlane + r * 8);
        if (c * 8 + 8 > C) v = first_channels(v, C - c * 8);
        *reinterpret_cast<uint4*>(grads.d_x.row(to) + c * 8) = v;
      });
    __syncwarp();  // before the next tile's rows come
  }
  __syncthreads();
  write_partials<Shape>(grads, bias_sums, d_gamma, kTiles * 8, N, C);
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_fused_bwd_wgmma(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  if (!have_wgmma<Backend>()) throw GpuError("temporal_fused_bwd_wgmma: needs a device of compute capability 9.0");
  AVID_GPU::with_fused_shape("temporal_fused_bwd_wgmma", p.T, p.C, p.D, [&]<int kFrames, int kTiles, int kHeadTiles>() {
    AVID_GPU::launch_fused_bwd<AVID_GPU::WgmmaBwdShape<kFrames, kTiles, kHeadTiles>>(
        "temporal_fused_bwd_wgmma", AVID_GPU::temporal_fused_bwd_wgmma_kernel<kFrames, kTiles, kHeadTiles>, stream, p,
        g);
  });
}

template void temporal_fused_bwd_wgmma<Gpu>(const Stream&, const TemporalFusedArgs&, const TemporalFusedGrads&);

}  // namespace avid::kernels
