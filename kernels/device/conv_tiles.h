// kernels/device/conv_tiles.h -- which block tile a product runs with: data and one rule, never a timing
//
// A tile is BM x BN results per block, computed by warps of WM x WN each, with kStages buffers of 4 chunks (64 bytes)
// per row. 192 accumulator registers per thread is the most that does not spill (WM*WN/32), so wide tiles are 64x96 per
// warp. 128x192 of four such warps spills 32 bytes for sm_90; 180 channels run as two columns of 256x96 instead.
//
// The rule takes the tile with the least predicted time: (waves over 216 block slots, two per multiprocessor of an
// A100) x (results per block) / share, where share is how near the tile comes to the tensor cores' peak in the
// instruction and shared-memory model of the kernel study. Shapes alone decide, so results do not depend on the device
// or on a tuning run. The shares are predictions: no tile has been timed on a GPU.
#pragma once

#include <cstdint>

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
constexpr double tile_cost(std::int64_t M, std::int64_t N, std::int64_t splits, int BM, int BN, double share) {
  const std::int64_t blocks = (M + BM - 1) / BM * ((N + BN - 1) / BN) * splits;
  const std::int64_t waves = (blocks + kBlockSlots - 1) / kBlockSlots;
  // Beyond a few waves the last, partly filled one matters less: count blocks exactly.
  const double exact = static_cast<double>(blocks) / static_cast<double>(kBlockSlots);
  const double rounds = waves > 4 ? exact : static_cast<double>(waves);
  return rounds * BM * BN / share;
}

/// Calls f.operator()<Tile>() with the given tile of the list, or, if that is negative, with the best for an M x N
/// product whose tiles can be shared by up to `splits` blocks.
template <class... Entries>
struct TileList {
  static constexpr int kCount = sizeof...(Entries);
  template <class F>
  static void choose(int given, std::int64_t M, std::int64_t N, std::int64_t splits, F&& f) {
    const double costs[kCount] = {tile_cost(M, N, splits, Entries::Tile::BM, Entries::Tile::BN, Entries::share)...};
    int best = given < 0 ? 0 : given;
    for (int i = 1; i < kCount && given < 0; ++i)
      if (costs[i] < costs[best]) best = i;
    int i = 0;
    (void)((i++ == best ? (f.template operator()<typename Entries::Tile>(), true) : false) || ...);
  }
};

template <int kSharePercent, int BM, int BN, int WM, int WN, int kStages>
struct TileEntry {
  using Tile = GemmTile<BM, BN, WM, WN, kStages>;
  static constexpr double share = kSharePercent / 100.0;
};

/// Tiles of gather_gemm.
template <class Elem>
struct GatherGemmTiles;

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

/// Tiles of gather_weight_grad: BM counts (tap, channel), BN output channels; a stage holds 32 positions.
template <class Elem>
struct WeightGradTiles;

template <>
struct WeightGradTiles<BFloat16> : TileList<
    TileEntry<12,    32,  16, 16, 16, 3>,  // heads, and the layers of small networks
    TileEntry<20,    64,  16, 16, 16, 3>,
    TileEntry<50,   128,  56, 32, 56, 3>,
    TileEntry<62,   128,  96, 32, 96, 3>,
    TileEntry<62,   128, 104, 32, 104, 3>,
    TileEntry<66,   128, 128, 64, 64, 3>
    > {};

template <>
struct WeightGradTiles<float> : TileList<
    TileEntry<12,    32,  16, 16, 16, 2>,
    TileEntry<20,    64,  16, 16, 16, 2>,
    TileEntry<60,    64,  64, 32, 32, 2>
    > {};

}  // namespace avid::kernels
