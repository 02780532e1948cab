// kernels/device/weight_grad_plan.h -- how a weight gradient is cut: tile, columns, positions, splits
//
// gather_weight_grad_wgmma: along x, position j meets the source at j*stride - padding + k. So the taps k, k + stride,
// k + 2 stride ... read one and the same row of values, each one position further on: `shifts` of them share a tile in
// shared memory. A class is such a run of taps, named by its first: for 3x3 there is one (0 1 2), for 4x4 with stride 2
// there are two (0 2, 1 3). A column of the tile is a chunk of a source at a tap in time, a tap in y and a class.
//
// Positions are numbered along rows of `pitch` >= the result's width, so that a shift never leaves its row for the
// values of the next: results past the width are zero, and so adds nothing what lies there.
#pragma once

#include <algorithm>

#include "kernels/device/weight_grad_tiles.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {

/// A kind of device, as the rule sees it. Times are in multiply-adds that a multiprocessor does in it at full rate.
struct GradDevice {
  std::int64_t multiprocessors = 0;
  double mma_rate = 1;   ///< of mma.sync's tiles, to what their shares say
  double split_sum = 0;  ///< the time in which all of the device writes, and reads, one partial sum
  bool wgmma = false;
};
inline constexpr GradDevice kGradAmpere{.multiprocessors = 108, .split_sum = 9};
inline constexpr GradDevice kGradHopper{
    .multiprocessors = kHopperMultiprocessors, .mma_rate = 0.75, .split_sum = 6, .wgmma = true};

/// What the M side of gather_weight_grad has of one source: whole chunks (tap, chunk); behind them, if a tap's last
/// chunk is `packed`, the words of two channels that it has, those of all taps in a row.
struct GradChunks {
  int taps = 0, whole = 0, words = 0;  ///< whole chunks and words of a tap

  constexpr int first_word() const { return taps * whole; }                    ///< in chunks
  constexpr int all() const { return first_word() + (taps * words + 3) / 4; }  ///< chunks
  /// Where a channel of a tap lies, in channels.
  constexpr int at(int tap, int channel, int of_chunk) const {
    const int behind = channel - whole * of_chunk;
    return behind < 0 ? tap * whole * of_chunk + channel : first_word() * of_chunk + tap * 2 * words + behind;
  }
};
template <class Elem>
constexpr GradChunks grad_chunks(const GatherWeightGrad<Elem>& p, int source, bool packed) {
  GradChunks m{.taps = p.t.taps * p.y.taps * p.x.taps, .whole = p.source[source].chunks};
  const int rest = p.source_channels[source] % kChunk<Elem>;
  if (packed && rest > 0 && rest < 7) m.whole -= 1, m.words = (rest + 1) / 2;
  return m;
}

/// Threads that a row of `chunks` is dealt to, a power of two. Those past the last chunk idle.
constexpr int lanes_of(int chunks) {
  int lanes = 2;
  while (lanes < chunks) lanes *= 2;
  return lanes;
}

/// Whether each word of a tile of `chunks` finds a thread of its own among those that idle.
constexpr bool words_fit(const GradChunks& m, int chunks) {
  return 3 * (m.all() - m.first_word()) <= lanes_of(chunks) - chunks;
}

/// A weight gradient's tile and splits, by its shape, whether a bias is asked for, and the kind of device alone.
struct WeightGradPlan {
  int tile = kChooseTile;               ///< as GatherWeightGrad::tile
  int splits = 0, steps_per_split = 0;  ///< steps of kWeightGradPositions, or of kWgmmaGradPositions of the raster
  int ones = -1;                        ///< behind which source's columns a tile has room for those of the bias
  bool packed = false;                  ///< the tile's source lies as GradChunks of packed chunks
};

/// The fastest of all tiles, or p.tile. No splits where there is nothing to add up, or where p.tile cannot do it.
template <class Elem>
WeightGradPlan plan_weight_grad(const GatherWeightGrad<Elem>& p, const GradDevice& device);

inline constexpr int kWgmmaGradPositions = 64;  // per step

/// The runs of up to `shifts` taps along x, and the pitch that they need.
struct ShiftedTaps {
  int shifts = 1, classes = 0, pitch = 0;
};

/// The first tap of a class.
constexpr int first_tap_of_class(int stride, int shifts, int c) { return c / stride * stride * shifts + c % stride; }

constexpr ShiftedTaps shifted_taps(const GatherAxis& x, int shifts) {
  const int run = x.stride * shifts;
  ShiftedTaps s{shifts, x.taps / run * x.stride + std::min(x.taps % run, x.stride), x.result};
  int last = 0;
  for (int c = 0; c < s.classes; ++c) last = std::max(last, first_tap_of_class(x.stride, shifts, c));
  // Rows may overlap where the end of one is all past the source, and the beginning of the next all before it.
  const int most = x.result + shifts - 1;
  const auto overlap = [&](int pitch) {
    return pitch * x.stride - x.padding >= x.source && (most - 1 - pitch) * x.stride - x.padding + last < 0;
  };
  while (s.pitch < most && !overlap(s.pitch)) ++s.pitch;
  return s;
}

/// The M side of a tile of wgmma, and its positions.
struct WgmmaGradRaster {
  ShiftedTaps taps;
  int columns = 0;             ///< of both sources
  std::int64_t positions = 0;  ///< with the padding of rows

  bool fits() const { return positions < (std::int64_t{1} << 31) - (1 << 20); }
};

template <class Tile>
WgmmaGradRaster wgmma_grad_raster(const GatherWeightGrad<BFloat16>& p) {
  WgmmaGradRaster raster;
  raster.taps = shifted_taps(p.x, Tile::kShifts);
  raster.columns = p.t.taps * p.y.taps * raster.taps.classes * (p.source[0].chunks + p.source[1].chunks);
  raster.positions = std::int64_t{p.B} * p.t.result * p.y.result * raster.taps.pitch;
  return raster;
}

}  // namespace avid::kernels
