// kernels/temporal_attention_value_grad_wgmma.cu -- the sums of temporal_attention_value_grad.cu on a device of compute
//                                                   capability 9.0 (contract: temporal_attention_value_grad.h)
//
// Math       per head, over the positions: sum = (P h)^T d_y, [C,C]
// Layout     tiles of 64 rows in planes of one chunk (device/temporal_value_sums.h). Planes of d_y, whose rows are the
//            inner dimension, are the right operand transposed; (P h)^T is the left one, in the registers where it is
//            made
// Parallel   a block has two heads and walks over tiles, every gridDim.y-th; a warp has 16 channels of h of a head, so
//            that the three warpgroups of a block are all of two heads of 96 channels. Rows of up to 104 channels take
//            four (16 warps for 13 groups of 8 channels), up to 56 two, up to 32 one. What makes (P h)^T is that of
//            temporal_attention_value_grad.cu, on mma.sync
// Pipeline   a warp begins the product of a step of 16 rows and goes on to the next (P h)^T: four are under way, across
//            the tiles. Tiles are copied two ahead into four buffers, of which the product may still read the last one.
//            One barrier in a tile
// Traffic    h, d_y and P as temporal_attention_value_grad.cu. d_y comes once per 64 channels of h through the port of
//            shared memory, not once per 32. One block of each multiprocessor has the sums: half as many to write, to
//            read and to add (up to 56 channels two blocks)
// Numerics   as temporal_attention_value_grad.cu (the order of the sums is the hardware's)
// Limits     as the fused backward pass. Compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes    a tile without swizzle may begin at any multiple of 16 bytes, as gather_gemm_halo_wgmma.cu does
// Compiled   nvcc 13, sm_90a, no spills: 114, 112, 90, 80 registers at 104, 96, 56, 32 channels (16 frames: 116, 112,
//            92, 72); products not serialised
// Measured   never run on a GPU yet
// Predicted  H200: 2.5 in place of 3.3 ms of an update of 64 clips of AVID 71M, at 0.47 of the ceiling of wgmma
//            (docs/kernels/attention.md)
// Lost       two blocks of three warpgroups on a multiprocessor leave 80 registers: two products under way then do not
//            fit (C7512)
// Oracle     loops in f64: tests/sim/temporal_attention_value_grad_test.cpp
#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/device/temporal_value_sums.h"
#include "kernels/device/warpgroup.h"
#include "kernels/gather_gemm.h"
#include "kernels/temporal_attention_value_grad.h"

namespace avid::kernels {
namespace AVID_GPU {

template <int kFrames, int kTiles>
struct WgmmaValueShape : ValueTile<kFrames, kTiles, true> {
  using Tile = ValueTile<kFrames, kTiles, true>;
  static constexpr int kHeadWarps = Tile::kHChunks / 2;  ///< of 16 channels of h each
  static constexpr int kThreads = Tile::kHeads * kHeadWarps * 32, kStages = 4;
  static constexpr int kAhead = kStages - 2;       ///< tiles that are copied ahead of the one in work
  static constexpr int kSteps = Tile::kRows / 16;  ///< products of a tile
  static_assert(kThreads % 128 == 0);
};

template <int kFrames, int kTiles>
__global__ void __launch_bounds__((WgmmaValueShape<kFrames, kTiles>::kThreads), value_wgmma_resident(kTiles * 8))
    temporal_value_sums_wgmma_kernel(TemporalValueGradArgs p, unsigned num_tiles) {
  using Shape = WgmmaValueShape<kFrames, kTiles>;
  using Tile = typename Shape::Tile;
  SharedArena arena;
  bf16* const stages = arena.take<bf16>(Shape::kStages * Tile::kStage, "h, d_y and P");
  const int warp = threadIdx.x / 32;
  const int of_block = warp / Shape::kHeadWarps, chunk = warp % Shape::kHeadWarps * 2;
  const int first_head = static_cast<int>(blockIdx.x) * Tile::kHeads, head = first_head + of_block;
  const std::uint32_t h_lane = own_values<Tile>(chunk);
  float acc[kTiles * 4] = {};
  std::uint32_t mixed[Shape::kSteps][4] = {};  // (P h)^T of the last steps of 16 rows
  wgmma_settle(acc);                           // zeros before any product is under way
  const auto next_of = [](int stage) {
    return stage == (Shape::kStages - 1) * Tile::kStage ? 0 : stage + Tile::kStage;
  };
  unsigned tile = blockIdx.y, coming = tile;  // the tile to be multiplied, and the one to be copied;
  int now = 0, next = 0;                      // and where they lie
  const auto copy_next = [&] {
    if (coming < num_tiles) copy_value_tile<Tile, Shape::kThreads>(p, coming, first_head, stages + next);
    cp_async_commit();
    coming += gridDim.y, next = next_of(next);
  };
  for (int ahead = 0; ahead < Shape::kAhead; ++ahead) copy_next();
  for (; tile < num_tiles; tile += gridDim.y) {
    cp_async_wait<Shape::kAhead - 1>();
    fence_proxy_async();
    __syncthreads();  // this tile is there, and everybody's products with the one before the last are done
    copy_next();
    const shared_address h = shared_address(stages + now) + h_lane;
    const std::uint32_t* const prob = own_probabilities<Tile>(stages + now, of_block);
    const shared_address planes_of_d_y = shared_address(stages + now) + Tile::kHChunks * Tile::kToChunk;
    const std::uint64_t d_y = transposed_plain_tile(planes_of_d_y, Tile::kToChunk);
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      wgmma_wait<Shape::kSteps - 1>();  // the last tile's product with this left operand is done
      wgmma_settle(mixed[step]);
      mix_values<Tile>(mixed[step], h, prob, step);
      wgmma_fence();
      wgmma_bf16_fragment<kTiles * 8>(acc, mixed[step], d_y + step * 16);
      wgmma_commit();
    }
    now = next_of(now);
  }
  wgmma_wait<0>();
  wgmma_settle(acc);
#pragma unroll
  for (auto& operand : mixed) wgmma_settle(operand);
  if (head >= p.N) return;
  store_value_sums<Tile>(p, head, chunk * 8, [&](int j, int half) {
    return make_float2(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]);
  });
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_value_sums_wgmma(const Stream& stream, const TemporalValueGradArgs& p) {
  if (!have_wgmma<Backend>()) throw GpuError("temporal_value_sums_wgmma: needs a device of compute capability 9.0");
  AVID_GPU::with_fused_shape(
      "temporal_value_sums_wgmma", p.T, p.C, p.D, [&]<int kFrames, int kTiles, int kHeadTiles>() {
        AVID_GPU::launch_value_sums<AVID_GPU::WgmmaValueShape<kFrames, kTiles>>(
            AVID_GPU::temporal_value_sums_wgmma_kernel<kFrames, kTiles>, stream, p);
      });
}

template void temporal_value_sums_wgmma<Gpu>(const Stream&, const TemporalValueGradArgs&);

}  // namespace avid::kernels
