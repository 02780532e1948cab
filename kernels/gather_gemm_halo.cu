// kernels/gather_gemm_halo.cu -- the gathered product of a window in a plane, every input row read once, on mma.sync
//                                (contract: gather_gemm.h; bf16)
//
// Math      as gather_gemm.cu, for windows of stride 1 whose result is as large as the source (3x3, 7x7, and their data
//           gradients). Rows are positions of a padded raster (halo_raster.h), so that tap k of rows r, r+1, ... are
//           the rows r+d(k), r+1+d(k), ... of one tile in shared memory
// Layout    the tile as halo_tile.h says; a step of the inner dimension is two entries of two chunks each, and 64 bytes
//           of every column's weights, which lie and are read as in gather_gemm.cu
// Parallel  a block owns BM positions x BN columns; grid (position tiles, column tiles); warps as in gather_gemm.cu.
//           All threads load the tile, then the stages of weights by cp.async, one barrier a step. Channels that do
//           not fit go in passes, between which the pipeline drains: the other block of the multiprocessor works on
// Traffic   a block reads (BM + lead + tail) / BM rows per row, not one per tap, and its weights. Counted by the
//           simulator in docs/kernels/convolution.md
// Numerics  as gather_gemm.cu
// Limits    2^31 positions of the raster
// Measured  never run on a GPU yet
// Predicted A100: 0.75 of the dense bf16 peak at 56 columns, against 0.55 of the gathering kernel, less 3% of
//           positions past the edges at 64x64, 6% at 32x32
// Oracle    as gather_gemm.cu: tests/sim/gather_gemm_halo_test.cpp
#include <string>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/gather_norm.h"
#include "kernels/device/gpu.h"
#include "kernels/device/halo_raster.h"
#include "kernels/device/halo_tile.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

template <class Tile, class End>
__global__ void __launch_bounds__(Tile::kThreads, 2) gather_gemm_halo_kernel(GatherGemm<bf16> p, HaloPlan h) {
  constexpr int kStages = Tile::kStages, kStepChunks = 4, kRowBytes = 16 * kStepChunks, kStepEntries = 2;
  constexpr int kPaddedBN = (Tile::BN + 15) / 16 * 16;  // ldmatrix takes 16 rows of weights at a time
  constexpr int kStage = kPaddedBN * kRowBytes;
  constexpr int kRowStep = Tile::kThreads / kStepChunks, kLoads = (kPaddedBN + kRowStep - 1) / kRowStep;
  constexpr int kTilesM = Tile::WM / 16, kTilesN = Tile::WN / 8;
  static_assert(kRowStep % 8 == 0, "the swizzle is the same for all loads of a thread");
  static_assert(Tile::kWarpsN == 1 || Tile::WN % 16 == 0);

  const int m0 = static_cast<int>(blockIdx.x) * Tile::BM, n0 = static_cast<int>(blockIdx.y) * Tile::BN;
  const int planes = p.source[0].chunks + p.source[1].chunks;

  SharedArena arena;
  unsigned char* tile = arena.take<unsigned char>(h.tile_bytes, "tile");
  unsigned char* stages = arena.take<unsigned char>(kStages * kStage, "stages");
  int* source_row = arena.take<int>(h.needed, "source_row");  // of a position of the tile; negative: zero
  HaloEntry* entries = arena.take<HaloEntry>(h.entries, "entries");

  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  for (int i = thread; i < h.needed; i += Tile::kThreads) source_row[i] = raster_row(h, m0 - h.lead + i);
  for (int i = thread; i < h.entries; i += Tile::kThreads) {
    const int pass = i / h.entries_per_pass, first = pass * h.planes_per_pass;
    entries[i] = halo_entry(p, h, first, min(h.planes_per_pass, planes - first), i - pass * h.entries_per_pass);
  }

  const int load_column = thread % kStepChunks, load_row = thread / kStepChunks;
  const int weight_rows = min(Tile::BN, p.num_weight_rows - n0);  // of this block; rows past them are zero
  const shared_address load_b = shared_address(stages) + swizzled_64(load_row, load_column);
  const std::uint32_t weight_row = static_cast<std::uint32_t>(n0 + load_row) * p.weight_row;
  const auto load = [&](int stage, int step) {
    const int weight = entries[step * kStepEntries + load_column / 2].weight[load_column % 2];
    std::uint32_t at = weight_row + static_cast<std::uint32_t>(weight);
    const int rows = weight < 0 ? 0 : weight_rows;
#pragma unroll
    for (int i = 0; i < kLoads; ++i, at += kRowStep * p.weight_row) {
      const int r = load_row + i * kRowStep;
      if (kPaddedBN % kRowStep != 0 && r >= kPaddedBN) break;
      cp_async_16(
          load_b + (stage * kStage + i * kRowStep * kRowBytes), p.weights + std::size_t{at} * 8,
          r < rows);  // nothing is read past the rows
    }
  };

  const int warp_m = warp / Tile::kWarpsN * Tile::WM, warp_n = warp % Tile::kWarpsN * Tile::WN;
  float acc[kTilesM][kTilesN][4];
  start_at_bias<kTilesM, Tile::WN>(p, n0 + warp_n, lane, [&](int i, int j, int e) -> float& { return acc[i][j][e]; });
  // ldmatrix: lane i addresses a row of block i/8. A: rows 0-7, 8-15 of the first chunk, then of the second.
  // B: first and second chunk of columns 0-7, then of columns 8-15.
  const shared_address tile_a = shared_address(tile) + (warp_m + (lane & 15)) * 16;
  const int row_b = warp_n + (lane >> 4) * 8 + (lane & 7);

  const int steps = h.entries / kStepEntries, steps_per_pass = h.entries_per_pass / kStepEntries;
  for (int begin = 0, first_plane = 0; begin < steps; begin += steps_per_pass, first_plane += h.planes_per_pass) {
    const int end = min(begin + steps_per_pass, steps);
    __syncthreads();  // the tables are written; the tile and the stages of the pass before are free
    load_halo<Tile::kThreads>(
        p, h, tile, source_row, first_plane, min(h.planes_per_pass, planes - first_plane), thread);
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) {
      if (begin + s < end) load(s, begin + s);
      cp_async_commit();
    }
    int stage = 0;
    for (int s = begin; s < end; ++s) {
      cp_async_wait<kStages - 2>();
      __syncthreads();  // this stage is complete for everybody, and the one before it is free
      if (s + kStages - 1 < end) load(stage == 0 ? kStages - 1 : stage - 1, s + kStages - 1);
      cp_async_commit();
#pragma unroll
      for (int half = 0; half < kStepEntries; ++half) {
        const HaloEntry& e = entries[s * kStepEntries + half];
        const shared_address a_at = tile_a + (e.first + (lane >> 4) * e.second) * 16;
        const shared_address b_at =
            shared_address(stages) + (stage * kStage + swizzled_64(row_b, half * 2 + ((lane >> 3) & 1)));
        Fragment<bf16, 4> a[kTilesM];
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) ldmatrix_x4(a[i].r, a_at + i * 16 * 16);
#pragma unroll
        for (int j = 0; j < kTilesN; j += 2) {
          std::uint32_t r[4];
          ldmatrix_x4(r, b_at + j * 8 * kRowBytes);
          Fragment<bf16, 2> b[2];
#pragma unroll
          for (int k = 0; k < 4; ++k) b[k / 2].set(k % 2, r[k]);
#pragma unroll
          for (int i = 0; i < kTilesM; ++i) {
            multiply_add(acc[i][j], a[i], b[0]);
            if (j + 1 < kTilesN) multiply_add(acc[i][j + 1], a[i], b[1]);
          }
        }
      }
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    cp_async_wait<0>();
  }
  __syncthreads();  // the tile is free for the epilogue

  // Epilogue: 16 rows of a warp at a time through its own shared memory in f32, then whole chunks.
  constexpr int kPitch = staged_pitch(Tile::WN);
  NormTable table{};
  if constexpr (End::kNorm) {
    static_assert(Tile::kWarpsN == 1);
    table = fill_norm_table<Tile::BN>(p, stages, m0 / (h.rows * h.pitch) * p.norm.S, thread, Tile::kThreads);
    __syncthreads();
  }
  float* staged = reinterpret_cast<float*>(tile) + warp * 16 * kPitch;
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
    store_fragments<End, bf16, Tile::WN, kPitch>(
        p, staged, source_row + h.lead + warp_m + i * 16, (n0 + warp_n) / 8, lane, table,
        [&](int j, int e) { return acc[i][j][e]; });
  }
}

}  // namespace AVID_GPU

template <class Backend>
void gather_gemm_halo(const Stream& stream, const GatherGemm<BFloat16>& p, int tile) {
  const std::int64_t N = std::int64_t{p.out[0].chunks + p.out[1].chunks} * kChunk<BFloat16>;
  HaloMmaTiles::with(tile, [&]<class Tile>() {
    const HaloPlan h = halo_plan(p, halo_needs<Tile>());
    if (h.pitch == 0) throw GpuError(kNoHalo);
    const dim3 grid(
        static_cast<unsigned>((h.M + Tile::BM - 1) / Tile::BM), static_cast<unsigned>((N + Tile::BN - 1) / Tile::BN));
    const auto run = [&]<class End>(End) {
      AVID_GPU::launch(
          AVID_GPU::gather_gemm_halo_kernel<Tile, End>, grid, dim3(Tile::kThreads), h.shared_bytes, stream, p, h);
    };
    p.norm.gamma != nullptr ? run(AVID_GPU::NormedRows{}) : run(AVID_GPU::PlainRows{});
  });
}

template void gather_gemm_halo<Gpu>(const Stream&, const GatherGemm<BFloat16>&, int);

}  // namespace avid::kernels
