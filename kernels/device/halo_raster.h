// kernels/device/halo_raster.h -- a plane's positions in a row, such that every tap is one and the same distance away
//
// Positions of all frames are numbered along rows of `pitch` >= W and frames of `rows` >= H such rows. What lies past W
// or H is zero, and serves the windows that begin before the next row or frame as well: for 3x3 the pitch is W + 1. A
// block of consecutive positions and the `lead` before and `tail` behind it are all that its windows read, and tap
// (y, x) of position q is position q + offset(y, x).
//
// Two kinds of blocks use it. Where an instruction reads many rows at one stride (wgmma), a block's rows are positions
// of the raster, and results past W or H are computed and dropped, 3% of them at 64x64 (halo_plan). Where every lane
// names its own row (ldmatrix), rows are results, and only the copy in shared memory has the added positions
// (halo_ring_plan).
#pragma once

#include <algorithm>
#include <numeric>

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

inline constexpr const char* kNoRing =
    "gather_gemm: halo tile: expected a window in a plane, several taps at every step of its stride, a result of the "
    "stride's part of its source, and rows whose halo fits into shared memory | choose another tile";

/// How a block of a halo kernel works; made by halo_plan or halo_ring_plan.
struct HaloPlan {
  HaloAxis y{}, x{};
  int pitch = 0, rows = 0;   ///< of the raster; pitch 0: this product has no such plan
  std::int64_t M = 0;        ///< positions of the raster
  int lead = 0, needed = 0;  ///< positions of a block's halo before its own, and all of them
  int plane = 0;             ///< positions between planes of one chunk each: odd, so that copies meet all banks
  int planes_per_pass = 0, passes = 1;    ///< chunks of both sources that are in shared memory at a time
  int entries_per_pass = 0, entries = 0;  ///< steps of two chunks of the inner dimension, padded to whole stages
  std::size_t tile_bytes = 0, shared_bytes = 0;

  // Of a ring only.
  int copies_per_step = 0;        ///< rows that a thread copies beside a step
  int whole[2] = {0, 0};          ///< chunks of each source that are planes; one more may be a tail
  int planes = 0;                 ///< one per whole chunk and class of source positions
  int tails = 0, tail_words = 2;  ///< one per tail and class; words of 4 bytes that are copied together, all of a tail
  int whole_entries = 0;          ///< the entries behind these are words
  int words = 0;                  ///< of the inner dimension: four instead of a chunk, the last ones none
  int ring_bytes = 0;             ///< of the tile, before the tails

  constexpr int ring_entries() const { return (entries + 1) / 2 * 2; }  ///< in whole steps
};

inline constexpr int kHaloEntryBytes = 16, kRingPlaneBytes = 8, kRingWordBytes = 12, kEntryWords = 8;
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
  int rows_per_copy = 0;         ///< of a ring: that all threads together copy at a time
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

/// Planes that a ring takes at a time: 64 bytes of a row.
inline constexpr int kRingPlanes = 4;

/// One axis of a window of a ring, for one class of its taps: tap first_tap + tap_step * i, i < taps, lies
/// offset + direction * i positions away. Forward with stride s, class c has the sources s * position + c, and a block
/// takes all classes; of the adjoint, it has the results s * position + c, and every phase is a grid of its own.
struct RingAxis {
  int taps, offset, direction, first_tap, tap_step;
};
constexpr RingAxis ring_axis(const GatherAxis& a, bool adjoint, int c) {
  const int first_tap = (c + a.padding) % a.stride, far = (c + a.padding) / a.stride;
  return {a.taps / a.stride, adjoint ? far : -far, adjoint ? -1 : 1, first_tap, a.stride};
}

/// The words of 4 bytes that are used of the last chunk of so many channels, where those are half of it or less: then
/// it is a *tail*, of which a ring keeps these alone and multiplies them at several taps at once. 0: all whole.
constexpr int tail_words(int channels) { return channels % 8 <= 4 ? (channels % 8 + 1) / 2 : 0; }

/// halo_ring_plan with tails or without.
template <class Problem>
HaloPlan halo_ring_plan(const Problem& p, const HaloNeeds& needs, int ahead, bool with_tails) {
  HaloPlan h;
  const auto fits = [&](const GatherAxis& a) {
    return a.taps % a.stride == 0 &&
           (p.adjoint ? a.source * std::int64_t{a.stride} == a.result : a.result * std::int64_t{a.stride} == a.source);
  };
  if (p.t.taps != 1 || p.t.stride != 1 || p.t.padding != 0 || p.t.source != p.t.result || !fits(p.y) || !fits(p.x))
    return h;
  int before[2] = {0, 0}, behind[2] = {0, 0};
  const auto reach = [&](const GatherAxis& a, int axis) {
    for (int c = 0; c < a.stride; ++c) {
      const RingAxis r = ring_axis(a, p.adjoint, c);
      for (const int at : {r.offset, r.offset + r.direction * (r.taps - 1)})
        before[axis] = std::max(before[axis], -at), behind[axis] = std::max(behind[axis], at);
    }
    return HaloAxis{p.adjoint ? a.source : a.result, a.taps / a.stride, 0, 0};
  };
  h.y = reach(p.y, 0), h.x = reach(p.x, 1);
  const int taps = h.y.taps * h.x.taps, classes = p.adjoint ? 1 : p.y.stride * p.x.stride;
  const std::int64_t W = h.x.extent, H = h.y.extent, pitch = W + std::max(before[1], behind[1]);
  h.rows = h.y.extent + std::max(before[0], behind[0]);
  h.M = std::int64_t{p.B} * p.t.source * h.rows * pitch;
  int most_words = 0;
  for (int s = 0; s < 2; ++s) {
    const int words = with_tails ? tail_words(p.source_channels[s]) : 0;
    h.whole[s] = p.source[s].chunks - (words > 0 ? 1 : 0);
    h.tails += words > 0 ? classes : 0;
    most_words = std::max(most_words, words);
  }
  h.tail_words = most_words == 1 ? 1 : 2;
  h.planes = (h.whole[0] + h.whole[1]) * classes;
  if (taps < 2 || h.planes == 0 || h.M >= (std::int64_t{1} << 31) - (1 << 20)) return h;
  // Ends of rows and of frames that BM results can pass, wherever a block begins.
  const auto ends = [&](std::int64_t length) {
    return (length - std::gcd<std::int64_t>(needs.BM, length) + needs.BM - 1) / length;
  };
  const std::int64_t lead = before[0] * pitch + before[1], needed = needs.BM + ends(W) * (pitch - W) +
                                                                    ends(W * H) * (h.rows - H) * pitch + lead +
                                                                    behind[0] * pitch + behind[1];
  h.passes = (h.planes + kRingPlanes - 1) / kRingPlanes;
  if (needed > (1 << 20) || (h.passes > 1 && taps < ahead)) return h;
  h.lead = static_cast<int>(lead), h.needed = static_cast<int>(needed);
  h.plane = (h.needed + 5) / 8 * 8 + 2;  // 2 modulo 8: copies of two rows of four planes meet all banks
  h.planes_per_pass = std::min(h.planes, kRingPlanes);
  h.entries_per_pass = kRingPlanes / 2 * taps;
  // Of the last group the pairs of planes, then pairs of taps of a plane that is left, then its last tap and the tails.
  const int left = h.planes - (h.passes - 1) * kRingPlanes;
  h.whole_entries = (h.passes - 1) * h.entries_per_pass + left / 2 * taps + left % 2 * (taps / 2);
  h.words = left % 2 * (taps % 2) * 4 + h.tails * taps * h.tail_words;
  const int word_entries = (h.words + kEntryWords - 1) / kEntryWords;
  h.entries = h.whole_entries + word_entries;
  const int copies = (h.needed + needs.rows_per_copy - 1) / needs.rows_per_copy, steps = taps - ahead + 1;
  h.copies_per_step = h.passes > 1 ? (copies + steps - 1) / steps : 0;
  h.ring_bytes = 16 * std::min(h.planes, 2 * kRingPlanes) * h.plane;
  const int tail_chunks = (h.tails * h.tail_words * h.needed + 3) / 4;
  h.tile_bytes = std::max(static_cast<std::size_t>(h.ring_bytes + 16 * tail_chunks), needs.least_tile_bytes);
  h.shared_bytes = h.tile_bytes + needs.other_bytes + (h.needed + 3) / 4 * 16 + (h.planes + h.tails + 1) / 2 * 16 +
                   std::size_t{kHaloEntryBytes} * h.ring_entries() + kEntryWords * kRingWordBytes * word_entries;
  if (h.shared_bytes <= needs.limit_bytes) h.pitch = static_cast<int>(pitch);
  return h;
}

/// The plan for a kernel whose blocks own needs.BM results, and which takes planes in groups of kRingPlanes ("passes"):
/// while one is multiplied the next is copied into the other half of the tile, some rows beside each step, `ahead`
/// steps before it is read at the latest. Pitch 0 unless this is a window in a plane whose taps are a multiple of its
/// stride, more than one of each class, whose result is the stride's part of its source (the adjoint's: as many times
/// as large), and the tile fits. Tails where they fit.
template <class Problem>
HaloPlan halo_ring_plan(const Problem& p, const HaloNeeds& needs, int ahead) {
  const HaloPlan h = halo_ring_plan(p, needs, ahead, true);
  return h.pitch > 0 ? h : halo_ring_plan(p, needs, ahead, false);
}

}  // namespace avid::kernels
