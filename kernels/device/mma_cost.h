// kernels/device/mma_cost.h -- the predicted time of a product on mma.sync, from its shape and its tile
//
// What a block asks of an A100's multiprocessor: multiply-adds of the tensor cores, passes of 128 bytes through shared
// memory, bytes of the second-level cache. The longest of the three decides; what is next costs 15 % of its time. The
// rates are those of the kernel study (bench/README.md, "Predictions"): what is left of the peak beside other work.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/halo_raster.h"

namespace avid::kernels {

/// Per clock and multiprocessor of an A100: multiply-adds of bf16 at a tile's share of the peak, passes, bytes.
inline constexpr double kProductsPerClock = 1024, kPassesPerClock = 0.85 * 0.90,
                        kCacheBytesPerClock = 35.5 * 0.85 * 0.75;
inline constexpr double kNextPart = 0.15;

/// Of one block.
struct BlockDemand {
  double steps = 0;    ///< of 4 chunks of the inner dimension
  double copied = 0;   ///< bytes written into shared memory, at all steps
  double fetched = 0;  ///< bytes out of the second-level cache, in whole sectors of 32
};

/// Clocks that M x N results take with this tile, where every block asks for d.
template <class Tile>
constexpr double mma_cost(std::int64_t M, std::int64_t N, const BlockDemand& d, double share) {
  constexpr double kWarps = Tile::kThreads / 32.0, kResults = double{Tile::BM} * Tile::BN;
  // A step is two k16 halves; ldmatrix takes four passes for 16 rows of A, two for 8 columns of B.
  const double passes =
      d.steps * 2 * kWarps * (Tile::WM / 16 * 4 + Tile::WN / 8 * 2) + d.copied / 128 + kResults * 8 / 128;
  double parts[3] = {
      d.steps * 32 * kResults / (kProductsPerClock * share), passes / kPassesPerClock,
      (d.fetched + 2 * kResults) / kCacheBytesPerClock};
  std::sort(parts, parts + 3);
  const std::int64_t blocks = (M + Tile::BM - 1) / Tile::BM * ((N + Tile::BN - 1) / Tile::BN);
  constexpr std::int64_t kMultiprocessors = kBlockSlots / 2;
  const std::int64_t load = blocks <= kBlockSlots ? (blocks + kMultiprocessors - 1) / kMultiprocessors
                                                  : (blocks + kBlockSlots - 1) / kBlockSlots * 2;
  return static_cast<double>(load) * (parts[2] + kNextPart * parts[1]);
}

/// What it costs to write the results, and to read them once more, for a norm in a kernel of its own.
constexpr double row_norm_cost(std::int64_t M, std::int64_t N) {
  constexpr double kMemoryBytesPerClock = 9.06 * 0.92;  // of a multiprocessor: 1.38e12 bytes/s, measured by others
  return 4.0 * static_cast<double>(M) * static_cast<double>(N) / (kBlockSlots / 2 * kMemoryBytesPerClock);
}

/// Pieces of 64 bytes of rows of `chunks` chunks of 16: where that is odd they touch 2.5 sectors.
constexpr double piece_bytes(int chunks) { return chunks % 2 != 0 ? 80 : 64; }

/// A block of gather_gemm, in a phase of the adjoint. Of p, here and below, axes and numbers of chunks count.
template <class Tile, class Elem>
constexpr BlockDemand gathered_demand(const GatherGemm<Elem>& p, std::int64_t N) {
  const int taps = p.t.taps * p.y.taps * p.x.taps, chunks = p.source[0].chunks + p.source[1].chunks;
  const int strides = p.adjoint ? p.t.stride * p.y.stride * p.x.stride : 1;
  const double steps = std::max(1, (taps / strides * chunks + 3) / 4);
  const double columns = std::min<double>(Tile::BN, N);
  return {
      .steps = steps,
      .copied = steps * 64 * (Tile::BM + Tile::BN),
      .fetched = steps * (Tile::BM * piece_bytes(p.source[0].chunks) + columns * piece_bytes(taps * chunks))};
}

/// A block of gather_gemm_halo. Words come in pieces of 4 or 8 bytes, of a sector each.
template <class Tile, class Elem>
constexpr BlockDemand halo_demand(const GatherGemm<Elem>& p, std::int64_t N, const HaloPlan& h) {
  const int taps = p.y.taps * p.x.taps, chunks = p.source[0].chunks + p.source[1].chunks;
  const double pieces = static_cast<double>(h.needed) * h.planes / 4, tails = static_cast<double>(h.needed) * h.tails;
  const double whole = h.whole_entries / 2.0, words = static_cast<double>(h.words) / h.tail_words;
  const double columns = std::min<double>(Tile::BN, N);
  return {
      .steps = h.entries / 2.0,
      .copied = pieces * 64 + tails * 4 * h.tail_words + h.entries * 32 * Tile::BN,
      .fetched = pieces * piece_bytes(p.source[0].chunks) + whole * columns * piece_bytes(taps * chunks) +
                 (tails + words * columns) * 32};
}

}  // namespace avid::kernels
