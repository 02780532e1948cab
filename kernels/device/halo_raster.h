// kernels/device/halo_raster.h -- a plane's positions in a row, such that every tap is one and the same distance away
//
// Positions of all frames are numbered along rows of `pitch` >= W and frames of `rows` >= H such rows. What lies past W
// or H is zero, and serves the windows that begin before the next row or frame as well: for 3x3 the pitch is W + 1. A
// block of consecutive positions and the `lead` before and `tail` behind it are all that its windows read, and tap
// (y, x) of position q is position q + offset(y, x).
//
// Strides are the same once positions are sorted (ClassAxis): the sources of a window into classes, each of which it
// meets at steps of one, or, of the adjoint, the results into phases.
//
// Two kinds of blocks use it. Where every lane names its own row (ldmatrix), rows are results, and only the copy in
// shared memory has the added positions (halo_ring_plan). An instruction that takes 64 rows by itself (wgmma) wants
// them in eights: eight in a row, and from eight to eight one distance (halo_plan). Of these a position is the place
// where its result's window begins, in every class: the windows lie behind it, and nothing before.
//
// Where W and H are multiples of 8 the eights are lines of a patch of 8x8 results. Frames are cut into strips of 8
// columns; a strip is to the raster what a frame was, with rows of 8 positions and those that the last one's window
// reaches, which inside a frame are the next strip's and not zeros: for 3x3 the pitch is 10, for 7x7 14, for 4x4 with
// stride 2, whose classes have windows of 2x2, 9. A block takes patches that follow one another in a strip, and from
// its last to the first of the next. Every row is a result.
//
// Else the 64 rows are positions of the raster one behind another, and results past W or H are computed and dropped.
#pragma once

#include <algorithm>
#include <numeric>

#include "kernels/gather_gemm.h"

namespace avid::kernels {

/// One axis of a window, for one class of its taps: tap first_tap + tap_step * i, i < taps, lies offset + direction * i
/// positions away. Forward with stride s, class c has the sources s * position + c, and a block takes all classes; of
/// the adjoint, it has the results s * position + c, and every phase is a grid of its own.
struct ClassAxis {
  int taps, offset, direction, first_tap, tap_step;
  /// Positions to the tap that lies first.
  constexpr int nearest() const { return direction > 0 ? offset : offset - (taps - 1); }
};
constexpr ClassAxis class_axis(const GatherAxis& a, bool adjoint, int c) {
  const int first_tap = (c + a.padding) % a.stride, far = (c + a.padding) / a.stride;
  return {a.taps / a.stride, adjoint ? far : -far, adjoint ? -1 : 1, first_tap, a.stride};
}

/// One axis of a raster: results of a phase, taps of a class, how many positions before and behind its own a window
/// reaches, in any class.
struct HaloAxis {
  int extent, taps, before, behind;
};
constexpr HaloAxis halo_axis(const GatherAxis& a, bool adjoint) {
  HaloAxis h{adjoint ? a.source : a.result, a.taps / a.stride, 0, 0};
  for (int c = 0; c < a.stride; ++c) {
    const int nearest = class_axis(a, adjoint, c).nearest();
    h.before = std::max(h.before, -nearest);
    h.behind = std::max(h.behind, nearest + h.taps - 1);
  }
  return h;
}

/// Is this a window in a plane, of as many taps at every step of its strides, whose result is the strides' part of its
/// source, of an adjoint as many times as large?
template <class Problem>
constexpr bool lies_in_raster(const Problem& p) {
  const auto fits = [&](const GatherAxis& a) {
    return a.taps % a.stride == 0 &&
           (p.adjoint ? a.source * std::int64_t{a.stride} == a.result : a.result * std::int64_t{a.stride} == a.source);
  };
  return p.t.taps == 1 && p.t.stride == 1 && p.t.padding == 0 && p.t.source == p.t.result && fits(p.y) && fits(p.x);
}

/// Of such a window: classes of source positions, or phases of results.
template <class Problem>
constexpr int classes_of(const Problem& p) {
  return p.adjoint ? 1 : p.y.stride * p.x.stride;
}
template <class Problem>
constexpr int phases_of(const Problem& p) {
  return p.adjoint ? p.y.stride * p.x.stride : 1;
}

inline constexpr const char* kNoRing =
    "gather_gemm: halo tile: expected a window in a plane, several taps at every step of its stride, a result of the "
    "stride's part of its source, and rows whose halo fits into shared memory | choose another tile";

/// Rows of a product on wgmma, which lie in groups of 8 positions in a row.
inline constexpr int kProductRows = 64, kProductGroup = 8;
/// Entries that a kernel on wgmma multiplies at a time: it may end in the middle of a step.
inline constexpr int kHaloTurnEntries = 2;

/// How a block of a halo kernel works; made by halo_plan or halo_ring_plan.
struct HaloPlan {
  HaloAxis y{}, x{};
  int pitch = 0, rows = 0;    ///< of the raster; pitch 0: this product has no such plan
  int strips = 1;             ///< a frame is cut into
  std::int64_t M = 0;         ///< positions of the raster
  int patches = 0;            ///< of a strip; 0: products take positions one behind another
  int group = kProductGroup;  ///< positions from 8 rows of a product to the next 8
  std::int64_t products = 0;  ///< of kProductRows rows each, in every phase
  int needed = 0;             ///< positions of a block, with its halo
  int plane = 0;              ///< positions between planes of one chunk each: odd, so that copies meet all banks
  int classes = 1;            ///< of source positions
  int planes = 0;             ///< one per whole chunk, of both sources, and class
  int planes_per_pass = 0, passes = 1;    ///< planes that are in shared memory at a time
  int entries_per_pass = 0, entries = 0;  ///< steps of two chunks of the inner dimension, padded to whole stages
  int used_entries = 0;                   ///< to the end of the last turn of a kernel on wgmma: what is multiplied
  std::size_t tile_bytes = 0, shared_bytes = 0;

  // Of a ring only.
  int lead = 0;                   ///< of the needed positions those before a block's own
  int copies_per_step = 0;        ///< rows that a thread copies beside a step
  int whole[2] = {0, 0};          ///< chunks of each source that are planes; one more may be a tail
  int tails = 0, tail_words = 2;  ///< one per tail and class; words of 4 bytes that are copied together, all of a tail
  int whole_entries = 0;          ///< the entries behind these are words
  int words = 0;                  ///< of the inner dimension: four instead of a chunk, the last ones none
  int ring_bytes = 0;             ///< of the tile, before the tails

  constexpr int ring_entries() const { return (entries + 1) / 2 * 2; }  ///< in whole steps
};

inline constexpr int kHaloEntryBytes = 16, kRingPlaneBytes = 8, kRingWordBytes = 12, kEntryWords = 8;
inline constexpr const char* kNoHalo =
    "gather_gemm: halo tile: expected a window in a plane, several taps at every step of its stride, a result of the "
    "stride's part of its source, and channels that fit into shared memory | choose another tile";

/// Ends of runs of `length` that `count` in a row can pass, where blocks of `count` follow one another from the first.
constexpr std::int64_t ends_passed(std::int64_t count, std::int64_t length) {
  return (length - std::gcd(count, length) + count - 1) / length;
}

/// What a kernel needs of shared memory beside tile, positions and entries, and how it takes the entries.
struct HaloNeeds {
  int BM;                        ///< positions of a block
  std::size_t other_bytes;       ///< stages of weights and the like
  std::size_t least_tile_bytes;  ///< the tile's place serves the epilogue as well
  std::size_t limit_bytes;       ///< of a block
  int entries_per_step;          ///< a pass takes whole steps
  int rows_per_copy = 0;         ///< of a ring: that all threads together copy at a time
};

/// The plan for a kernel with these needs. Pitch 0 unless this is a window in a plane whose taps are a multiple of its
/// stride, more than one of each class, whose result is the stride's part of its source (the adjoint's: as many times
/// as large), and a part of its channels fits.
template <class Problem>
HaloPlan halo_plan(const Problem& p, const HaloNeeds& needs) {
  HaloPlan h;
  if (!lies_in_raster(p)) return h;
  h.y = halo_axis(p.y, p.adjoint), h.x = halo_axis(p.x, p.adjoint);
  const int taps = h.y.taps * h.x.taps;
  if (taps < 2) return h;
  const int frames = p.B * p.t.source, width = h.x.extent, height = h.y.extent;
  const int products = needs.BM / kProductRows;  // of a block
  const bool patches = width % kProductGroup == 0 && height % kProductGroup == 0;
  int pitch = width + std::max(h.x.before, h.x.behind), reach = needs.BM;  // from a block's first to its last
  h.rows = height + std::max(h.y.before, h.y.behind);
  if (patches) {
    pitch = kProductGroup + h.x.taps - 1;
    h.strips = width / kProductGroup, h.patches = height / kProductGroup;
    h.group = pitch;
    const int ends = static_cast<int>(ends_passed(products, h.patches));
    const int lines = kProductGroup * products + ends * (h.rows - height);
    reach = (lines - 1) * pitch + kProductGroup;
  }
  const std::int64_t strips = std::int64_t{frames} * h.strips;
  h.M = strips * h.rows * pitch;
  if (h.M >= (std::int64_t{1} << 31) - (1 << 20)) return h;
  h.products = patches ? strips * h.patches : (h.M + kProductRows - 1) / kProductRows;
  const std::int64_t needed = reach + (h.y.taps - 1) * std::int64_t{pitch} + h.x.taps - 1;
  if (needed > (1 << 20)) return h;
  h.needed = static_cast<int>(needed);
  h.plane = h.needed | 1;
  h.classes = classes_of(p);
  h.planes = (p.source[0].chunks + p.source[1].chunks) * h.classes;
  // Of a pass: at every tap the pairs of planes, then pairs of taps of a plane that is left.
  const auto entries = [&](int of_planes) { return of_planes / 2 * taps + of_planes % 2 * ((taps + 1) / 2); };
  const auto rounded_up = [](int n, int unit) { return (n + unit - 1) / unit * unit; };
  // All planes at once, or an even number in all passes but the last: as many as take the fewest products.
  HaloPlan best = h;
  for (int n = h.planes; n > 0; n = n < h.planes ? n - 2 : (h.planes - 1) / 2 * 2) {
    h.planes_per_pass = n, h.passes = (h.planes + n - 1) / n;
    h.entries_per_pass = rounded_up(entries(n), needs.entries_per_step);
    h.used_entries =
        (h.passes - 1) * h.entries_per_pass + rounded_up(entries(h.planes - (h.passes - 1) * n), kHaloTurnEntries);
    h.entries = rounded_up(h.used_entries, needs.entries_per_step);
    h.tile_bytes = std::max(std::size_t{16} * n * h.plane, needs.least_tile_bytes);
    h.shared_bytes = h.tile_bytes + needs.other_bytes + (h.classes * h.needed + 3) / 4 * 16 +
                     std::size_t{kHaloEntryBytes} * h.entries;
    if (h.shared_bytes > needs.limit_bytes || (best.pitch > 0 && h.used_entries >= best.used_entries)) continue;
    best = h;
    best.pitch = pitch;
  }
  return best;
}

/// Planes that a ring takes at a time: 64 bytes of a row.
inline constexpr int kRingPlanes = 4;

/// The words of 4 bytes that are used of the last chunk of so many channels, where those are half of it or less: then
/// it is a *tail*, of which a ring keeps these alone and multiplies them at several taps at once. 0: all whole.
constexpr int tail_words(int channels) { return channels % 8 <= 4 ? (channels % 8 + 1) / 2 : 0; }

/// halo_ring_plan with tails or without.
template <class Problem>
HaloPlan halo_ring_plan(const Problem& p, const HaloNeeds& needs, int ahead, bool with_tails) {
  HaloPlan h;
  if (!lies_in_raster(p)) return h;
  h.y = halo_axis(p.y, p.adjoint), h.x = halo_axis(p.x, p.adjoint);
  const int taps = h.y.taps * h.x.taps;
  h.classes = classes_of(p);
  const std::int64_t W = h.x.extent, H = h.y.extent, pitch = W + std::max(h.x.before, h.x.behind);
  h.rows = h.y.extent + std::max(h.y.before, h.y.behind);
  h.M = std::int64_t{p.B} * p.t.source * h.rows * pitch;
  int most_words = 0;
  for (int s = 0; s < 2; ++s) {
    const int words = with_tails ? tail_words(p.source_channels[s]) : 0;
    h.whole[s] = p.source[s].chunks - (words > 0 ? 1 : 0);
    h.tails += words > 0 ? h.classes : 0;
    most_words = std::max(most_words, words);
  }
  h.tail_words = most_words == 1 ? 1 : 2;
  h.planes = (h.whole[0] + h.whole[1]) * h.classes;
  if (taps < 2 || h.planes == 0 || h.M >= (std::int64_t{1} << 31) - (1 << 20)) return h;
  // Ends of rows and of frames that BM results can pass, wherever a block begins.
  const auto ends = [&](std::int64_t length) { return ends_passed(needs.BM, length); };
  const std::int64_t lead = h.y.before * pitch + h.x.before, needed = needs.BM + ends(W) * (pitch - W) +
                                                                      ends(W * H) * (h.rows - H) * pitch + lead +
                                                                      h.y.behind * pitch + h.x.behind;
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
