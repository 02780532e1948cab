// kernels/device/weight_grad_tiles.h -- which block tile a weight gradient runs with: data, never a timing
//
// As in conv_tiles.h; the rule that takes one, and cuts the positions, is plan_weight_grad (weight_grad_plan.h). Shares
// are predictions: tensor cores at the share that the kernel study gives this family, and 15 % of what the next of
// shared memory and second-level cache takes. No tile has been timed on a GPU.
#pragma once

#include "kernels/device/conv_tiles.h"

namespace avid::kernels {

/// A tile of gather_weight_grad whose products have (tap, channel) along their columns, of which there are 8 to an
/// instruction, not along their 16 rows; and that packs the last chunks of all taps (GradChunks).
template <int kBM, int kBN, int kWM, int kWN, int kNumStages>
struct PackedGradTile {
  static constexpr int BM = kBM, BN = kBN, WM = kWM, WN = kWN, kStages = kNumStages;
  static constexpr int kWarpsM = BM / WM, kWarpsN = BN / WN, kThreads = 32 * kWarpsM * kWarpsN;
  static_assert(BM % WM == 0 && BN % WN == 0 && WM % 8 == 0 && WN % 16 == 0);
};
template <class Tile>
inline constexpr bool kIsPacked = false;
template <int kBM, int kBN, int kWM, int kWN, int kStages>
inline constexpr bool kIsPacked<PackedGradTile<kBM, kBN, kWM, kWN, kStages>> = true;

template <int kSharePercent, int BM, int BN, int WM, int WN, int kStages>
struct PackedGradEntry {
  using Tile = PackedGradTile<BM, BN, WM, WN, kStages>;
  static constexpr double share = kSharePercent / 100.0;
};

/// Tiles of gather_weight_grad: BM counts (tap, channel), BN output channels; a stage holds 32 positions. Shares are
/// those of an A100.
template <class Elem>
struct WeightGradTiles;

// clang-format off
template <>
struct WeightGradTiles<BFloat16> : TileList<
    TileEntry<11,    32,  16, 16, 16, 3>,  // heads, and the layers of small networks
    TileEntry<13,    64,  16, 16, 16, 3>,
    TileEntry<39,   128,  56, 32, 56, 3>,
    TileEntry<53,   128,  96, 64, 48, 3>,
    TileEntry<56,   128, 104, 32, 104, 3>,
    TileEntry<59,   128, 128, 64, 64, 3>,
    TileEntry<53,    96, 128, 48, 64, 3>,  // 1x1, from 90 channels
    TileEntry<61,   128, 184, 32, 184, 3>,  // C = 180, 360, 720
    TileEntry<61,   384,  96, 96, 48, 3>,   // C = 90: 4x4, 16 taps in four tiles; 1x1 from 336
    TileEntry<61,   448,  96, 112, 48, 3>,  // C = 96, 3x3: 9 taps in two tiles
    PackedGradEntry<61, 416, 96, 104, 48, 3>  // C = 90, 3x3: likewise
    > {};

template <>
struct WeightGradTiles<float> : TileList<
    TileEntry<12,    32,  16, 16, 16, 2>,
    TileEntry<20,    64,  16, 16, 16, 2>,
    TileEntry<60,    64,  64, 32, 32, 2>
    > {};
// clang-format on

/// Blocks of such a tile that share a multiprocessor.
template <class Tile>
inline constexpr int kGradBlocks = Tile::kThreads <= 128 ? 2 : 1;

/// A tile of gather_weight_grad_wgmma: kMultiplying warpgroups with kGroups x 8 columns each (weight_grad_plan.h),
/// every column at kShifts taps, by BN output channels; and a warpgroup that loads. With one that multiplies two blocks
/// share a multiprocessor, as for the halo tiles: 56 + 200 = 2 * 128 registers at launch; two: 88 + 2 * 208 = 3 * 168.
template <int kBN, int kNumShifts, int kNumGroups, int kWarpgroups, int kNumStages>
struct WgmmaGradTile {
  static constexpr int BN = kBN, kShifts = kNumShifts, kGroups = kNumGroups, kMultiplying = kWarpgroups;
  static constexpr int kStages = kNumStages, kThreads = 128 * (kMultiplying + 1), kBlocks = kMultiplying == 1 ? 2 : 1;
  static constexpr int kColumns = 8 * kGroups * kMultiplying, BM = 8 * kColumns * kShifts;
  static constexpr int kLoadRegisters = kMultiplying == 1 ? 56 : 88;
  static constexpr int kMultiplyRegisters = kMultiplying == 1 ? 200 : 208;
  static_assert(registers_suffice(kLoadRegisters, kMultiplyRegisters, kMultiplying, kBlocks));
};
template <int kSharePercent, int BN, int kShifts, int kGroups, int kMultiplying, int kStages>
struct WgmmaGradEntry {
  using Tile = WgmmaGradTile<BN, kShifts, kGroups, kMultiplying, kStages>;
  static constexpr double share = kSharePercent / 100.0;
};
// clang-format off
struct WgmmaGradTiles : TileList<
    //             share   BN shifts, groups, warpgroups, stages
    WgmmaGradEntry<53,     56, 3, 1, 1, 4>,  // C = 50, 3x3
    WgmmaGradEntry<55,     96, 3, 1, 1, 4>,  // C = 90, 180
    WgmmaGradEntry<56,    104, 3, 1, 1, 4>,  // C = 100, 200 ... 800
    WgmmaGradEntry<56,    104, 2, 1, 2, 4>,  // 4x4 with stride 2
    WgmmaGradEntry<54,    128, 1, 2, 2, 4>,
    WgmmaGradEntry<55,    160, 1, 2, 2, 4>,  // C = 800
    WgmmaGradEntry<53,    184, 1, 1, 2, 4>,  // C = 180, 360, 720
    WgmmaGradEntry<54,    208, 1, 1, 2, 4>,  // 1x1 to 3 heads' channels, 1008
    WgmmaGradEntry<46,     96, 1, 3, 1, 3>   // 1x1 to 90
    > {};
// clang-format on

}  // namespace avid::kernels
