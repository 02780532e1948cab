// kernels/gather_gemm_halo_wgmma.cu -- the gathered product of a window in a plane, every input row read once
//                                      (contract: gather_gemm.h; compute capability 9.0, bf16)
//
// Math      as gather_gemm.cu, for windows whose result is as large as the source, or the stride's part of it (3x3,
//           7x7, 4x4 with stride 2, and their data gradients). Results and their windows are positions of a padded
//           raster (halo_raster.h), so that tap k of a result is a fixed number of positions away from its own
// Layout    the tile: planes of one chunk (8 channels) each, positions 16 bytes apart, as wgmma takes it without
//           swizzle: a block of 8 positions and one chunk is 128 bytes in a row, at any position, and from 8 rows to
//           the next 8 any distance. So the 64 rows of a product are a patch of 8x8 pixels where W and H are multiples
//           of 8, and all of them results; else 64 positions in a row, of which some lie past the edges. A step of the
//           inner dimension (16 columns) is two planes at one tap; a plane that is left over is taken at two taps. The
//           table `entries` says where each step's two chunks begin, and where the weights of each lie. Planes that do
//           not fit at once go in passes. Forward with stride 2 there is a plane for every chunk at each of four
//           classes of source positions, at which the window has steps of one; `source_row` has their rows, class
//           after class
// Parallel  a block of two warpgroups owns kTilesM products of 64 rows x BN columns; grid (products, column tiles,
//           phases of the adjoint's results). One warpgroup loads, the tile first, then stages of weights, 64 columns
//           each; the other multiplies. Two blocks run per multiprocessor: one loads its tile or stores its results
//           while the other multiplies. That takes 24 registers to load with where 232 multiply
// Pipeline  wgmma_stages.h; a stage is multiplied in two turns, the last one of all in one if that is enough. Before a
//           pass the loader announces all that it loaded and waits until the tile is free. The tile comes by cp.async;
//           so do weights, but where all planes are there at once and in pairs, and the weights of a row lie in that
//           order (weight_runs.h): 90 channels. Those come by tensor copies (TMA)
// Traffic   3x3, 192 results of 64x64: a block reads 27 lines of 10 positions, or 1.4 rows per row, not one per tap,
//           and its weights. Counted by the simulator at 64x64, 90 channels: docs/kernels/convolution.md
// Numerics  as gather_gemm.cu
// Limits    2^31 positions of the raster; compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes   a tile without swizzle may begin at any multiple of 16 bytes, as the PTX manual says of start addresses; of
//           tensor copies what gather_gemm_wgmma.cu assumes
// Measured  never run on a GPU yet
// Predicted H200: 0.75 of the dense bf16 peak at 96 to 200 columns, bound by the tensor cores and as much by the port
//           of shared memory; odd sizes less positions past the edges, 6% at 31x31 (docs/kernels/convolution.md)
// Oracle    as gather_gemm.cu: tests/sim/gather_gemm_halo_wgmma_test.cpp
#include <string>
#include <type_traits>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/gather_norm_grad.h"
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

  const int n0 = static_cast<int>(blockIdx.y) * BN, product0 = static_cast<int>(blockIdx.x) * kTilesM;
  const int position0 = product_position(h, product0), phase = static_cast<int>(blockIdx.z);  // of the adjoint

  SharedArena arena;
  unsigned char* stages = arena.take_aligned<unsigned char>(kStages * kStage, kTileAlignment, "stages");
  // What has a fixed size comes first, and so is at places known beforehand, which saves registers.
  mbarrier* memory = arena.take<mbarrier>(StageBarriers<kStages>::kCount + 2, "barriers");  // even, for the arena
  int* out_row = arena.take<int>(BM, "out_row");                                            // negative: none
  unsigned char* tile = arena.take<unsigned char>(h.tile_bytes, "tile");
  int* source_row = arena.take<int>(h.classes * h.needed, "source_row");  // of a position of the tile; negative: zero
  HaloEntry* entries = arena.take<HaloEntry>(h.entries, "entries");
  const StageBarriers<kStages> barriers(memory);
  const shared_address tile_free(memory + StageBarriers<kStages>::kCount);

  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31;
  if (thread == 0) {
    barriers.init(4, weights.used != 0);
    mbarrier_init(tile_free, 4);
  }
  for (int i = thread; i < h.classes * h.needed; i += Tile::kThreads)
    source_row[i] = window_row(p, h, phase, i / h.needed, position0 + i % h.needed);
  for (int r = thread; r < BM; r += Tile::kThreads) {
    const int group = r % kProductRows / kProductGroup;
    const int q = product_position(h, product0 + r / kProductRows) + group * h.group + r % kProductGroup;
    const int row = raster_row(h, q);
    out_row[r] = row < 0 ? -1 : phase_row(p, h, phase, row);
  }
  for (int i = thread; i < h.entries; i += Tile::kThreads) {
    const int pass = i / h.entries_per_pass, first = pass * h.planes_per_pass;
    entries[i] =
        halo_entry(p, h, phase, first, min(h.planes_per_pass, h.planes - first), i - pass * h.entries_per_pass);
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
    int pass = 0;
    const auto begin_pass = [&](int s) {
      if (s != pass * steps_per_pass) return;
      if (pass > 0) {
        loader.announce_all(s);
        mbarrier_wait(tile_free, (pass - 1) & 1);
      }
      const int first_plane = pass * h.planes_per_pass;
      load_halo<128>(p, h, tile, source_row, first_plane, min(h.planes_per_pass, h.planes - first_plane), t);
      ++pass;
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

  std::uint64_t tile_a[kTilesM];  // of the products
#pragma unroll
  for (int i = 0; i < kTilesM; ++i)
    tile_a[i] = plain_tile(shared_address(tile) + (product_position(h, product0 + i) - position0) * 16, h.group * 16);
  const std::uint64_t tiles_b = swizzled_tile(shared_address(stages));
  StageCursor<kStages> at{0};
  const int turns = h.used_entries / kHaloTurnEntries;
  for (int turn = 0; turn < turns;) {
    const int end = min(turn + h.entries_per_pass / kHaloTurnEntries, turns);
    for (bool first = true; turn < end; ++turn, first = false) {
      const int first_entry = turn * kHaloTurnEntries, of_stage = first_entry % kStepEntries;
      if (of_stage == 0 && turn > 0) at.next();
      barriers.wait_full(at);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kHaloTurnEntries; ++k) {
        const uint2 places = entry_places(entries[first_entry + k]);
        const std::uint64_t chunks = places.x + (std::uint64_t{places.y} << kLeadingShift);
        const std::uint64_t b = tiles_b + at.stage * (kStage / 16) + (of_stage + k) * kDescriptorStep;
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) wgmma_bf16<BN>(acc[i], tile_a[i] + chunks, b);
      }
      wgmma_commit();
      wgmma_wait<1>();  // the turn before is done: if it was the last of its stage, that is free
      if (of_stage == 0 && !first) barriers.release(at.before(), lane);
    }
    wgmma_wait<0>();
    barriers.release(at.stage, lane);
    if (lane == 0) mbarrier_arrive(tile_free);
  }
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) wgmma_settle(acc[i]);
  mbarrier_wait(tile_free, (h.passes - 1) & 1);  // all warps' products of the last pass: the stages are free

  // Epilogue: 16 rows of a warp at a time through its own shared memory, then whole chunks.
  constexpr int kPitch = staged_pitch(BN);
  constexpr std::size_t kStagedBytes = staged_bytes(4, BN);
  static_assert(kStagedBytes <= kStages * kStage, "staging fits into the stages");
  // Of the frame that the block begins in.
  [[maybe_unused]] const int first_row = position0 / (h.strips * h.rows * h.pitch) * p.norm.S;
  int parity = h.passes & 1;
  [[maybe_unused]] const auto barrier = [&] {  // of the multiplying warps
    __syncwarp();
    if (lane == 0) mbarrier_arrive(tile_free);
    mbarrier_wait(tile_free, parity);
    parity ^= 1;
  };
  const auto rows_of = [&](int i) { return out_row + i * kProductRows + warp * 16; };
  const auto sum = [&](int i, int j, int e) { return acc[i][4 * j + e]; };
  if constexpr (std::is_same_v<End, NormGradRows>)
    return end_in_norm_grad<BN, 4, kTilesM>(p, stages, first_row, thread, rows_of, sum, barrier);
  NormTable table{};
  if constexpr (End::kNorm) {
    table = fill_norm_table<BN>(p, stages + kStagedBytes, first_row, thread, 128);
    barrier();
  }
  float* staged = reinterpret_cast<float*>(stages) + warp * 16 * kPitch;
  store_fragments<End, bf16, BN, kPitch, kTilesM>(p, staged, n0 / 8, lane, table, rows_of, sum);
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
        static_cast<unsigned>((h.products + Tile::kTilesM - 1) / Tile::kTilesM),
        static_cast<unsigned>((N + Tile::BN - 1) / Tile::BN), static_cast<unsigned>(phases_of(p)));
    const auto run = [&]<class End>(End) {
      AVID_GPU::launch(
          AVID_GPU::gather_gemm_halo_wgmma_kernel<Tile, End>, grid, dim3(Tile::kThreads), h.shared_bytes, stream, p, h,
          AVID_GPU::weight_tiles(p, halo_weights_in_a_run(p, h), Tile::BN));
    };
    if constexpr (Tile::kEndsInNormGrad) {
      if (p.norm.x.chunks > 0) return run(AVID_GPU::NormGradRows{});
    }
    p.norm.gamma != nullptr ? run(AVID_GPU::NormedRows{}) : run(AVID_GPU::PlainRows{});
  });
}

template void gather_gemm_halo_wgmma<Gpu>(const Stream&, const GatherGemm<BFloat16>&, int);

}  // namespace avid::kernels
