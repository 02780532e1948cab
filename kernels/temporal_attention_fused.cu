// kernels/temporal_attention_fused.cu -- temporal attention forward in one kernel (contract: its header)
//
// Math       kernels/temporal_attention_cpu.cpp
// Parallel   a block is 16 pixels x 8 frames, or 8 x 16: 128 rows, 4 warps of 32 rows. 16 rows, which one product
//            takes, are two pixels of 8 frames, whose logits are two blocks on the diagonal, or one pixel of 16. Rows
//            are normalised into shared memory once; then, head by head, everything stays in the registers of a warp:
//              q, k    projected rows; the C fragment of q is the A fragment of the logits, that of k their B fragment
//              u       rows times w_out w_v of the head (`values`, made once per call): y = x + sum over heads of P u.
//                      64 channels of it at a time; its C fragment, turned, is the B fragment of P u, whose sums are
//                      those of y, over all heads in registers
//            The residual is added on the way out. Weights stream through three buffers of shared memory. Devices of
//            compute capability 9.0 take temporal_attention_fused_wgmma.cu, which shares what is between projections
// Traffic    x is read twice (the second time from L2), y written once; every block reads all weights through L2
// Numerics   h, q, k, w_out w_v, u and p are rounded to bf16, sums in f32; softmax in base 2
// Limits     T = 8 or 16, bf16; C and D of kTemporalFusedShapes (registers: accumulators of a whole row)
// Work       rows and heads of an odd number of 8 channels end in a step of 8 (m16n8k8): at 104 channels 5 % fewer
//            products than with a row of 112, at heads of 50, of which 56 count, 3 %. With w_out w_v a head takes C C
//            multiply-adds per row instead of 2 C D, and v and o are never formed: 6 % fewer of all products at
//            C, D = 100, 64, 7 % at 90, 50, 24 % at 50, 50
// Compiled   nvcc 13, sm_80 (sm_90), no spills: instructions per product in the loop over heads 3.4 at 104 channels,
//            3.4 (3.5), 3.9 (4.0), 7.5 (7.8) for 96, 56, 32; 250 (252) and 255 registers for the first two
// Counted    5.2 before at 96 channels. Copies of weights a constant distance apart saved about 1.3 of them, unrolled
//            steps 0.5, the softmax's scale on the logits instead of q 0.1
// Measured   never run on a GPU yet
// Predicted  6.2 ms instead of 15.2 ms composed for 64 clips of 64x64 at C = 100 on an A100
// Oracle     kernels/temporal_attention_cpu.cpp in f64, compared in tests/sim/temporal_attention_test.cpp
#include "kernels/temporal_attention_fused.h"

#include <cmath>
#include <type_traits>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/device/temporal_fused_fwd.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

/// Tokens of kFrames frames, kTiles x 8 channels of a row, heads of kHeadTiles x 8 channels.
template <int kFrames, int kTiles, int kHeadTiles>
struct FusedShape : FusedTiles<kTiles, kHeadTiles> {
  using Tiles = FusedTiles<kTiles, kHeadTiles>;
  static constexpr int kSlices = 2 + Tiles::kValueSlices;
  /// Steps of a projection of rows; unrolled any further they spill.
  static constexpr int kUnrolled = kTiles == 13 ? 1 : kFrames == 16 && kTiles == 12 ? 3 : Tiles::kSteps;
  static constexpr int kSharedBytes =
      (kFusedRows * Tiles::kRowPitch + kFusedStages * Tiles::kSlice) * 2 + RotaryCode<kFrames>::kSharedBytes;
};

/// y += P u for the channels of a slice of values. P's fragments are zero where pixels of a pair differ.
template <class Shape, int kSliceOfValues>
AVID_DEVICE void add_slice(
    float (&y)[2][Shape::kChunks][4], const std::uint32_t (&prob)[2][4], shared_address left, shared_address right,
    shared_address left_half, shared_address right_half) {
  constexpr int kFirst = kSliceOfValues * 8, kCount = Shape::value_tiles(kSliceOfValues);
  HeadAccumulators acc;
  project_rows<Shape, kCount>(acc, left, right, left_half, right_half);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    RowTiles<kCount> u;
    round_tiles<kCount>(u, [&](int j, int half) { return make_float2(acc[i][j][2 * half], acc[i][j][2 * half + 1]); });
    add_values<kCount>(y[i] + kFirst, prob[i], u);
  }
}

template <int kFrames, int kTiles, int kHeadTiles>
__global__ void __launch_bounds__(kFusedThreads) temporal_fused_fwd_kernel(TemporalFusedArgs p, float scale) {
  using Shape = FusedShape<kFrames, kTiles, kHeadTiles>;
  constexpr bool kPair = kFrames == 8;  // two pixels in 16 rows
  SharedArena arena;
  bf16* tile = arena.take<bf16>(kFusedRows * Shape::kRowPitch, "rows");
  bf16* slices = arena.take<bf16>(kFusedStages * Shape::kSlice, "weights");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  WeightRing<Shape> ring(p, slices);
  normalise_rows<kFrames, Shape::kChunks, Shape::kRowPitch>(
      tile, p.x, p.gamma, static_cast<int>(p.C), p.B, p.S, blockIdx.x, {}, warp, g, t);
  const RotaryCode<kFrames> rotary(arena, p, g, t);  // the ring's first barrier is behind it
  bf16* const rows = tile + warp * 32 * Shape::kRowPitch;
  // ldmatrix: lane i addresses a row of block i / 8. Left operands: rows 0-7, 8-15 of the first chunk, then of the
  // second; right ones: first and second chunk of rows 0-7, then of rows 8-15.
  const std::uint32_t left_lane = (lane % 16 * Shape::kRowPitch + lane / 16 * 8) * 2;
  const std::uint32_t right_lane = ((lane / 16 * 8 + lane % 8) * Shape::kRowPitch + lane / 8 % 2 * 8) * 2;
  const shared_address rows_left = shared_address(rows) + left_lane;
  // In steps of 8, of either: the first chunk of 32 rows.
  const std::uint32_t half_lane = lane * Shape::kRowPitch * 2;
  const shared_address rows_half = shared_address(rows) + half_lane;

  float y[2][kTiles][4] = {};
  for (int head = 0; head < p.N; ++head) {
    RowTiles<kHeadTiles> q[2], k[2];
    const auto project = [&](RowTiles<kHeadTiles>(&to)[2], const bf16* slice) {
      HeadAccumulators acc;
      const shared_address weights(slice);
      project_rows<Shape, kHeadTiles>(acc, rows_left, weights + right_lane, rows_half, weights + half_lane);
#pragma unroll
      for (int i = 0; i < 2; ++i)
        round_tiles<kHeadTiles>(to[i], [&](int j, int half) {
          return rotary.turned(j, half, make_float2(acc[i][j][2 * half], acc[i][j][2 * half + 1]));
        });
    };
    project(q, ring.template next<0>(p, head));
    project(k, ring.template next<1>(p, head));
    const TokenLogits bias = bias_of_head<kFrames>(p.bias + (head * kFrames + g) * kFrames + 2 * t);
    std::uint32_t prob[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) attend<kPair, kHeadTiles>(prob[i], q[i], k[i], bias, scale * kFusedLog2E);
    const auto values = [&](auto slice) {
      const shared_address weights = shared_address(ring.template next<2 + slice()>(p, head));
      add_slice<Shape, slice()>(y, prob, rows_left, weights + right_lane, rows_half, weights + half_lane);
    };
    values(std::integral_constant<int, 0>{});
    if constexpr (Shape::kValueSlices == 2) values(std::integral_constant<int, 1>{});
  }

  __syncwarp();  // the warp's own rows of h are done: they stage its output
  store_rows<kFrames, kTiles, Shape::kRowPitch>(p, y, rows, lane, [&](int r) { return warp * 32 + r; });
}

template <int kFrames, int kTiles, int kHeadTiles>
void launch_fused(const Stream& stream, const TemporalFusedArgs& p) {
  constexpr std::int64_t kPixels = kFusedRows / kFrames;
  launch(
      temporal_fused_fwd_kernel<kFrames, kTiles, kHeadTiles>,
      dim3(static_cast<unsigned>((p.B * p.S + kPixels - 1) / kPixels)), dim3(kFusedThreads),
      FusedShape<kFrames, kTiles, kHeadTiles>::kSharedBytes, stream, p, 1.0f / std::sqrt(static_cast<float>(p.D)));
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_fused_fwd(const Stream& stream, const TemporalFusedArgs& p) {
  if (have_wgmma<Backend>()) return temporal_fused_fwd_wgmma<Backend>(stream, p);
  AVID_GPU::with_fused_shape("temporal_fused_fwd", p.T, p.C, p.D, [&]<int kFrames, int kTiles, int kHeadTiles>() {
    AVID_GPU::launch_fused<kFrames, kTiles, kHeadTiles>(stream, p);
  });
}

template void temporal_fused_fwd<Gpu>(const Stream&, const TemporalFusedArgs&);

}  // namespace avid::kernels
