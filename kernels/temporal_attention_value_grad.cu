// kernels/temporal_attention_value_grad.cu -- gradients of the weights that values pass, in temporal attention
// (contract: its header)
//
// Math       per head, [C,C]:   sum = (P h)^T d_y    d_w_o = sum^T w_v^T    d_w_v^T = sum w_o
//            Neither o nor the gradient of v is read for it: P of a pixel is 8 x 8 or 16 x 16.
// Parallel   sums: a block has two heads and walks over tiles of 8 pixels x 8 frames or 4 x 16, every gridDim.y-th; a
//            warp has 32 channels of h of a head and all of d_y. (P h)^T of 32 channels by 16 rows is two products per
//            16 channels (P of the two pixels, m16n8k8; or 8 queries each of one pixel's, m16n8k16); its C fragment is
//            the A fragment of the product with d_y. Then one thread per element of w_v.
// Traffic    h, d_y and P once per pair of heads (from L2 but for the first), copied a tile ahead of time; C x C sums
//            of each head per block and chunk of clips, read and written
// Numerics   P h is rounded to bf16, sums in f32: a chunk's in the accumulator, chunks and blocks added in order
// Limits     as the fused backward pass
// Compiled   nvcc 13, sm_80 (sm_90), no spills: 168 registers up to 96 channels, two blocks of 6 warps on an SM; 194
//            (190) up to 104; 2.7 and 2.6 instructions per product for 8 frames, as many for 16, whose P is copied in a
//            loop of its own. Before that loop had a known end, 4.7 (4.8) and 4.5 (4.7)
// Measured   never run on a GPU yet
// Predicted  an update of AVID 71M with 64 clips: 5.9 ms on an A100; 3.3 ms on an H200, which now takes
//            temporal_attention_value_grad_wgmma.cu
// Oracle     loops in f64: tests/sim/temporal_attention_value_grad_test.cpp; the whole block in
//            tests/sim/temporal_attention_test.cpp
#include "kernels/temporal_attention_value_grad.h"

#include "kernels/device/gpu.h"
#include "kernels/device/row_lanes.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/device/temporal_value_sums.h"
#include "kernels/gather_gemm.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels {
namespace AVID_GPU {

template <int kFrames, int kTiles>
struct ValueGradShape : ValueTile<kFrames, kTiles, false> {
  using Tile = ValueTile<kFrames, kTiles, false>;
  static constexpr int kHeadWarps = Tile::kHChunks / 4;  ///< of 32 channels of h each
  static constexpr int kThreads = Tile::kHeads * kHeadWarps * 32, kStages = 2;
};

template <int kFrames, int kTiles>
__global__ void __launch_bounds__(ValueGradShape<kFrames, kTiles>::kThreads, kTiles < 13 ? 2 : 1)
    temporal_value_sums_kernel(TemporalValueGradArgs p, unsigned num_tiles) {
  using Shape = ValueGradShape<kFrames, kTiles>;
  using Tile = typename Shape::Tile;
  SharedArena arena;
  bf16* const stages = arena.take<bf16>(Shape::kStages * Tile::kStage, "h, d_y and P");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int of_block = warp / Shape::kHeadWarps, chunk = warp % Shape::kHeadWarps * 4;
  const int first_head = static_cast<int>(blockIdx.x) * Tile::kHeads, head = first_head + of_block;
  const std::uint32_t h_lane = own_values<Tile>(chunk);
  // What the lane addresses in ldmatrix, transposed, of 16 rows of d_y: a chunk of all of them, then the next chunk.
  const std::uint32_t d_y_lane = (Tile::kHChunks + lane / 16) * Tile::kToChunk + lane % 16 * Tile::kToRow;
  float acc[2][kTiles][4] = {};
  bf16* stage = stages;
  unsigned tile = blockIdx.y;
  if (tile < num_tiles) {
    copy_value_tile<Tile, Shape::kThreads>(p, tile, first_head, stage);
    cp_async_commit();
  }
  for (; tile < num_tiles; tile += gridDim.y) {
    bf16* const next = stage == stages ? stages + Tile::kStage : stages;
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and everybody is done with the last one
    if (tile + gridDim.y < num_tiles) {
      copy_value_tile<Tile, Shape::kThreads>(p, tile + gridDim.y, first_head, next);
      cp_async_commit();
    }
    const shared_address h = shared_address(stage) + h_lane, d_y = shared_address(stage) + d_y_lane;
    const std::uint32_t* const prob = own_probabilities<Tile>(stage, of_block);
#pragma unroll
    for (int block = 0; block < Tile::kRows / 16; ++block) {
      std::uint32_t mixed[2][4];  // (P h)^T
#pragma unroll
      for (int i = 0; i < 2; ++i) mix_values<Tile>(mixed[i], h + i * 2 * Tile::kToChunk, prob, block);
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        std::uint32_t b[4] = {};
        if (j + 1 < kTiles) {
          ldmatrix_x4_trans(b, d_y + block * 16 * Tile::kToRow + j * Tile::kToChunk);
        } else {
          std::uint32_t single[2];
          ldmatrix_x2_trans(single, d_y + block * 16 * Tile::kToRow + j * Tile::kToChunk);
          b[0] = single[0], b[1] = single[1];
        }
        const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma_bf16_16x8x16(acc[i][j], mixed[i], b0, acc[i][j]);
          if (j + 1 < kTiles) mma_bf16_16x8x16(acc[i][j + 1], mixed[i], b1, acc[i][j + 1]);
        }
      }
    }
    stage = next;
  }
  if (head >= p.N) return;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    store_value_sums<Tile>(p, head, chunk * 8 + i * 16, [&](int j, int half) {
      return make_float2(acc[i][j][2 * half], acc[i][j][2 * half + 1]);
    });
}

/// d_w_v [N*D,C] and d_w_o [C,N*D], either of which may be absent, from the sums [N][C][pitch]; one thread per element
/// of w_v.
__global__ void temporal_value_weights_kernel(
    const float* sums, int C, int N, int D, Rows<const bf16> w_v, Rows<const bf16> w_o, Rows<float> d_w_v,
    Rows<float> d_w_o) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= N * D * C) return;
  const int row = e / C, c = e - row * C, pitch = (C + 7) / 8 * 8;
  const float* const sum = sums + std::int64_t{row / D} * C * pitch;
  float v = 0, o = 0;
  for (int k = 0; k < C; ++k) {
    v = fmaf(sum[c * pitch + k], to_float(w_o.row(k)[row]), v);
    o = fmaf(sum[k * pitch + c], to_float(w_v.row(row)[k]), o);
  }
  if (d_w_v) d_w_v.row(row)[c] = v;
  if (d_w_o) d_w_o.row(c)[row] = o;
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_value_sums(const Stream& stream, const TemporalValueGradArgs& p) {
  if (have_wgmma<Backend>()) return temporal_value_sums_wgmma<Backend>(stream, p);
  AVID_GPU::with_fused_shape("temporal_value_sums", p.T, p.C, p.D, [&]<int kFrames, int kTiles, int kHeadTiles>() {
    AVID_GPU::launch_value_sums<AVID_GPU::ValueGradShape<kFrames, kTiles>>(
        AVID_GPU::temporal_value_sums_kernel<kFrames, kTiles>, stream, p);
  });
}

template <class Backend>
void temporal_value_weight_grads(
    const Stream& stream, const TemporalValueGradArgs& p, Rows<const BFloat16> w_v, Rows<const BFloat16> w_o,
    float* total, Rows<float> d_w_v, Rows<float> d_w_o) {
  const std::int64_t of_block = p.N * p.C * ((p.C + 7) / 8 * 8), elements = p.N * p.D * p.C;
  AVID_GPU::sum_rows(stream, p.sums, p.splits, of_block, of_block, total);
  AVID_GPU::launch(
      AVID_GPU::temporal_value_weights_kernel, dim3(static_cast<unsigned>((elements + 127) / 128)), dim3(128), 0,
      stream, total, static_cast<int>(p.C), static_cast<int>(p.N), static_cast<int>(p.D), w_v, w_o, d_w_v, d_w_o);
}

template void temporal_value_sums<Gpu>(const Stream&, const TemporalValueGradArgs&);
template void temporal_value_weight_grads<Gpu>(
    const Stream&, const TemporalValueGradArgs&, Rows<const BFloat16>, Rows<const BFloat16>, float*, Rows<float>,
    Rows<float>);

}  // namespace avid::kernels
