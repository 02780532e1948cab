// kernels/gather_weight_grad_wgmma.cu -- partial sums of the weight gradient on a device of compute capability 9.0
//                                        (contract: gather_gemm.h; bf16)
//
// Math      as gather_weight_grad.cu: d_w[n,(k,c)] = sum_r rows[r,n] * source[row(r,k)][c], and d_bias[n] = sum_r
//           rows[r,n]. M is (source, tap, chunk of channels) and ones, N the columns of rows, positions r are the
//           inner dimension
// Layout    memory has the position outermost and the channels in rows, so both operands lie transposed: planes of one
//           chunk (8 channels) each, positions 16 bytes apart, which wgmma takes without swizzle. Eight positions of a
//           plane are 128 bytes in a row, wherever they begin, so that a tap along x is the same plane a position
//           further on (weight_grad_plan.h): 3x3 loads three columns of planes, not nine, and 4x4 with stride 2 eight
//           of sixteen. A block takes one group of 8 planes per product of 64 rows
// Parallel  grid (groups of planes, column tiles, splits of the positions). One warpgroup loads, 64 positions a step:
//           each warp 16 of them, whose windows it walks (never divided) and keeps in shared memory for its own lanes.
//           One or two multiply: kGroups x kShifts products of 64 x BN each, in registers (conv_tiles.h)
// Pipeline  wgmma_stages.h
// Traffic   per step of a block kColumns planes of 64 + kShifts - 1 positions and BN/8 planes of 64, 16 bytes each,
//           from the second-level cache: for 3x3 and 104 columns 340 bytes per position and 39,936 operations, 0.0085
//           B/FLOP (gather_weight_grad.cu with 128x104: 0.0174). Partial sums as there
// Numerics  f32 sums within a split (the order is the hardware's), splits added in index order by the kernel of
//           gather_weight_grad.cu: the same bits in every run. Positions that pad a row multiply zero by what the
//           source holds there: an infinity or NaN in the source reaches all taps of its channel
// Limits    those of gather_gemm; 2^31 positions of the padded rows; compiled for sm_90a only: hosts ask have_wgmma()
// Assumes   as gather_gemm_halo_wgmma.cu: a tile without swizzle may begin at any multiple of 16 bytes
// Measured  never run on a GPU yet
// Compiled  nvcc 13, no spills: 128 registers at launch with one multiplying warpgroup (56 to load, 200 to multiply,
//           156 of them sums with 104 columns), two blocks per multiprocessor at 64 to 88 KiB; 168 with two (88 and
//           208), one block at 120 to 213 KiB
// Predicted H200, shares of the dense bf16 peak before padding: 0.71 (3x3, 104 columns), 0.68 (96), 0.53 (56), 0.70
//           (4x4 with stride 2), 0.66 (1x1, 160 columns), against 0.37 with mma.sync; bound by the port of shared
//           memory (docs/kernels/convolution.md)
// Open      clusters could share the planes of rows among the blocks of a split; copies by TMA
// Oracle    as gather_weight_grad.cu: tests/sim/gather_weight_grad_wgmma_test.cpp
#include <string>

#include "kernels/device/gather_taps.h"
#include "kernels/device/gpu.h"
#include "kernels/device/warpgroup.h"
#include "kernels/device/weight_grad_ones.h"
#include "kernels/device/weight_grad_plan.h"
#include "kernels/device/wgmma_stages.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

template <class Tile>
struct WgmmaGradShape {
  static constexpr int kStep = kWgmmaGradPositions, kColumnsN = Tile::BN / 8;
  /// Positions from plane to plane, odd: the chunks that a warp copies for one position fall into all banks.
  static constexpr int kPlaneM = (kStep + Tile::kShifts - 1) | 1, kPlaneN = kStep | 1;
  static constexpr int kStageM = Tile::kColumns * kPlaneM * 16, kStage = kStageM + kColumnsN * kPlaneN * 16;  // bytes
  static constexpr std::size_t kSharedBytes = std::size_t{Tile::kStages} * kStage +
                                              StageBarriers<Tile::kStages>::kCount * sizeof(mbarrier) +
                                              4 * 32 * 16;  // of Stops
};

/// A position: its window in the sources, and its row of the result, negative where there is none.
struct alignas(16) Stop {
  Window window;
  int row;
};

/// What the kernel has to know of a plan.
struct WgmmaGradCut {
  WgmmaGradRaster raster;
  int splits = 0, steps_per_split = 0;
  bool ones = false;  ///< behind the last column stand those of the bias
};

/// Column f of the M side: a chunk of a source at taps (t, y, x), (t, y, x + stride) ... source -1: past the last.
struct GradColumn {
  int source = -1, chunk = 0, t = 0, y = 0, x = 0;
  AVID_DEVICE GradColumn(const GatherWeightGrad<bf16>& p, const ShiftedTaps& taps, int f) {
    const int rows = p.t.taps * p.y.taps * taps.classes, s = f < rows * p.source[0].chunks ? 0 : 1;
    if (s == 1) f -= rows * p.source[0].chunks;
    const int chunks = p.source[s].chunks;
    if (f >= rows * chunks) return;
    const int tap = f / chunks;
    source = s, chunk = f % chunks;
    x = first_tap_of_class(p.x.stride, taps.shifts, tap % taps.classes);
    y = tap / taps.classes % p.y.taps, t = tap / taps.classes / p.y.taps;
  }
};

/// Writes partial[split][n][m] with m over (source, tap, chunk, channel).
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    gather_weight_grad_wgmma_kernel(GatherWeightGrad<bf16> p, WgmmaGradCut cut) {
  using S = WgmmaGradShape<Tile>;
  constexpr int kStages = Tile::kStages, kStep = S::kStep, BN = Tile::BN;
  constexpr int kShifts = Tile::kShifts, kGroups = Tile::kGroups;
  static_assert(Tile::kColumns <= 32 && S::kColumnsN <= 32 && kShifts <= 17);

  SharedArena arena;
  unsigned char* stages = arena.take<unsigned char>(kStages * S::kStage, "stages");
  mbarrier* memory = arena.take<mbarrier>(StageBarriers<kStages>::kCount, "barriers");
  Stop* all_stops = arena.take<Stop>(4 * 32, "stops");
  const StageBarriers<kStages> barriers(memory);

  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = (thread >> 5) & 3;
  const int warpgroup = thread >> 7;
  if (thread == 0) barriers.init(4 * Tile::kMultiplying);
  __syncthreads();

  const int n0 = static_cast<int>(blockIdx.y) * BN, first_column = static_cast<int>(blockIdx.x) * Tile::kColumns;
  const int num_positions = static_cast<int>(cut.raster.positions);
  const int first_step = static_cast<int>(blockIdx.z) * cut.steps_per_split;
  const int steps = min(cut.steps_per_split, (num_positions + kStep - 1) / kStep - first_step);

  if (warpgroup == Tile::kMultiplying) {
    fewer_registers<Tile::kLoadRegisters>();
    GatherView g(p, false, 0);
    g.x.rows = cut.raster.taps.pitch;
    // A lane walks one position of the warp's 16 of a step; those of the last warp also the ones behind the step that
    // shifts reach.
    constexpr int kOwn = kStep / 4;
    int position = first_step * kStep + (lane < kOwn ? warp * kOwn + lane : kStep - kOwn + lane);
    WindowWalker walker(g, position, kStep);
    Stop* stops = all_stops + warp * 32;

    // This lane's chunk of the source, and of the rows: fixed, so the tap is worked out once. Lanes past the tile idle.
    constexpr int kLanesM = Tile::kColumns <= 8 ? 8 : Tile::kColumns <= 16 ? 16 : 32;
    constexpr int kLanesN = S::kColumnsN <= 8 ? 8 : S::kColumnsN <= 16 ? 16 : 32;
    constexpr int kRowsM = 32 / kLanesM, kRowsN = 32 / kLanesN;  // positions per copy of a warp
    const int column_m = lane % kLanesM, row_m = lane / kLanesM;
    const int column_n = lane % kLanesN, row_n = lane / kLanesN;
    const GradColumn column(p, cut.raster.taps, first_column + column_m);
    const ChunkRows<const bf16> source = column.source == 1 ? p.source[1] : p.source[0];
    const std::uint32_t bits = column.source < 0 ? kNoTap : tap_bits(column.t, column.y, column.x);
    const std::uint32_t offset =
        static_cast<std::uint32_t>((column.t * g.y_in + column.y) * g.x_in + column.x) * source.pitch + column.chunk;
    const int chunk_n = n0 / 8 + column_n;
    const bool use_n = column_n < S::kColumnsN && chunk_n < p.rows.chunks;
    const shared_address load_m = shared_address(stages) + column_m * S::kPlaneM * 16;
    const shared_address load_n = shared_address(stages) + (S::kStageM + column_n * S::kPlaneN * 16);
    const bool ones = cut.ones && first_column + column_m == cut.raster.columns && column_m < Tile::kColumns;
    const bool use_m = column_m < Tile::kColumns && !ones;
    // The positions of a step that this warp copies: f(i, r) for stop i of this warp, which is position r.
    const auto for_own = [&](const auto& f) {
#pragma unroll
      for (int i = 0; i < kOwn; i += kRowsM) f(i + row_m, warp * kOwn + i + row_m);
      if (warp == 3)
        for (int i = row_m; i < kShifts - 1; i += kRowsM) f(kOwn + i, kStep + i);
    };
    if (ones) {  // these stay
      for (int stage = 0; stage < kStages; ++stage)
        for_own([&](int, int r) {
          store_ones<bf16>(stages + stage * S::kStage + (column_m * S::kPlaneM + r) * 16, (stage * kStep + r) / 16);
        });
    }

    StageLoader<kStages>(barriers, lane).run(steps, [&](int, int stage) {
      __syncwarp();
      const bool inside = position < num_positions;
      stops[lane] = {walker.window(g, inside), inside && walker.at.x < g.x_out ? result_row(g, walker.at) : -1};
      __syncwarp();
      position += kStep;
      walker.advance(g);
      if (use_m) {
        for_own([&](int i, int r) {
          const Window w = stops[i].window;
          const bool valid = (w.inside & bits) == bits;
          const std::uint32_t at = valid ? w.origin * source.pitch + offset : 0;
          cp_async_16(load_m + (stage * S::kStage + r * 16), source.data + std::size_t{at} * 8, valid);
        });
      }
      if (column_n < S::kColumnsN) {
#pragma unroll
        for (int i = row_n; i < kOwn; i += kRowsN) {
          const int row = stops[i].row;
          const bool valid = use_n && row >= 0;
          const std::uint32_t at = valid ? static_cast<std::uint32_t>(row) * p.rows.pitch + chunk_n : 0;
          cp_async_16(load_n + (stage * S::kStage + (warp * kOwn + i) * 16), p.rows.data + std::size_t{at} * 8, valid);
        }
      }
    });
    return;
  }

  more_registers<Tile::kMultiplyRegisters>();
  float acc[kGroups * kShifts][BN / 2] = {};  // in blocks of 8 columns as those of mma
#pragma unroll
  for (int i = 0; i < kGroups * kShifts; ++i) wgmma_settle(acc[i]);
  const int first_plane = warpgroup * kGroups * 8;
  const std::uint64_t tiles_m =
      transposed_plain_tile(shared_address(stages) + first_plane * S::kPlaneM * 16, S::kPlaneM * 16);
  const std::uint64_t tiles_n = transposed_plain_tile(shared_address(stages) + S::kStageM, S::kPlaneN * 16);
  // The ones, if this block has them: their sums are put by now and then.
  const int ones = cut.raster.columns - first_column;  // column of the block
  const bool has_ones = cut.ones && ones < Tile::kColumns;
  const int steps_at_once = has_ones ? kOnesPositions / kStep : steps;
  StageCursor<kStages> at{0};
  for (int s = 0; s < steps;) {
    const int from = s;
    for (const int end = min(steps, s + steps_at_once); s < end; ++s) {
      barriers.wait_full(at);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kStep; k += 16) {
        const std::uint64_t n = tiles_n + at.stage * (S::kStage / 16) + k;
        const std::uint64_t m = tiles_m + at.stage * (S::kStage / 16) + k;
#pragma unroll
        for (int group = 0; group < kGroups; ++group)
#pragma unroll
          for (int shift = 0; shift < kShifts; ++shift)
            wgmma_bf16_transposed<BN>(acc[group * kShifts + shift], m + group * 8 * S::kPlaneM + shift, n);
      }
      wgmma_commit();
      wgmma_wait<1>();  // the step before is done: its stage is free
      if (s > 0) barriers.release(at.before(), lane);
      at.next();
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kGroups * kShifts; ++i) wgmma_settle(acc[i]);
    if (!has_ones) continue;
    float* sums = bias_partials(p, cut.splits, static_cast<int>(blockIdx.z));
#pragma unroll
    for (int group = 0; group < kGroups; ++group)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (first_plane + group * 8 + warp * 2 + half != ones) continue;
#pragma unroll
        for (int j = 0; j < BN / 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& v = acc[group * kShifts][4 * j + 2 * half + e];
            put_bias_by(sums, n0 + j * 8 + (lane & 3) * 2 + e, p.num_columns, lane, v, from == 0);
            v = 0.0f;
          }
      }
  }

  // 8 rows of a warp's products are the channels of one column: 32 bytes in a row for each n.
  const int taps = p.t.taps * p.y.taps * p.x.taps;
  const std::int64_t first_of_second = std::int64_t{taps} * p.source[0].chunks * 8;
  const std::int64_t flat = first_of_second + std::int64_t{taps} * p.source[1].chunks * 8;
  float* partial = p.workspace + std::int64_t{blockIdx.z} * p.num_columns * flat + (lane >> 2);
#pragma unroll
  for (int group = 0; group < kGroups; ++group)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const GradColumn column(p, cut.raster.taps, first_column + first_plane + group * 8 + warp * 2 + half);
      if (column.source < 0) continue;
      const int chunks = column.source == 0 ? p.source[0].chunks : p.source[1].chunks;
#pragma unroll
      for (int shift = 0; shift < kShifts; ++shift) {
        const int x = column.x + shift * p.x.stride, tap = (column.t * p.y.taps + column.y) * p.x.taps + x;
        if (x >= p.x.taps) continue;
        float* to = partial + (column.source == 0 ? 0 : first_of_second) + (tap * chunks + column.chunk) * 8;
#pragma unroll
        for (int j = 0; j < BN / 8; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int n = n0 + j * 8 + (lane & 3) * 2 + e;
            if (n < p.num_columns) to[n * flat] = acc[group * kShifts + shift][4 * j + 2 * half + e];
          }
      }
    }
}

}  // namespace AVID_GPU

template <class Backend>
void gather_weight_grad_wgmma(const Stream& stream, const GatherWeightGrad<BFloat16>& p, const WeightGradPlan& plan) {
  const int tile = plan.tile - kFirstWgmmaTile;
  if (!have_wgmma<Backend>())
    throw GpuError(
        "gather_weight_grad: tile " + std::to_string(tile) + " needs a device of compute capability 9.0 and a build " +
        "with sm_90a");
  WgmmaGradTiles::with(tile, [&]<class Tile>() {
    const WgmmaGradRaster raster = wgmma_grad_raster<Tile>(p);
    if (!raster.fits())
      throw GpuError(
          "gather_weight_grad: tile " + std::to_string(tile) + ": at most 2^31 positions with their padding, got " +
          std::to_string(raster.positions) + " | choose another tile");
    if (plan.splits == 0) return;  // nothing to add up
    const dim3 grid(
        static_cast<unsigned>((raster.columns + Tile::kColumns - 1) / Tile::kColumns),
        static_cast<unsigned>((p.num_columns + Tile::BN - 1) / Tile::BN), static_cast<unsigned>(plan.splits));
    AVID_GPU::launch(
        AVID_GPU::gather_weight_grad_wgmma_kernel<Tile>, grid, dim3(Tile::kThreads),
        AVID_GPU::WgmmaGradShape<Tile>::kSharedBytes, stream, p,
        AVID_GPU::WgmmaGradCut{raster, plan.splits, plan.steps_per_split, p.d_bias != nullptr});
  });
}

template void gather_weight_grad_wgmma<Gpu>(const Stream&, const GatherWeightGrad<BFloat16>&, const WeightGradPlan&);

}  // namespace avid::kernels
