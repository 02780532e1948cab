// kernels/gather_gemm_halo.cu -- the gathered product of a window in a plane, every input row read once, on mma.sync
//                                (contract: gather_gemm.h; bf16)
//
// Math      as gather_gemm.cu, for windows whose result is as large as the source, or the stride's part of it (3x3,
//           7x7, 4x4 with stride 2, and their data gradients). The rows that a block's windows reach lie in shared
//           memory as a padded raster (halo_raster.h), so that tap k of a result is a fixed number of positions away
//           from its own
// Layout    planes of one chunk each, 16 bytes per position; a step of the inner dimension is two entries of two chunks
//           each (halo_tile.h), and 64 bytes of every column's weights, which lie and are read as in gather_gemm.cu.
//           Last chunks of up to four channels are no planes but words of 4 bytes, eight of which, of several taps,
//           make an entry: 9 taps of 90 channels are 51 entries and not 54
// Parallel  a block owns BM results x BN columns; grid (row tiles, column tiles); warps as in gather_gemm.cu. A lane of
//           ldmatrix names the position of its own row, so that no result is computed past the edges
// Pipeline  a ring of two groups of four planes: while all taps of one are multiplied, the other's next planes come in,
//           some rows beside every step. Stages of weights by cp.async, one barrier a step. Nothing drains between
//           groups, and 81 KB do for any number of channels
// Traffic   a block reads (BM + lead + tail + edges) / BM rows per row, not one per tap, and its weights. Counted by
//           the simulator in docs/kernels/convolution.md
// Numerics  as gather_gemm.cu
// Limits    2^31 positions of the raster; rows of up to about 100 positions (those of a block fit in shared memory)
// Measured  never run on a GPU yet
// Predicted A100: 0.75 of the dense bf16 peak, and 8 % for what shared memory takes beside it (device/mma_cost.h)
// Oracle    as gather_gemm.cu: tests/sim/gather_gemm_halo_test.cpp
#include <string>
#include <type_traits>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/gather_norm_grad.h"
#include "kernels/device/gpu.h"
#include "kernels/device/halo_raster.h"
#include "kernels/device/halo_tile.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kNothing = -1, kWords = -2;  // instead of a chunk in HaloEntry::weight

/// The rows' fragments of an entry of eight words. row_a: 16 times the position of row lane & 15 of each 16 rows.
template <int kTilesM>
AVID_DEVICE void load_word_fragments(
    Fragment<bf16, 4> (&a)[kTilesM], const unsigned char* tile, const RingWord* words, const int (&row_a)[kTilesM],
    int lane) {
  const RingWord word[2] = {words[lane & 3], words[4 + (lane & 3)]};
#pragma unroll
  for (int i = 0; i < kTilesM; ++i)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = __shfl_sync(0xffffffffu, row_a[i], (lane >> 2) + 8 * (r & 1));
      a[i].r[r] = *reinterpret_cast<const std::uint32_t*>(tile + word[r / 2].at + (row >> word[r / 2].shift));
    }
}

template <class Tile, class End>
__global__ void __launch_bounds__(Tile::kThreads, 2) gather_gemm_halo_kernel(GatherGemm<bf16> p, HaloPlan h) {
  constexpr int kStages = Tile::kStages, kRowBytes = 16 * kRingPlanes, kStepEntries = 2;
  constexpr int kStage = Tile::BN * kRowBytes;
  constexpr int kRowStep = Tile::kThreads / kRingPlanes, kLoads = (Tile::BN + kRowStep - 1) / kRowStep;
  constexpr int kTilesM = Tile::WM / 16, kTilesN = Tile::WN / 8;
  constexpr int kHalves = kTilesM * kTilesN >= 45 ? 1 : kStepEntries;  // unrolled; with many sums a second one spills
  static_assert(kRowStep % 8 == 0, "the swizzle is the same for all loads of a thread");
  static_assert(Tile::kWarpsN == 1 || std::is_same_v<End, PlainRows>);

  const int m0 = static_cast<int>(blockIdx.x) * Tile::BM, n0 = static_cast<int>(blockIdx.y) * Tile::BN;
  const int phase = static_cast<int>(blockIdx.z);  // of the adjoint

  SharedArena arena;
  // Both begin at places known beforehand, which saves registers.
  unsigned char* stages = arena.take<unsigned char>(kStages * kStage + h.tile_bytes, "stages and tile");
  unsigned char* tile = stages + kStages * kStage;
  int* source_row = arena.take<int>(h.needed, "source_row");  // of a position of the tile; negative: zero
  RingPlane* planes = arena.take<RingPlane>(h.planes + h.tails, "planes");
  HaloEntry* entries = arena.take<HaloEntry>(h.ring_entries(), "entries");
  const int word_entries = h.entries - h.whole_entries;
  RingWord* words = arena.take<RingWord>(word_entries * kEntryWords, "words");

  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int position0 = ring_position(h, m0);
  for (int i = thread; i < h.needed; i += Tile::kThreads) source_row[i] = ring_source_row(p, h, position0 - h.lead + i);
  for (int i = thread; i < h.planes + h.tails; i += Tile::kThreads)
    planes[i] = ring_plane(p, i < h.planes ? ring_chunk(h, i) : tail_chunk(p, h, i - h.planes));
  for (int i = thread; i < h.ring_entries(); i += Tile::kThreads) {
    const auto first_word = static_cast<std::uint32_t>((i - h.whole_entries) * kEntryWords);
    entries[i] = i < h.whole_entries ? ring_entry(p, h, phase, i)
                 : i < h.entries     ? HaloEntry{first_word, 0, {kWords, kWords}}
                                     : HaloEntry{0, 0, {kNothing, kNothing}};
  }
  for (int i = thread; i < word_entries * kEntryWords; i += Tile::kThreads) words[i] = ring_word(p, h, phase, i);
  __syncthreads();

  const int load_column = thread % kRingPlanes, load_row = thread / kRingPlanes;
  const int weight_rows = min(Tile::BN, p.num_weight_rows - n0);  // of this block; rows past them are zero
  const shared_address load_b = shared_address(stages) + swizzled_64(load_row, load_column);
  const std::uint32_t weight_row = static_cast<std::uint32_t>(n0 + load_row) * p.weight_row;
  const auto load_words = [&](shared_address to, const RingWord* of_chunk) {
#pragma unroll 1
    for (int i = 0; i < 4; i += h.tail_words) {
      const int word = of_chunk[i].weight, rows = word < 0 ? 0 : weight_rows;
      const bf16* from = p.weights + (std::size_t{weight_row} * 8 + static_cast<std::size_t>(max(word, 0)) * 2);
#pragma unroll 1
      for (int r = load_row; r < Tile::BN; r += kRowStep, from += std::size_t{p.weight_row} * kRowStep * 8) {
        const shared_address place = to + (i * 4 + (r - load_row) * kRowBytes);
        h.tail_words == 1 ? cp_async_4(place, from, r < rows) : cp_async_8(place, from, r < rows);
      }
    }
  };
  const auto load_weights = [&](int stage, int step) {
    const HaloEntry& e = entries[step * kStepEntries + load_column / 2];
    const int weight = e.weight[load_column % 2];
    if (weight == kWords) return load_words(load_b + stage * kStage, words + e.first + load_column % 2 * 4);
    std::uint32_t at = weight_row + static_cast<std::uint32_t>(weight);
    const int rows = weight < 0 ? 0 : weight_rows;
#pragma unroll
    for (int i = 0; i < kLoads; ++i, at += kRowStep * p.weight_row) {
      const int r = load_row + i * kRowStep;
      if (Tile::BN % kRowStep != 0 && r >= Tile::BN) break;
      cp_async_16(
          load_b + (stage * kStage + i * kRowStep * kRowBytes), p.weights + std::size_t{at} * 8,
          r < rows);  // nothing is read past the rows
    }
  };
  // Four neighbouring threads copy the planes of a group at a position: turns `from` to `to` of this thread's.
  const auto load_rows = [&](int group, int from, int to) {
    const int plane = group * kRingPlanes + load_column;
    if (plane >= h.planes) return;
    const RingPlane at_row = planes[plane];
    const bf16* data = at_row.source == 0 ? p.source[0].data : p.source[1].data;
    const std::uint32_t pitch = at_row.source == 0 ? p.source[0].pitch : p.source[1].pitch;
    unsigned char* place = tile + ((group & 1) * kRingPlanes + load_column) * h.plane * 16;
    const int end = min(to * kRowStep, h.needed);
#pragma unroll 1
    for (int position = from * kRowStep + load_row; position < end; position += kRowStep) {
      const int row = source_row[position];
      const std::uint32_t at = row < 0 ? 0 : static_cast<std::uint32_t>(row) * pitch + at_row.chunk;
      cp_async_16(place + position * 16, data + std::size_t{at} * 8, row >= 0);
    }
  };

  // The used words of every position, for as long as the block runs.
  const auto load_tails = [&] {
    for (int i = thread; i < h.tails * h.needed; i += Tile::kThreads) {
      const RingPlane at_row = planes[h.planes + i / h.needed];
      const int row = source_row[i % h.needed];
      const bf16* data = at_row.source == 0 ? p.source[0].data : p.source[1].data;
      const std::uint32_t pitch = at_row.source == 0 ? p.source[0].pitch : p.source[1].pitch;
      const bf16* from = data + std::size_t{row < 0 ? 0 : static_cast<std::uint32_t>(row) * pitch + at_row.chunk} * 8;
      unsigned char* place = tile + h.ring_bytes + i * h.tail_words * 4;
      h.tail_words == 1 ? cp_async_4(place, from, row >= 0) : cp_async_8(place, from, row >= 0);
    }
  };

  const int steps = h.ring_entries() / kStepEntries, steps_per_group = h.entries_per_pass / kStepEntries;
  load_tails();
  load_rows(0, 0, h.needed);
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) load_weights(s, s);
    cp_async_commit();
  }

  const int warp_m = warp / Tile::kWarpsN * Tile::WM, warp_n = warp % Tile::kWarpsN * Tile::WN;
  float acc[kTilesM][kTilesN][4];
  start_at_bias<kTilesM, Tile::WN>(p, n0 + warp_n, lane, [&](int i, int j, int e) -> float& { return acc[i][j][e]; });
  // ldmatrix: lane i addresses a row of block i/8. A: rows 0-7, 8-15 of the first chunk, then of the second.
  // B: first and second chunk of columns 0-7, then of columns 8-15.
  int row_a[kTilesM];
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) row_a[i] = (ring_position(h, m0 + warp_m + i * 16 + (lane & 15)) - position0) * 16;
  const int row_b = warp_n + (lane >> 4) * 8 + (lane & 7);

  int step = 0, stage = 0, group = 0, step_of_group = 0;
  const auto multiply_until = [&]<bool kWithWords>(int end) {
    [[maybe_unused]] constexpr int kUnrolled = kWithWords ? 1 : kHalves;
    for (; step < end; ++step) {
      cp_async_wait<kStages - 2>();
      __syncthreads();  // this stage is complete for everybody, and the one before it is free; groups likewise
      if (step + kStages - 1 < steps) load_weights(stage == 0 ? kStages - 1 : stage - 1, step + kStages - 1);
      load_rows(group + 1, step_of_group * h.copies_per_step, (step_of_group + 1) * h.copies_per_step);
      cp_async_commit();
      if (++step_of_group == steps_per_group) step_of_group = 0, ++group;
#pragma unroll kUnrolled
      for (int half = 0; half < kStepEntries; ++half) {
        const int entry = step * kStepEntries + half;
        if (kWithWords && entry == h.entries) break;  // the last step may have one
        const HaloEntry& e = entries[entry];
        const shared_address b_at =
            shared_address(stages) + (stage * kStage + swizzled_64(row_b, half * 2 + ((lane >> 3) & 1)));
        Fragment<bf16, 4> a[kTilesM];
        if (!kWithWords || entry < h.whole_entries) {
          const shared_address a_at = shared_address(tile) + (e.first + (lane >> 4) * e.second) * 16;
#pragma unroll
          for (int i = 0; i < kTilesM; ++i) ldmatrix_x4(a[i].r, a_at + row_a[i]);
        } else {
          load_word_fragments<kTilesM>(a, tile, words + e.first, row_a, lane);
        }
#pragma unroll
        for (int j = 0; j < kTilesN / 2 * 2; j += 2) {
          std::uint32_t r[4];
          ldmatrix_x4(r, b_at + j * 8 * kRowBytes);
          const Fragment<bf16, 2> b[2] = {{{r[0], r[1]}}, {{r[2], r[3]}}};
#pragma unroll
          for (int i = 0; i < kTilesM; ++i) {
            multiply_add(acc[i][j], a[i], b[0]);
            multiply_add(acc[i][j + 1], a[i], b[1]);
          }
        }
        if constexpr (kTilesN % 2 != 0) {
          Fragment<bf16, 2> b;
          ldmatrix_x2(b.r, b_at + (kTilesN - 1) * 8 * kRowBytes);
#pragma unroll
          for (int i = 0; i < kTilesM; ++i) multiply_add(acc[i][kTilesN - 1], a[i], b);
        }
      }
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
  };
  multiply_until.template operator()<false>(h.whole_entries / kStepEntries);
  multiply_until.template operator()<true>(steps);
  cp_async_wait<0>();
  __syncthreads();  // tile, stages and rows are free for the epilogue

  // Epilogue: 16 rows of a warp at a time through its own shared memory, then whole chunks.
  constexpr int kPitch = staged_pitch(Tile::WN);
  int* out_row = source_row;
  const int M = p.B * p.t.source * h.y.extent * h.x.extent;
  for (int r = thread; r < Tile::BM; r += Tile::kThreads) out_row[r] = m0 + r < M ? phase_row(p, h, phase, m0 + r) : -1;
  if constexpr (std::is_same_v<End, NormGradRows>) {
    return end_in_norm_grad<Tile::BN, Tile::kThreads / 32, kTilesM>(
        p, stages, m0, thread, [&](int i) { return out_row + warp_m + i * 16; },
        [&](int i, int j, int e) { return acc[i][j][e]; }, [] { __syncthreads(); });
  }
  NormTable table{};
  if constexpr (End::kNorm) {
    table =
        fill_norm_table<Tile::BN>(p, stages + staged_bytes(Tile::kThreads / 32, Tile::WN), m0, thread, Tile::kThreads);
  }
  __syncthreads();
  float* staged = reinterpret_cast<float*>(stages) + warp * 16 * kPitch;
  store_fragments<End, bf16, Tile::WN, kPitch, kTilesM>(
      p, staged, (n0 + warp_n) / 8, lane, table, [&](int i) { return out_row + warp_m + i * 16; },
      [&](int i, int j, int e) { return acc[i][j][e]; });
}

}  // namespace AVID_GPU

template <class Backend>
void gather_gemm_halo(const Stream& stream, const GatherGemm<BFloat16>& p, int tile) {
  const std::int64_t N = std::int64_t{p.out[0].chunks + p.out[1].chunks} * kChunk<BFloat16>;
  HaloMmaTiles::with(tile, [&]<class Tile>() {
    const HaloPlan h = halo_ring_plan(p, halo_needs<Tile>(), Tile::kStages - 1);
    if (h.pitch == 0) throw GpuError(kNoRing);
    const std::int64_t M = std::int64_t{p.B} * p.t.source * h.y.extent * h.x.extent;
    const dim3 grid(
        static_cast<unsigned>((M + Tile::BM - 1) / Tile::BM), static_cast<unsigned>((N + Tile::BN - 1) / Tile::BN),
        static_cast<unsigned>(phases_of(p)));
    const auto run = [&]<class End>(End) {
      AVID_GPU::launch(
          AVID_GPU::gather_gemm_halo_kernel<Tile, End>, grid, dim3(Tile::kThreads), h.shared_bytes, stream, p, h);
    };
    if constexpr (halo_ends_in_norm_grad<Tile>()) {
      if (p.norm.x.chunks > 0) return run(AVID_GPU::NormGradRows{});
    }
    if constexpr (Tile::kWarpsN == 1) {
      if (p.norm.gamma != nullptr) return run(AVID_GPU::NormedRows{});
    }
    run(AVID_GPU::PlainRows{});
  });
}

template void gather_gemm_halo<Gpu>(const Stream&, const GatherGemm<BFloat16>&, int);

}  // namespace avid::kernels
