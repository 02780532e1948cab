// kernels/temporal_attention_fused_wgmma.cu -- temporal attention forward in one kernel on a device of compute
//                                              capability 9.0 (contract: temporal_attention_fused.h)
//
// Math       kernels/temporal_attention_cpu.cpp
// Layout     rows and weights as wgmma takes them without swizzle: planes of one chunk (8 channels), rows 16 bytes
//            apart, so that 8 rows of a chunk are 128 bytes; a few bytes between planes keep stores of several chunks
//            out of each other's banks. A product takes 64 rows: block i of the warp's two blocks of 16 is rows
//            64 i + 16 warp .. of the tile, in the registers that mma.sync would leave it in
// Parallel   a block is 16 pixels x 8 frames, or 8 x 16: 128 rows, a warpgroup. Of a head: two products of 64 rows with
//            the weights of q and k at once, two with w_out w_v; what is between them is that of
//            temporal_attention_fused.cu and stays in a warp
// Pipeline   a product's sums are rounded to bf16 as soon as they are there, which gives their registers to the next
//            product; it runs while the warps go on with what they rounded:
//              wgmma      q k, rows 0-63 | q k, 64-127    | u, 0-63          | u, 64-127  | q k, 0-63, next head
//              the warps  P u, 64-127    | softmax, 0-63  | softmax, 64-127  | P u, 0-63  | P u, 64-127
//            Weights of q and k come while u is computed, those of u meanwhile. Two blocks run on a multiprocessor
// Traffic    as temporal_attention_fused.cu
// Numerics   as temporal_attention_fused.cu (the order of the sums is the hardware's)
// Limits     as temporal_attention_fused.cu. Compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes    a tile without swizzle may begin at any multiple of 16 bytes, as gather_gemm_halo_wgmma.cu does
// Work       products of 16 channels: a row of an odd number of chunks has one of zeros in front of it, at 104 channels
//            8 % more
// Compiled   nvcc 13, sm_90a, no spills: 254 registers at 104 and 96 channels, 179 at 56, 137 at 32 (16 frames: 255,
//            253, 183, 141). Lost: 28 to 412 bytes spilled with first products whose registers the compiler knew to be
//            free; 4 to 16 bytes, and products one by one (C7511), with the same registers for q k and u
// Measured   never run on a GPU yet
// Predicted  H200: 15.2 in place of 19.2 ms of an update of 64 clips of AVID 71M, at 0.47 of the ceiling of wgmma
//            (docs/kernels/attention.md)
// Oracle     as temporal_attention_fused.cu: tests/sim/temporal_attention_fused_wgmma_test.cpp
#include <algorithm>
#include <cmath>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/device/temporal_fused_fwd.h"
#include "kernels/device/temporal_fused_wgmma.h"
#include "kernels/device/warpgroup.h"
#include "kernels/gather_gemm.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels {
namespace AVID_GPU {

/// Tokens of kFrames frames, kTiles x 8 channels of a row, heads of kHeadTiles x 8 channels.
template <int kFrames, int kTiles, int kHeadTiles>
struct WgmmaShape : FusedTiles<kTiles, kHeadTiles> {
  static constexpr int kSteps = (kTiles + 1) / 2;  ///< of 16 channels
  static constexpr int kHeadWidth = kHeadTiles * 8;
  using RowPlanes = PlanesOf<kFusedRows, 2 * kSteps, 32>;   // a quad of lanes stores four chunks of a row
  using HeadPlanes = PlanesOf<2 * kHeadWidth, kTiles, 16>;  // eight lanes copy eight chunks of a row
  using ValuePlanes = PlanesOf<kTiles * 8, kTiles, 16>;
  /// Of the rows, which stage the output in the end.
  static constexpr int kRowElements =
      std::max(RowPlanes::kElements, kFusedRows* FusedTiles<kTiles, kHeadTiles>::kRowPitch);
  static constexpr int kSharedBytes =
      (kRowElements + HeadPlanes::kElements + ValuePlanes::kElements) * 2 + RotaryCode<kFrames>::kSharedBytes;
};

template <int kFrames, int kTiles, int kHeadTiles>
__global__ void __launch_bounds__(kFusedThreads, 2) temporal_fused_fwd_wgmma_kernel(TemporalFusedArgs p, float factor) {
  using Shape = WgmmaShape<kFrames, kTiles, kHeadTiles>;
  using HeadPlanes = typename Shape::HeadPlanes;
  using ValuePlanes = typename Shape::ValuePlanes;
  constexpr bool kPair = kFrames == 8;  // two pixels in 16 rows
  constexpr int kRowPlane = Shape::RowPlanes::kPlane / 2;
  SharedArena arena;
  bf16* const all_rows = arena.take<bf16>(Shape::kRowElements, "rows");
  bf16* const rows = all_rows + kTiles % 2 * kRowPlane;  // behind the plane of zeros
  bf16* const head_weights = arena.take<bf16>(HeadPlanes::kElements, "weights of q and k");
  bf16* const value_weights = arena.take<bf16>(ValuePlanes::kElements, "values");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int C = static_cast<int>(p.C), N = static_cast<int>(p.N), pitch = static_cast<int>(p.head_pitch);

  const auto load_heads = [&](int head) {
    if (head >= N) return;
#pragma unroll 1                 // their addresses take registers
    for (int i = 0; i < 2; ++i)  // q, k
      copy_weights<Shape::kHeadWidth, kTiles, 8, HeadPlanes::kPlane / 2>(
          head_weights + i * Shape::kHeadWidth * 8, p.w_qkv, p.w_qkv.row((i * N + head) * pitch), pitch, (C + 7) / 8);
  };
  const auto load_values = [&](int head) {
    copy_weights<kTiles * 8, kTiles, 8, ValuePlanes::kPlane / 2>(
        value_weights, p.values, p.values.row(head * C), C, (C + 7) / 8);
  };
  // All threads' copies and stores are there for the products, and all products begun before are done with theirs.
  const auto exchange = [] {
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
  };

  load_heads(0);
  cp_async_commit();
  normalise_rows<kFrames, kTiles, 8, kRowPlane>(rows, p.x, p.gamma, C, p.B, p.S, blockIdx.x, {}, warp, g, t);
  if constexpr (kTiles % 2 == 1) *reinterpret_cast<uint4*>(all_rows + threadIdx.x * 8) = make_uint4(0, 0, 0, 0);
  const RotaryCode<kFrames> rotary(arena, p, g, t);  // the first exchange is behind it

  float y[2][kTiles][4] = {};
  std::uint32_t prob[2][4] = {};  // of both blocks of 16 rows
  RowTiles<kTiles> u = {};        // of one of them, to be multiplied with its prob
  for (int head = 0; head < N; ++head) {
    float qk[HeadPlanes::kRows / 2];
    RowTiles<kHeadTiles> q, k;
    const auto take_heads = [&] {
      wait_for(qk);
      const auto take = [&](RowTiles<kHeadTiles>& to, int first) {
        round_tiles<kHeadTiles>(
            to, [&](int j, int half) { return rotary.turned(j, half, pair_of(qk, first + j, half)); });
      };
      take(q, 0);
      take(k, kHeadTiles);
    };
    exchange();
    begin_projection<Shape, HeadPlanes>(qk, rows, head_weights);
    add_values<kTiles>(y[1], prob[1], u);  // of the head before
    load_values(head);
    cp_async_commit();
    take_heads();
    begin_projection<Shape, HeadPlanes>(qk, rows + 64 * 8, head_weights);
    attend<kPair, kHeadTiles>(
        prob[0], q, k, bias_of_head<kFrames>(p.bias + (head * kFrames + g) * kFrames + 2 * t), factor);
    take_heads();

    float values[ValuePlanes::kRows / 2];
    const auto take_values = [&] {
      wait_for(values);
      round_tiles<kTiles>(u, [&](int j, int half) { return pair_of(values, j, half); });
    };
    exchange();
    begin_projection<Shape, ValuePlanes>(values, rows, value_weights);
    load_heads(head + 1);
    cp_async_commit();
    attend<kPair, kHeadTiles>(
        prob[1], q, k, bias_of_head<kFrames>(p.bias + (head * kFrames + g) * kFrames + 2 * t), factor);
    take_values();
    begin_projection<Shape, ValuePlanes>(values, rows + 64 * 8, value_weights);
    add_values<kTiles>(y[0], prob[0], u);
    take_values();
  }
  add_values<kTiles>(y[1], prob[1], u);

  __syncthreads();  // all products are done with the rows, which stage the output
  store_rows<kFrames, kTiles, Shape::kRowPitch>(
      p, y, all_rows + warp * 32 * Shape::kRowPitch, lane, [&](int r) { return r / 16 * 64 + warp * 16 + r % 16; });
}

template <int kFrames, int kTiles, int kHeadTiles>
void launch_fused_wgmma(const Stream& stream, const TemporalFusedArgs& p) {
  constexpr std::int64_t kPixels = kFusedRows / kFrames;
  launch(
      temporal_fused_fwd_wgmma_kernel<kFrames, kTiles, kHeadTiles>,
      dim3(static_cast<unsigned>((p.B * p.S + kPixels - 1) / kPixels)), dim3(kFusedThreads),
      WgmmaShape<kFrames, kTiles, kHeadTiles>::kSharedBytes, stream, p,
      kFusedLog2E / std::sqrt(static_cast<float>(p.D)));
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_fused_fwd_wgmma(const Stream& stream, const TemporalFusedArgs& p) {
  if (!have_wgmma<Backend>()) throw GpuError("temporal_fused_fwd_wgmma: needs a device of compute capability 9.0");
  AVID_GPU::with_fused_shape("temporal_fused_fwd_wgmma", p.T, p.C, p.D, [&]<int kFrames, int kTiles, int kHeadTiles>() {
    AVID_GPU::launch_fused_wgmma<kFrames, kTiles, kHeadTiles>(stream, p);
  });
}

template void temporal_fused_fwd_wgmma<Gpu>(const Stream&, const TemporalFusedArgs&);

}  // namespace avid::kernels
