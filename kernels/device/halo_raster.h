// kernels/device/halo_raster.h -- a plane's positions in a row, such that every tap is one and the same distance away
//
// Positions of all frames are numbered along rows of `pitch` >= W and frames of `rows` >= H such rows. What lies past W
// or H is zero, and serves the windows that begin before the next row or frame as well: for 3x3 the pitch is W + 1. A
// block of consecutive positions and the `lead` before and `tail` behind it are all that its windows read, and tap
// (y, x) of position q is position q + offset(y, x). Results past W or H are computed and dropped (3% of them at
// 64x64).
#pragma once

#include <algorithm>

#include "kernels/gather_gemm.h"

namespace avid::kernels {

/// One axis of the window: tap k lies at first + direction * k.
struct HaloAxis {
  int extent, taps, first, direction;
};
constexpr HaloAxis halo_axis(const GatherAxis& a, bool adjoint) {
  return {a.source, a.taps, adjoint ? a.padding : -a.padding, adjoint ? -1 : 1};
}
constexpr int halo_before(const HaloAxis& a) {
  return std::max(0, -std::min(a.first, a.first + a.direction * (a.taps - 1)));
}
constexpr int halo_behind(const HaloAxis& a) {
  return std::max(0, std::max(a.first, a.first + a.direction * (a.taps - 1)));
}

/// How a block of the halo kernel works; made by halo_plan.
struct HaloPlan {
  HaloAxis y{}, x{};
  int pitch = 0, rows = 0;   ///< of the raster; pitch 0: this product has no such plan
  std::int64_t M = 0;        ///< positions of the raster
  int lead = 0, needed = 0;  ///< positions of a block's halo before its own, and all of them
  int plane = 0;             ///< positions between planes of one chunk each: odd, so that copies meet all banks
  int planes_per_pass = 0, passes = 1;    ///< chunks of both sources that are in shared memory at a time
  int entries_per_pass = 0, entries = 0;  ///< steps of two chunks of the inner dimension, padded to whole stages
  std::size_t tile_bytes = 0, shared_bytes = 0;
};

inline constexpr int kHaloEntryBytes = 16;
inline constexpr const char* kNoHalo =
    "gather_gemm: halo tile: expected a window in a plane with stride 1, a result as large as its source, and channels "
    "that fit into shared memory | choose another tile";

/// What a kernel needs of shared memory beside tile, positions and entries, and how it takes the entries.
struct HaloNeeds {
  int BM;                        ///< positions of a block
  std::size_t other_bytes;       ///< stages of weights and the like
  std::size_t least_tile_bytes;  ///< the tile's place serves the epilogue as well
  std::size_t limit_bytes;       ///< of a block
  int entries_per_step;          ///< a pass takes whole steps
};

/// The plan for a kernel with these needs. Pitch 0 unless this is a window of more than one tap in a plane, of
/// stride 1, whose result is as large as its source, and a part of its channels fits.
template <class Problem>
HaloPlan halo_plan(const Problem& p, const HaloNeeds& needs) {
  HaloPlan h;
  const auto same = [](const GatherAxis& a) { return a.source == a.result && a.stride == 1; };
  if (!same(p.t) || p.t.taps != 1 || p.t.padding != 0 || !same(p.y) || !same(p.x) || p.y.taps * p.x.taps == 1) return h;
  h.y = halo_axis(p.y, p.adjoint), h.x = halo_axis(p.x, p.adjoint);
  const int pitch = h.x.extent + std::max(halo_before(h.x), halo_behind(h.x));
  h.rows = h.y.extent + std::max(halo_before(h.y), halo_behind(h.y));
  h.M = std::int64_t{p.B} * p.t.source * h.rows * pitch;
  if (h.M >= (std::int64_t{1} << 31) - (1 << 20)) return h;
  h.lead = halo_before(h.y) * pitch + halo_before(h.x);
  h.needed = needs.BM + h.lead + halo_behind(h.y) * pitch + halo_behind(h.x);
  h.plane = h.needed | 1;
  const int taps = p.y.taps * p.x.taps, planes = p.source[0].chunks + p.source[1].chunks;
  // Of a pass: at every tap the pairs of planes, then pairs of taps of a plane that is left.
  const auto entries = [&](int of_planes) {
    const int all = of_planes / 2 * taps + of_planes % 2 * ((taps + 1) / 2);
    return (all + needs.entries_per_step - 1) / needs.entries_per_step * needs.entries_per_step;
  };
  for (h.passes = 1; h.passes <= planes; ++h.passes) {
    // All but the last pass take an even number of planes.
    h.planes_per_pass = (planes + h.passes - 1) / h.passes;
    if (h.passes > 1) h.planes_per_pass += h.planes_per_pass % 2;
    if (h.passes > 1 && (h.passes - 1) * h.planes_per_pass >= planes) continue;  // the last would be empty
    h.entries_per_pass = entries(h.planes_per_pass);
    h.entries = (h.passes - 1) * h.entries_per_pass + entries(planes - (h.passes - 1) * h.planes_per_pass);
    h.tile_bytes = std::max(std::size_t{16} * h.planes_per_pass * h.plane, needs.least_tile_bytes);
    h.shared_bytes =
        h.tile_bytes + needs.other_bytes + (h.needed + 3) / 4 * 16 + std::size_t{kHaloEntryBytes} * h.entries;
    if (h.shared_bytes <= needs.limit_bytes) {
      h.pitch = pitch;
      return h;
    }
    if (h.planes_per_pass <= 2) break;
  }
  return h;
}

}  // namespace avid::kernels
