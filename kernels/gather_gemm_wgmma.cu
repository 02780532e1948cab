// kernels/gather_gemm_wgmma.cu -- the gathered product on a device of compute capability 9.0 (contract: gather_gemm.h)
//
// Math, Layout   as gather_gemm.cu, bf16 only; 8 chunks (64 channels) a step
// Parallel  a block of three warpgroups owns BM rows x BN columns (conv_tiles.h); grid as in gather_gemm.cu. One
//           warpgroup loads: a thread keeps its chunk column, its BM/16 windows and walks the taps as there. Two
//           multiply: each owns half of the rows, in registers, and reads both operands by descriptors
// Pipeline  kStages buffers between them (wgmma_stages.h): the loads of two steps are under way beside those just
//           begun. Tiles of rows of 128 bytes with chunk index XOR row mod 8, the layout that wgmma reads without bank
//           conflicts. Rows come by cp.async. Weights that lie in one run per row (weight_runs.h) come by tensor copies
//           (TMA): one thread asks for BN rows of a step, in place of BN/16 copies of every thread; others by cp.async
// Traffic   as gather_gemm.cu
// Numerics  as gather_gemm.cu (the order of the sums is the hardware's)
// Limits    those of gather_gemm.cu. Compiled for sm_90a only: hosts ask have_wgmma() first
// Assumes   of tensor copies: weights were written by an earlier kernel or copy of the stream, whose end orders its
//           stores before them without a fence; wgmma reads what they brought after the mbarrier's wait alone
// Measured  never run on a GPU yet
// Predicted H200: 0.47 (96 columns) to 0.65 (160) of the dense bf16 peak, against 0.45 with mma.sync, whose ceiling is
//           two thirds; bound by the second-level cache, which sends every row once per tap
//           (docs/kernels/convolution.md). Tensor copies do not change that: the same bytes take the same ways
// Open      im2col tensor copies of rows take 64 channels of a tap at a time: they would serve latent networks (320 to
//           1280 channels), of which there is none here; at 720 and 800 every tap needs padding, in the weights too.
//           Sharing weights between the blocks of a cluster (multicast)
// Oracle    as gather_gemm.cu: tests/sim/gather_gemm_wgmma_test.cpp
#include <string>
#include <type_traits>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/gather_layer_norm_grad.h"
#include "kernels/device/gather_norm_grad.h"
#include "kernels/device/gpu.h"
#include "kernels/device/warpgroup.h"
#include "kernels/device/weight_tiles.h"
#include "kernels/device/wgmma_stages.h"
#include "kernels/device/wgmma_switch.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kWgmmaStepChunks = kTileRowBytes / 16;  // per row and step of the inner dimension

template <class Tile>
constexpr std::size_t gather_gemm_wgmma_shared_bytes(int tap_table_size) {
  return std::size_t{Tile::kStages} * (Tile::BM + Tile::BN) * kTileRowBytes + kTileAlignment - 16 +
         (2 * Tile::kStages + 2) * sizeof(mbarrier) + Tile::BM * sizeof(int) + tap_table_size * sizeof(Tap);
}

template <class Tile, class End>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    gather_gemm_wgmma_kernel(GatherGemm<bf16> p, const __grid_constant__ WeightTiles weights) {
  constexpr int kStages = Tile::kStages, kTilesM = Tile::kTilesM, BN = Tile::BN;
  constexpr int kRowStep = 128 / kWgmmaStepChunks;  // rows between two loads of a thread: 16
  constexpr int kLoadsA = Tile::BM / kRowStep, kLoadsB = (BN + kRowStep - 1) / kRowStep;
  constexpr int kStageA = Tile::BM * kTileRowBytes, kStageB = BN * kTileRowBytes;
  static_assert(kStageA % kTileAlignment == 0 && kStageB % kTileAlignment == 0);

  const GatherView g(p, p.adjoint, static_cast<int>(blockIdx.z));
  const int M = p.B * g.rows_per_clip(), m0 = static_cast<int>(blockIdx.x) * Tile::BM;
  const int n0 = static_cast<int>(blockIdx.y) * BN;
  if (m0 >= M) return;  // phases differ in size

  SharedArena arena;
  unsigned char* stages_a = arena.take_aligned<unsigned char>(kStages * (kStageA + kStageB), kTileAlignment, "stages");
  unsigned char* stages_b = stages_a + kStages * kStageA;
  mbarrier* memory = arena.take<mbarrier>(StageBarriers<kStages>::kCount + 2, "barriers");  // even, for the arena
  int* out_row = arena.take<int>(Tile::BM, "out_row");
  Tap* taps = arena.take<Tap>(tap_table_size(p), "taps");
  const StageBarriers<kStages> barriers(memory);
  const shared_address done(memory + StageBarriers<kStages>::kCount);

  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warpgroup = thread >> 7;
  if (thread == 0) {
    barriers.init(4 * Tile::kMultiplying, weights.used != 0);
    mbarrier_init(done, 4 * Tile::kMultiplying);
  }
  const int num_taps = g.t.taps * g.y.taps * g.x.taps;
  for (int i = thread; i < 2 * num_taps + 1; i += Tile::kThreads) taps[i] = tap_at(p, g, num_taps, i);
  for (int r = thread; r < Tile::BM; r += Tile::kThreads)
    out_row[r] = m0 + r < M ? result_row(g, RowPosition(g, m0 + r)) : -1;
  __syncthreads();

  const int inner_chunks = num_taps * (p.source[0].chunks + p.source[1].chunks);
  const int steps = (inner_chunks + kWgmmaStepChunks - 1) / kWgmmaStepChunks;

  if (warpgroup == Tile::kMultiplying) {
    fewer_registers<Tile::kLoadRegisters>();
    const int t = thread & 127, load_column = t % kWgmmaStepChunks, load_row = t / kWgmmaStepChunks;
    Window window[kLoadsA];
#pragma unroll
    for (int i = 0; i < kLoadsA; ++i)
      if (const int m = m0 + load_row + i * kRowStep; m < M) {
        const RowPosition at(g, m);
        window[i] = window_at(g, at.b, at.t, at.y, at.x);
      }
    const int num_weight_rows = min(BN, p.num_weight_rows - n0);  // of this block; rows past them are zero
    InnerCursor<bf16, kWgmmaStepChunks> inner(p, taps, load_column);
    const shared_address load_a = shared_address(stages_a) + swizzled_chunk(load_row, load_column);
    const shared_address load_b = shared_address(stages_b) + swizzled_chunk(load_row, load_column);
    const std::uint32_t weight_row = static_cast<std::uint32_t>(n0 + load_row) * p.weight_row;

    const bool by_tile = weights.used != 0;
    StageLoader<kStages>(barriers, lane).run(steps, [&](int s, int stage) {
      if (by_tile && t == 0)
        barriers.begin_tile(
            stage, shared_address(stages_b) + stage * kStageB, weights.map, s * (kTileRowBytes / 2), n0, kStageB);
#pragma unroll
      for (int i = 0; i < kLoadsA; ++i) {
        const bool valid = (window[i].inside & inner.bits) == inner.bits;
        const std::uint32_t at = valid ? window[i].origin * inner.pitch + inner.offset : 0;
        cp_async_16(load_a + (stage * kStageA + i * kRowStep * kTileRowBytes), inner.data + std::size_t{at} * 8, valid);
      }
      if (!by_tile) {
        std::uint32_t at = weight_row + static_cast<std::uint32_t>(inner.weight);
        const int weight_rows = inner.done() ? 0 : num_weight_rows;
#pragma unroll
        for (int i = 0; i < kLoadsB; ++i, at += kRowStep * p.weight_row) {
          const int r = load_row + i * kRowStep;
          if (BN % kRowStep != 0 && r >= BN) break;
          cp_async_16(
              load_b + (stage * kStageB + i * kRowStep * kTileRowBytes), p.weights + std::size_t{at} * 8,
              r < weight_rows);  // nothing is read past the rows
        }
      }
      inner.advance();
    });
    return;
  }

  more_registers<Tile::kMultiplyRegisters>();
  const int warp = (thread >> 5) & 3;
  float acc[kTilesM][BN / 2];  // in blocks of 8 columns as those of mma
  start_at_bias<kTilesM, BN>(p, n0, lane, [&](int i, int j, int e) -> float& { return acc[i][4 * j + e]; });
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) wgmma_settle(acc[i]);

  const int first_row = warpgroup * kTilesM * 64;
  const std::uint64_t tiles_a = swizzled_tile(shared_address(stages_a) + first_row * kTileRowBytes);
  const std::uint64_t tiles_b = swizzled_tile(shared_address(stages_b));
  StageCursor<kStages> at{0};
  for (int s = 0; s < steps; ++s) {
    barriers.wait_full(at);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kTileRowBytes / 32; ++k) {
      const std::uint64_t b = tiles_b + at.stage * (kStageB / 16) + k * kDescriptorStep;
#pragma unroll
      for (int i = 0; i < kTilesM; ++i)
        wgmma_bf16<BN>(
            acc[i], tiles_a + at.stage * (kStageA / 16) + i * (64 * kTileRowBytes / 16) + k * kDescriptorStep, b);
    }
    wgmma_commit();
    wgmma_wait<1>();  // the step before is done: its stage is free
    if (s > 0) barriers.release(at.before(), lane);
    at.next();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) wgmma_settle(acc[i]);
  // All loads were waited for and all products are done once every multiplying warp says so: the stages are free.
  if (lane == 0) mbarrier_arrive(done);
  mbarrier_wait(done, 0);

  // Epilogue: 16 rows of a warp at a time through its own shared memory, then whole chunks.
  constexpr int kPitch = staged_pitch(BN);
  constexpr std::size_t kStagedBytes = staged_bytes(4 * Tile::kMultiplying, BN);
  static_assert(kStagedBytes <= kStages * (kStageA + kStageB), "staging fits the stages");
  int phase = 1;
  [[maybe_unused]] const auto barrier = [&] {  // of the multiplying warps
    __syncwarp();
    if (lane == 0) mbarrier_arrive(done);
    mbarrier_wait(done, phase);
    phase ^= 1;
  };
  [[maybe_unused]] const auto rows_of = [&](int i) { return out_row + first_row + i * 64 + warp * 16; };
  [[maybe_unused]] const auto sum = [&](int i, int j, int e) { return acc[i][4 * j + e]; };
  if constexpr (std::is_same_v<End, LayerNormGradRows>)
    return end_in_layer_norm_grad<BN, 4 * Tile::kMultiplying, kTilesM>(p, stages_a, thread, rows_of, sum, barrier);
  if constexpr (std::is_same_v<End, NormGradRows>)
    return end_in_norm_grad<BN, 4 * Tile::kMultiplying, kTilesM>(p, stages_a, m0, thread, rows_of, sum, barrier);
  NormTable table{};
  if constexpr (End::kNorm) {
    table = fill_norm_table<BN>(p, stages_a + kStagedBytes, m0, thread, 128 * Tile::kMultiplying);
    barrier();
  }
  float* staged = reinterpret_cast<float*>(stages_a) + (thread >> 5) * 16 * kPitch;
  store_fragments<End, bf16, BN, kPitch, kTilesM>(p, staged, n0 / 8, lane, table, rows_of, sum);
}

}  // namespace AVID_GPU

template <class Backend>
bool have_wgmma() {
  // Code for sm_90a runs nowhere else.
  return wgmma_allowed() && AVID_GPU::kHaveSm90a && AVID_GPU::device_arch() == 90;
}

template <class Backend>
void gather_gemm_wgmma(const Stream& stream, const GatherGemm<BFloat16>& p, std::int64_t M, int phases, int tile) {
  if (!have_wgmma<Backend>())
    throw GpuError(
        "gather_gemm: tile " + std::to_string(tile) + " needs a device of compute capability 9.0" +
        (!wgmma_allowed()       ? ", and AVID_WGMMA is off"
         : AVID_GPU::kHaveSm90a ? ", this one has " + std::to_string(AVID_GPU::device_arch())
                                : " and a build with sm_90a (-DAVID_CUDA_ARCHS with 90)"));
  const std::int64_t N = std::int64_t{p.out[0].chunks + p.out[1].chunks} * kChunk<BFloat16>;
  WgmmaTiles::with(tile, [&]<class Tile>() {
    const dim3 grid(
        static_cast<unsigned>((M + Tile::BM - 1) / Tile::BM), static_cast<unsigned>((N + Tile::BN - 1) / Tile::BN),
        static_cast<unsigned>(phases));
    const auto run = [&]<class End>(End) {
      AVID_GPU::launch(
          AVID_GPU::gather_gemm_wgmma_kernel<Tile, End>, grid, dim3(Tile::kThreads),
          AVID_GPU::gather_gemm_wgmma_shared_bytes<Tile>(AVID_GPU::tap_table_size(p)), stream, p,
          AVID_GPU::weight_tiles(p, weights_in_a_run(p), Tile::BN));
    };
    if (p.norm.x.chunks > 0) return run(AVID_GPU::NormGradRows{});
    if (p.norm.gamma != nullptr) return run(AVID_GPU::NormedRows{});
    if (p.layer_norm.gamma != nullptr) return run(AVID_GPU::LayerNormGradRows{});
    run(AVID_GPU::PlainRows{});
  });
}

template bool have_wgmma<Gpu>();
template void gather_gemm_wgmma<Gpu>(const Stream&, const GatherGemm<BFloat16>&, std::int64_t, int, int);

}  // namespace avid::kernels
