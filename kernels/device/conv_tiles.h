// kernels/device/conv_tiles.h -- which block tile a product runs with: data and one rule, never a timing
//
// A tile is BM x BN results per block, computed by warps of WM x WN each, with kStages buffers of 4 chunks (64 bytes)
// per row. 192 accumulator registers per thread is the most that does not spill (WM*WN/32), so wide tiles are 64x96 per
// warp. 128x192 of four such warps spills 32 bytes for sm_90; 180 channels run as two columns of 256x96 instead.
//
// The rule takes the tile with the least predicted time: (waves over 216 block slots, two per multiprocessor of an
// A100) x (results per block) / share, where share is how near the tile comes to the tensor cores' peak in the
// instruction and shared-memory model of the kernel study. Shapes alone decide, so results do not depend on the device
// or on a tuning run; compute capability 9.0 has tiles of its own beside these. The shares are predictions: no tile has
// been timed on a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device/halo_raster.h"
#include "kernels/dtype.h"

namespace avid::kernels {

template <int kBM, int kBN, int kWM, int kWN, int kNumStages>
struct GemmTile {
  static constexpr int BM = kBM, BN = kBN, WM = kWM, WN = kWN, kStages = kNumStages;
  static constexpr int kWarpsM = BM / WM, kWarpsN = BN / WN, kThreads = 32 * kWarpsM * kWarpsN;
  static_assert(BM % WM == 0 && BN % WN == 0 && WM % 16 == 0 && WN % 8 == 0);
};

/// Blocks that run at a time in the rule above.
inline constexpr std::int64_t kBlockSlots = 216;

/// Predicted time of a product with this tile, in units of results per slot at full rate. `splits` blocks work on each
/// tile.
constexpr double tile_cost(
    std::int64_t M, std::int64_t N, std::int64_t splits, std::int64_t slots, int BM, int BN, double share) {
  const std::int64_t blocks = (M + BM - 1) / BM * ((N + BN - 1) / BN) * splits;
  const std::int64_t waves = (blocks + slots - 1) / slots;
  // Beyond a few waves the last, partly filled one matters less: count blocks exactly.
  const double exact = static_cast<double>(blocks) / static_cast<double>(slots);
  const double rounds = waves > 4 ? exact : static_cast<double>(waves);
  return rounds * BM * BN / share;
}

struct BestTile {
  int index;
  double cost;
};

template <class... Entries>
struct TileList {
  static constexpr int kCount = sizeof...(Entries);
  /// The best tile for an M x N product whose tiles can be shared by up to `splits` blocks.
  static constexpr BestTile best(
      std::int64_t M, std::int64_t N, std::int64_t splits = 1, std::int64_t slots = kBlockSlots) {
    const double costs[kCount] = {
        tile_cost(M, N, splits, slots, Entries::Tile::BM, Entries::Tile::BN, Entries::share)...};
    int best = 0;
    for (int i = 1; i < kCount; ++i)
      if (costs[i] < costs[best]) best = i;
    return {best, costs[best]};
  }
  /// Calls f.operator()<Entry>(place) for every entry.
  template <class F>
  static void for_each(F&& f) {
    int i = 0;
    (f.template operator()<Entries>(i++), ...);
  }
  /// Calls f.operator()<Tile>() with the tile at this place of the list.
  template <class F>
  static void with(int index, F&& f) {
    int i = 0;
    (void)((i++ == index ? (f.template operator()<typename Entries::Tile>(), true) : false) || ...);
  }
  /// The same with the given tile, or, if that is negative, with the best.
  template <class F>
  static void choose(int given, std::int64_t M, std::int64_t N, std::int64_t splits, F&& f) {
    with(given < 0 ? best(M, N, splits).index : given, f);
  }
};

template <int kSharePercent, int BM, int BN, int WM, int WN, int kStages>
struct TileEntry {
  using Tile = GemmTile<BM, BN, WM, WN, kStages>;
  static constexpr double share = kSharePercent / 100.0;
};

/// The f32 rows that warps of WN columns stage their results in: 8 modulo 32 banks, so that pairs do not collide.
constexpr int staged_pitch(int columns) { return (columns + 23) / 32 * 32 + 8; }

/// 16 rows of each of `warps` warps.
constexpr std::size_t staged_bytes(int warps, int columns) {
  return std::size_t{4} * 16 * staged_pitch(columns) * warps;
}

/// Coefficients of a row norm (device/gather_norm.h): a and shift, f32, of one frame.
constexpr std::size_t norm_table_bytes(int columns) { return std::size_t{8} * columns; }

/// A tile of gather_gemm: its stages, and what the epilogue's staged rows leave of them for coefficients.
template <class Tile>
constexpr std::size_t gather_stage_bytes() {
  return std::size_t{64} * Tile::kStages * (Tile::BM + (Tile::BN + 15) / 16 * 16);
}
template <class Tile>
constexpr std::size_t gather_norm_room() {
  return gather_stage_bytes<Tile>() - staged_bytes(Tile::kThreads / 32, Tile::WN);
}

/// A tile of gather_gemm_halo: kStages stages of 64 bytes per column, then the rows' halo. Results are staged in their
/// place, and behind them lie the coefficients of a norm, of 12 frames at least: 256 rows of 5x7 frames meet 9.
template <class Tile>
constexpr HaloNeeds halo_needs() {
  constexpr std::size_t kStages = std::size_t{64} * Tile::kStages * Tile::BN,
                        kEnd = staged_bytes(Tile::kThreads / 32, Tile::WN) + 12 * norm_table_bytes(Tile::BN);
  return {
      .BM = Tile::BM,
      .other_bytes = kStages,
      .least_tile_bytes = kEnd > kStages ? kEnd - kStages : 0,
      .limit_bytes = 81 * 1024,  // two blocks of sm_80's 164 KiB, of which each reserves one
      .entries_per_step = 2,
      .rows_per_copy = Tile::kThreads / 4};
}
template <class Tile>
constexpr std::size_t halo_norm_room(const HaloPlan& h) {
  return halo_needs<Tile>().other_bytes + h.tile_bytes - staged_bytes(Tile::kThreads / 32, Tile::WN);
}

/// May a tile of gather_gemm_halo end in a norm's gradient? With 208 sums per thread its registers would spill.
template <class Tile>
constexpr bool halo_ends_in_norm_grad() {
  return Tile::kWarpsN == 1 && Tile::WM * Tile::WN / 32 <= 200;
}

/// Tiles of gather_gemm.
template <class Elem>
struct GatherGemmTiles;

// clang-format off
template <>
struct GatherGemmTiles<BFloat16> : TileList<
    //        share  BM   BN  WM  WN stages
    TileEntry<12,    32,  16, 16, 16, 4>,  // few results
    TileEntry<20,    32,  32, 16, 32, 4>,  // few rows: embeddings, FiLM, deep levels of small networks
    TileEntry<20,   128,  16, 32, 16, 4>,  // few columns: heads with 3 or 4 channels
    TileEntry<45,   128,  64, 32, 64, 4>,  // rounds of few blocks
    TileEntry<55,   256,  56, 64, 56, 3>,  // C = 50
    TileEntry<75,   256,  96, 64, 96, 3>,  // C = 90, 180, 360
    TileEntry<72,   192, 104, 48, 104, 3>,  // C = 100, 200
    TileEntry<70,   128, 128, 64, 64, 4>,
    TileEntry<73,   128, 160, 64, 80, 3>   // C = 800
    > {};

template <>
struct GatherGemmTiles<float> : TileList<
    TileEntry<12,    32,  16, 16, 16, 4>,
    TileEntry<20,    32,  32, 16, 32, 4>,
    TileEntry<20,   128,  16, 32, 16, 4>,
    TileEntry<60,   128,  64, 32, 64, 3>
    > {};
// clang-format on

/// Tiles of gather_gemm_halo, bf16: where the copies of a gathering kernel, not the tensor cores, are the limit.
// clang-format off
struct HaloMmaTiles : TileList<
    TileEntry<75, 256,  56, 64,  56, 4>,  // C = 50
    TileEntry<75, 256,  80, 64,  80, 3>,  // C = 400, 800
    TileEntry<75, 256,  96, 64,  96, 3>,  // C = 90
    TileEntry<75, 256, 104, 64, 104, 3>,  // C = 100, 200
    TileEntry<75, 192, 104, 48, 104, 3>,
    TileEntry<75, 192,  80, 48,  80, 3>,
    TileEntry<75, 160,  96, 80,  48, 3>,  // C = 180, 200 of 16 clips: 410 blocks at 16x16, of 432 in two waves
    TileEntry<75, 160, 112, 80,  56, 3>,
    TileEntry<75, 192, 120, 48, 120, 3>,  // C = 360, 720
    TileEntry<75, 128, 104, 32, 104, 3>,
    TileEntry<75, 128, 184, 32, 184, 3>,  // C = 180, whole rows
    TileEntry<75, 128, 200, 32, 200, 3>,  // C = 200, whole rows
    TileEntry<75, 128,  56, 32,  56, 4>,  // few rows of many columns: deep levels of a clip or two
    TileEntry<75,  64,  64, 32,  32, 4>
    > {};
// clang-format on

// ---- devices of compute capability 9.0 ----

/// May a loading warpgroup go on with `load` registers a thread, and `multiplying` others with `multiply`, where
/// `blocks` blocks share a multiprocessor? A block hands round what its threads were launched with: were it less, those
/// that multiply would wait for the rest forever.
constexpr bool registers_suffice(int load, int multiply, int multiplying, int blocks) {
  const int launched = 65536 / (128 * (multiplying + 1) * blocks) / 8 * 8;
  return load % 8 == 0 && multiply % 8 == 0 && load >= 24 && multiply <= 256 &&
         load + multiplying * multiply <= (multiplying + 1) * launched;
}

/// A tile of gather_gemm_wgmma: two multiplying warpgroups with kTilesM blocks of 64 rows each, and one that loads.
/// Registers are those that a multiprocessor can give: 88 + 2 * 208 = 3 * 168 at launch.
template <int kBN, int kNumTilesM, int kNumStages>
struct WgmmaTile {
  static constexpr int BN = kBN, kTilesM = kNumTilesM, kStages = kNumStages;
  static constexpr int kMultiplying = 2, BM = 64 * kTilesM * kMultiplying, kThreads = 128 * (kMultiplying + 1);
  static constexpr int kLoadRegisters = 88, kMultiplyRegisters = 208;
  static_assert(registers_suffice(kLoadRegisters, kMultiplyRegisters, kMultiplying, 1));
  /// What the staged rows leave of the stages.
  static constexpr std::size_t kNormRoom = std::size_t{128} * kStages * (BM + BN) - staged_bytes(4 * kMultiplying, BN);
};
template <int kSharePercent, int BN, int kTilesM, int kStages>
struct WgmmaEntry {
  using Tile = WgmmaTile<BN, kTilesM, kStages>;
  static constexpr double share = kSharePercent / 100.0;
};

/// bf16. Shares are predicted from the traffic per tile: shared memory at 128 and the second-level cache at 43 bytes a
/// clock and multiprocessor of an H200.
// clang-format off
struct WgmmaTiles : TileList<
    //         share   BN  64-row blocks, stages
    WgmmaEntry<31,     56, 2, 4>,
    WgmmaEntry<47,     96, 2, 4>,  // C = 90, 180
    WgmmaEntry<49,    104, 2, 4>,  // C = 100
    WgmmaEntry<57,    128, 2, 4>,  // C = 360, 720
    WgmmaEntry<65,    160, 2, 4>,  // C = 800
    WgmmaEntry<52,    200, 1, 4>   // C = 200, 400
    > {};
// clang-format on

/// A tile of gather_gemm_halo_wgmma: one multiplying warpgroup with kTilesM blocks of 64 rows and one that loads; two
/// blocks of threads per multiprocessor: 56 + 200 = 2 * 128 registers at launch, or 24 + 232 where a thread has more
/// than 160 sums. More rows mean fewer reads of the weights, more columns fewer of the rows; three stages are what
/// fits.
template <int kBN, int kNumTilesM, int kNumStages>
struct HaloTile {
  static constexpr int BN = kBN, kTilesM = kNumTilesM, kStages = kNumStages, BM = 64 * kTilesM, kThreads = 256;
  static constexpr int kSums = kTilesM * BN / 2;  // of a multiplying thread
  static constexpr int kLoadRegisters = kSums <= 160 ? 56 : 24, kMultiplyRegisters = 256 - kLoadRegisters;
  static_assert(registers_suffice(kLoadRegisters, kMultiplyRegisters, 1, 2));
  /// What the staged rows leave of the stages.
  static constexpr std::size_t kNormRoom = std::size_t{128} * kStages * BN - staged_bytes(4, BN);
  /// May it end in a norm's gradient? Else there are no registers for its sums.
  static constexpr bool kEndsInNormGrad = BN <= 128 || kMultiplyRegisters > 200;
  /// Stages, the room to align them, barriers and rows of results; half of a multiprocessor's 228 KiB, of which a block
  /// reserves one.
  static constexpr HaloNeeds needs() {
    return {
        .BM = BM,
        .other_bytes = std::size_t{128} * kStages * BN + 1024 + 16 * (kStages + 1) + 4 * BM,
        .least_tile_bytes = 0,
        .limit_bytes = 113 * 1024,
        .entries_per_step = 4};
  }
};
template <int kSharePercent, int BN, int kTilesM, int kStages>
struct HaloEntryOfList {
  using Tile = HaloTile<BN, kTilesM, kStages>;
  static constexpr double share = kSharePercent / 100.0;
};
// clang-format off
struct HaloTiles : TileList<
    //              share   BN  64-row blocks, stages
    HaloEntryOfList<60,     56, 4, 4>,  // C = 50
    HaloEntryOfList<75,     96, 4, 3>,  // C = 90
    HaloEntryOfList<75,    104, 3, 3>,  // C = 100
    HaloEntryOfList<74,    128, 2, 3>,
    HaloEntryOfList<75,    160, 2, 3>,
    HaloEntryOfList<75,    184, 2, 3>,  // C = 180, 360, 720: whole rows of 180
    HaloEntryOfList<75,    200, 2, 3>,  // C = 200, 400, 800: whole rows of 200
    HaloEntryOfList<57,     64, 2, 4>,  // few rows of many columns: deep levels of a clip or two
    HaloEntryOfList<37,     64, 1, 4>
    > {};
// clang-format on

inline constexpr std::int64_t kHopperMultiprocessors = 132;
/// mma.sync on such a device in units of wgmma's full rate: two thirds, and about 0.9 of the shares above against a
/// second-level cache that is no faster in proportion.
inline constexpr double kHopperMmaRate = 0.9 * 2 / 3;
/// The time of a halo tile whose block has a multiprocessor to itself, relative to that of half of two.
inline constexpr double kAloneOnHopper = 1.1;

/// What it costs to write M x N results, and to read them once more, for a norm in a kernel of its own: in units of
/// tile_cost, for products of `inner_chunks` chunks on whole multiprocessors of an H200.
constexpr double hopper_norm_cost(std::int64_t M, std::int64_t N, int inner_chunks) {
  constexpr double kMemoryBytesPerClock = 17.8 * 0.92;  // of a multiprocessor: 4.3e12 bytes/s, measured by others
  constexpr double kProductsPerClock = 2048;
  const double clocks = 4.0 * static_cast<double>(M) * static_cast<double>(N) /
                        (static_cast<double>(kHopperMultiprocessors) * kMemoryBytesPerClock);
  return clocks * kProductsPerClock / (8.0 * inner_chunks);
}

}  // namespace avid::kernels
