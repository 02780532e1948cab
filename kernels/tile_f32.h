// kernels/tile_f32.h -- the two register tiles under all f32 convolutions and matrix products on the CPU
//
// Every such op here is a sum of products between channels-last rows and a small matrix. One tile holds its sums in
// vector registers (lanes = output channels) while it runs over the whole reduction:
//   product_tile   out[p,o] = init + sum_s sum_j a_s[p*step_s + j] * w[s,j,o]    p: a few positions, o: lane blocks
//   outer_tile     dst[j,o] += sum_p a[p,j] * g[p,o]                             j: a few channels, o: lane blocks
// The reduction operand of the first is read as broadcast scalars from runs of consecutive floats: for a convolution
// over a zero-padded row of pixels, the kw taps times I channels under one kernel row are such a run. So there is no
// im2col.
#pragma once

#include <cstdint>

namespace avid::kernels {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
inline constexpr int kLanes = 16;
/// Largest number of positions (or input channels) of a tile with 1, 2, 3 blocks: as many sums as fit in the registers.
inline constexpr int kMaxTileRows[4] = {0, 16, 12, 8};
/// The same when the last block has at most kHalfLanes lanes: two rows then share one register of sums for it, so 24
/// channels cost 1.5 blocks and not 2. 0 lanes: no such tiles.
inline constexpr int kHalfLanes = 8;
inline constexpr int kMaxHalfTileRows[4] = {0, 16, 16, 10};
#else
inline constexpr int kLanes = 8;
inline constexpr int kMaxTileRows[4] = {0, 10, 6, 4};
inline constexpr int kHalfLanes = 0;
inline constexpr int kMaxHalfTileRows[4] = {0, 1, 1, 1};
#endif
inline constexpr int kMaxTileBlocks = 3;

/// Largest number of rows of a tile of `num_blocks` blocks, the last of them with `lanes_last` (1..kLanes) valid lanes.
inline std::int64_t max_tile_rows(int num_blocks, int lanes_last) {
  return lanes_last <= kHalfLanes ? kMaxHalfTileRows[num_blocks] : kMaxTileRows[num_blocks];
}

/// `length` consecutive floats at a + p*step for position p.
struct Run {
  const float* a;
  std::int64_t step;
  std::int64_t length;
};

/// Where a product tile starts from and where it ends. `lanes_last`: valid lanes of the last block (1..kLanes).
struct TileOutput {
  float* out;  ///< [p*out_step + o]
  std::int64_t out_step;
  const float* bias = nullptr;      ///< [blocks*kLanes], zero behind the last channel; or null
  const float* residual = nullptr;  ///< [p*residual_step + o]; or null
  std::int64_t residual_step = 0;
  int lanes_last = kLanes;
};

/// One tile of num_positions (1..max_tile_rows) by num_blocks (1..3). `w` holds, run after run, `length` groups of
/// num_blocks*kLanes floats.
void product_tile(
    int num_positions, int num_blocks, const Run* runs, int num_runs, const float* w, const TileOutput& output);

/// Rows and columns of positions that an outer tile sums over: position (y,x) has its operands at a + y*a_row +
/// x*a_step (consecutive input channels) and g + y*g_row + x*g_step (lanes; whole blocks are read).
struct OuterOperands {
  const float* a;
  std::int64_t a_row, a_step;
  const float* g;
  std::int64_t g_row, g_step;
  std::int64_t rows, cols;
};

/// Adds one tile of num_channels (1..max_tile_rows) by num_blocks to dst[j*dst_step + o]. Lanes of dst from
/// `lanes_last` of the last block on hold nothing of use.
void outer_tile(
    int num_channels, int num_blocks, int lanes_last, const OuterOperands& operands, float* dst, std::int64_t dst_step);

/// The cut of `count` units into pieces of at most `most`, as even as possible: piece i is [begin(i), begin(i + 1)).
struct EvenCut {
  std::int64_t count, pieces;
  EvenCut(std::int64_t total, std::int64_t most) : count(total), pieces((total + most - 1) / most) {}
  std::int64_t begin(std::int64_t i) const { return count * i / pieces; }
  std::int64_t size(std::int64_t i) const { return begin(i + 1) - begin(i); }
};

inline std::int64_t blocks_of(std::int64_t channels) { return (channels + kLanes - 1) / kLanes; }
/// Valid lanes of block `block` of `channels`.
inline int lanes_of_block(std::int64_t channels, std::int64_t block) {
  return static_cast<int>(channels - block * kLanes < kLanes ? channels - block * kLanes : kLanes);
}

}  // namespace avid::kernels
