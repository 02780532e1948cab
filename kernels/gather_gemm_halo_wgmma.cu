// kernels/gather_gemm_halo_wgmma.cu -- the gathered product of a window in a plane, every input row read once
//                                      (contract: gather_gemm.h; compute capability 9.0, bf16)
//
// Math      as gather_gemm.cu, for windows of stride 1 whose result is as large as the source (3x3, 7x7, and their data
//           gradients). Rows are positions of a padded raster (halo_raster.h), so that tap k of rows r, r+1, ... are
//           the rows r+d(k), r+1+d(k), ... of one tile in shared memory
// Layout    the tile: planes of one chunk (8 channels) each, positions 16 bytes apart, as wgmma takes it without
//           swizzle: a block of 8 positions and one chunk is 128 bytes in a row, at any position. A step of the inner
//           dimension (16 columns) is two planes at one tap; a plane that is left over is taken at two taps. The table
//           `entries` says where each step's two chunks begin, and where the weights of each lie. Channels that do not
//           fit at once go in passes
// Parallel  a block of two warpgroups owns BM positions x BN columns; grid (position tiles, column tiles). One
//           warpgroup loads, the tile first, then stages of weights, 64 columns each; the other multiplies. Two blocks
//           run per multiprocessor: one loads its tile or stores its results while the other multiplies
// Pipeline  wgmma_stages.h; before a pass the loader announces all that it loaded and waits until the tile is free. The
//           tile comes by cp.async; so do weights, but where all planes are there at once and in pairs, and the weights
//           of a row lie in that order (weight_runs.h): 90 channels. Those come by tensor copies (TMA)
// Traffic   a block reads (BM + lead + tail) / BM rows per row, not one per tap, and its weights. Counted by the
//           simulator at 64x64, 90 channels: docs/kernels/convolution.md
// Numerics  as gather_gemm.cu
// Limits    2^31 positions of the raster; compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes   a tile without swizzle may begin at any multiple of 16 bytes, as the PTX manual says of start addresses; of
//           tensor copies what gather_gemm_wgmma.cu assumes
// Measured  never run on a GPU yet
// Predicted H200: 0.72 of the dense bf16 peak at 96 and 0.74 at 104 columns, bound by the port of shared memory, less
//           3% of positions past the edges at 64x64, 6% at 32x32 (docs/kernels/convolution.md)
// Oracle    as gather_gemm.cu: tests/sim/gather_gemm_halo_wgmma_test.cpp
#include <string>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/gather_norm.h"
#include "kernels/device/gpu.h"
#include "kernels/device/halo_tile.h"
#include "kernels/device/warpgroup.h"
#include "kernels/device/weight_tiles.h"
#include "kernels/device/wgmma_stages.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

template <class Tile, class End>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    gather_gemm_halo_wgmma_kernel(GatherGemm<bf16> p, HaloPlan h, const __grid_constant__ WeightTiles weights) {
  constexpr int kStages = Tile::kStages, kTilesM = Tile::kTilesM, BM = Tile::BM, BN = Tile::BN;
  constexpr int kStepChunks = kTileRowBytes / 16, kStepEntries = kStepChunks / 2, kRowStep = 128 / kStepChunks;
  constexpr int kLoads = (BN + kRowStep - 1) / kRowStep, kStage = BN * kTileRowBytes;
  static_assert(kStage % kTileAlignment == 0);

  const int m0 = static_cast<int>(blockIdx.x) * BM, n0 = static_cast<int>(blockIdx.y) * BN;
  const int planes = p.source[0].chunks + p.source[1].chunks;

  SharedArena arena;
  unsigned char* stages = arena.take_aligned<unsigned char>(kStages * kStage, kTileAlignment, "stages");
  unsigned char* tile = arena.take<unsigned char>(h.tile_bytes, "tile");
  mbarrier* memory = arena.take<mbarrier>(StageBarriers<kStages>::kCount + 2, "barriers");  // even, for the arena
  int* source_row = arena.take<int>(h.needed, "source_row");  // of a position of the tile; negative: zero
  HaloEntry* entries = arena.take<HaloEntry>(h.entries, "entries");
  const StageBarriers<kStages> barriers(memory);
  const shared_address tile_free(memory + StageBarriers<kStages>::kCount);

  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31;
  if (thread == 0) {
    barriers.init(4, weights.used != 0);
    mbarrier_init(tile_free, 4);
  }
  for (int i = thread; i < h.needed; i += Tile::kThreads) source_row[i] = raster_row(h, m0 - h.lead + i);
  for (int i = thread; i < h.entries; i += Tile::kThreads) {
    const int pass = i / h.entries_per_pass, first = pass * h.planes_per_pass;
    entries[i] = halo_entry(p, h, first, min(h.planes_per_pass, planes - first), i - pass * h.entries_per_pass);
  }
  __syncthreads();

  const int steps = h.entries / kStepEntries, steps_per_pass = h.entries_per_pass / kStepEntries;

  if (thread >= 128) {
    fewer_registers<Tile::kLoadRegisters>();
    const int t = thread & 127, load_column = t % kStepChunks, load_row = t / kStepChunks;
    const int weight_rows = min(BN, p.num_weight_rows - n0);  // of this block; rows past them are zero
    const shared_address load = shared_address(stages) + swizzled_chunk(load_row, load_column);
    const std::uint32_t weight_row = static_cast<std::uint32_t>(n0 + load_row) * p.weight_row;

    StageLoader<kStages> loader(barriers, lane);
    int pass = 0, first_of_pass = 0;
    const auto begin_pass = [&](int s) {
      if (s != first_of_pass) return;
      if (pass > 0) {
        loader.announce_all(s);
        mbarrier_wait(tile_free, (pass - 1) & 1);
      }
      const int first_plane = pass * h.planes_per_pass;
      load_halo<128>(p, h, tile, source_row, first_plane, min(h.planes_per_pass, planes - first_plane), t);
      first_of_pass += steps_per_pass, ++pass;
    };
    const bool by_tile = weights.used != 0;
    loader.run(steps, begin_pass, [&](int s, int stage) {
      if (by_tile) {
        if (t == 0)
          barriers.begin_tile(
              stage, shared_address(stages) + stage * kStage, weights.map, s * (kTileRowBytes / 2), n0, kStage);
        return;
      }
      const int weight = entries[s * kStepEntries + load_column / 2].weight[load_column % 2];
      std::uint32_t at = weight_row + static_cast<std::uint32_t>(weight);
      const int rows = weight < 0 ? 0 : weight_rows;
#pragma unroll
      for (int i = 0; i < kLoads; ++i, at += kRowStep * p.weight_row) {
        const int r = load_row + i * kRowStep;
        if (BN % kRowStep != 0 && r >= BN) break;
        cp_async_16(
            load + (stage * kStage + i * kRowStep * kTileRowBytes), p.weights + std::size_t{at} * 8,
            r < rows);  // nothing is read past the rows
      }
    });
    return;
  }

  more_registers<Tile::kMultiplyRegisters>();
  const int warp = thread >> 5;
  float acc[kTilesM][BN / 2];  // in blocks of 8 columns as those of mma
  start_at_bias<kTilesM, BN>(p, n0, lane, [&](int i, int j, int e) -> float& { return acc[i][4 * j + e]; });
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) wgmma_settle(acc[i]);

  const std::uint64_t tile_a = plain_tile(shared_address(tile)), tiles_b = swizzled_tile(shared_address(stages));
  StageCursor<kStages> at{0};
  for (int s = 0, pass = 0; s < steps; ++pass) {
    const int end = min(s + steps_per_pass, steps);
    for (bool first = true; s < end; ++s, first = false) {
      barriers.wait_full(at);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kStepEntries; ++k) {
        const HaloEntry& e = entries[s * kStepEntries + k];
        const std::uint64_t a = tile_a + e.first + (std::uint64_t{e.second} << kLeadingShift);
        const std::uint64_t b = tiles_b + at.stage * (kStage / 16) + k * kDescriptorStep;
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) wgmma_bf16<BN>(acc[i], a + i * 64, b);
      }
      wgmma_commit();
      wgmma_wait<1>();  // the step before is done: its stage is free
      if (!first) barriers.release(at.before(), lane);
      at.next();
    }
    wgmma_wait<0>();
    barriers.release(at.before(), lane);
    if (lane == 0) mbarrier_arrive(tile_free);
  }
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) wgmma_settle(acc[i]);
  mbarrier_wait(tile_free, (h.passes - 1) & 1);  // all warps' products of the last pass: the stages are free

  // Epilogue: 16 rows of a warp at a time through its own shared memory in f32, then whole chunks.
  constexpr int kPitch = staged_pitch(BN);
  constexpr std::size_t kStagedBytes = staged_bytes(4, BN);
  static_assert(kStagedBytes <= kStages * kStage, "staging fits into the stages");
  NormTable table{};
  if constexpr (End::kNorm) {
    table = fill_norm_table<BN>(p, stages + kStagedBytes, m0 / (h.rows * h.pitch) * p.norm.S, thread, 128);
    __syncwarp();
    if (lane == 0) mbarrier_arrive(tile_free);
    mbarrier_wait(tile_free, h.passes & 1);
  }
  float* staged = reinterpret_cast<float*>(stages) + warp * 16 * kPitch;
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
    store_fragments<End, bf16, BN, kPitch>(
        p, staged, source_row + h.lead + i * 64 + warp * 16, n0 / 8, lane, table,
        [&](int j, int e) { return acc[i][4 * j + e]; });
  }
}

}  // namespace AVID_GPU

template <class Backend>
void gather_gemm_halo_wgmma(const Stream& stream, const GatherGemm<BFloat16>& p, int tile) {
  if (!have_wgmma<Backend>())
    throw GpuError("gather_gemm: halo tile " + std::to_string(tile) + " needs a device of compute capability 9.0");
  const std::int64_t N = std::int64_t{p.out[0].chunks + p.out[1].chunks} * kChunk<BFloat16>;
  HaloTiles::with(tile, [&]<class Tile>() {
    const HaloPlan h = halo_plan(p, Tile::needs());
    if (h.pitch == 0) throw GpuError(kNoHalo);
    const dim3 grid(
        static_cast<unsigned>((h.M + Tile::BM - 1) / Tile::BM), static_cast<unsigned>((N + Tile::BN - 1) / Tile::BN));
    const auto run = [&]<class End>(End) {
      AVID_GPU::launch(
          AVID_GPU::gather_gemm_halo_wgmma_kernel<Tile, End>, grid, dim3(Tile::kThreads), h.shared_bytes, stream, p, h,
          AVID_GPU::weight_tiles(p, halo_weights_in_a_run(p, h), Tile::BN));
    };
    p.norm.gamma != nullptr ? run(AVID_GPU::NormedRows{}) : run(AVID_GPU::PlainRows{});
  });
}

template void gather_gemm_halo_wgmma<Gpu>(const Stream&, const GatherGemm<BFloat16>&, int);

}  // namespace avid::kernels
