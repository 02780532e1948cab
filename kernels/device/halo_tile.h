// kernels/device/halo_tile.h -- the tile of a halo kernel in shared memory: where its steps begin, and its loads
//
// Planes of one chunk each, positions 16 bytes apart: eight positions of a chunk are 128 bytes, wherever they begin, so
// that ldmatrix and wgmma read any tap of any position without bank conflicts (halo_raster.h).
#pragma once

#include "kernels/device/gpu.h"
#include "kernels/device/halo_raster.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels::AVID_GPU {

/// Two chunks of the inner dimension: where they lie in the tile, the second `second` positions behind the first, and
/// their weights.
struct alignas(kHaloEntryBytes) HaloEntry {
  std::uint32_t first, second;  // in positions of 16 bytes, from a row's own position in the first plane on
  int weight[2];                // chunk in a row of weights; negative: none
};

/// `first` and `second` of an entry, in one read.
AVID_DEVICE uint2 entry_places(const HaloEntry& entry) { return *reinterpret_cast<const uint2*>(&entry); }

/// A chunk of a source, at the source positions of a class: what a plane holds, or a tail.
struct HaloChunk {
  int of_class, source, chunk;
};

/// Weights of a chunk at a tap of an axis each: their chunk in a row of weights.
template <class Elem>
AVID_DEVICE int tap_weight(const GatherGemm<Elem>& p, const HaloChunk& c, int tap_y, int tap_x) {
  return p.weight_source[c.source] + (tap_y * p.x.taps + tap_x) * p.weight_tap[c.source] + c.chunk;
}

/// What plane number `plane` of halo_plan holds.
template <class Elem>
AVID_DEVICE HaloChunk plane_chunk(const GatherGemm<Elem>& p, int plane) {
  const int first = p.source[0].chunks, chunks = first + p.source[1].chunks, c = plane % chunks;
  return {plane / chunks, c < first ? 0 : 1, c < first ? c : c - first};
}

/// Entry i of a pass over `planes` planes from plane `first_plane` on. Past the end: no weights. No two chunks of an
/// entry are the same one.
template <class Elem>
AVID_DEVICE HaloEntry
halo_entry(const GatherGemm<Elem>& p, const HaloPlan& h, int phase, int first_plane, int planes, int i) {
  const int taps = h.y.taps * h.x.taps, paired = planes / 2 * taps;
  // Taps in the order of their numbers, which the adjoint's positions run against.
  const auto place = [&](int plane, int tap) {
    const int y = tap / h.x.taps, x = tap % h.x.taps;
    return static_cast<std::uint32_t>(
        plane * h.plane + (p.adjoint ? h.y.taps - 1 - y : y) * h.pitch + (p.adjoint ? h.x.taps - 1 - x : x));
  };
  const auto weight = [&](int plane, int tap) {
    const HaloChunk c = plane_chunk(p, first_plane + plane);
    const int which = p.adjoint ? phase : c.of_class;
    const ClassAxis y = class_axis(p.y, p.adjoint, which / p.x.stride),
                    x = class_axis(p.x, p.adjoint, which % p.x.stride);
    return tap_weight(p, c, y.first_tap + y.tap_step * (tap / h.x.taps), x.first_tap + x.tap_step * (tap % h.x.taps));
  };
  if (i < paired) {
    // Neighbours in the inner dimension are neighbours in a row of weights: whole sectors of memory.
    const int plane = i % (planes / 2) * 2, tap = i / (planes / 2);
    return {place(plane, tap), static_cast<std::uint32_t>(h.plane), {weight(plane, tap), weight(plane + 1, tap)}};
  }
  // What is not used is a number that this row is made of in any case, times zero.
  const int plane = planes - 1, left = planes % 2 * taps - (i - paired) * 2;  // taps
  const int tap = left > 0 ? taps - left : 0, other = left == 1 ? tap - 1 : tap + 1;
  const std::uint32_t a = place(plane, tap), b = place(plane, other);
  const int of_a = left > 0 ? weight(plane, tap) : -1, of_b = left > 1 ? weight(plane, other) : -1;
  if (a < b) return {a, b - a, {of_a, of_b}};
  return {b, a - b, {of_b, of_a}};  // distances are not negative
}

/// A position of the raster: the frame, and the coordinates of its result in the phase, which may be past the edges.
struct RasterPlace {
  int frame, y, x;
};
AVID_DEVICE RasterPlace raster_place(const HaloPlan& h, int q) {
  const int line = q / h.pitch, strip = line / h.rows;
  return {strip / h.strips, line % h.rows, strip % h.strips * kProductGroup + q % h.pitch};
}

/// The row of the result at position q among those of a phase; -1 where there is none.
AVID_DEVICE int raster_row(const HaloPlan& h, int q) {
  const RasterPlace at = raster_place(h, q);
  const bool inside = q >= 0 && q < static_cast<int>(h.M) && at.x < h.x.extent && at.y < h.y.extent;
  return inside ? (at.frame * h.y.extent + at.y) * h.x.extent + at.x : -1;
}

/// The source's row, in a class, where the window of position q of the raster begins; -1 where there is none.
template <class Elem>
AVID_DEVICE int window_row(const GatherGemm<Elem>& p, const HaloPlan& h, int phase, int of_class, int q) {
  const auto coordinate = [&](const GatherAxis& a, int which, int at) {
    at += class_axis(a, p.adjoint, which).nearest();
    return p.adjoint ? at : at * a.stride + which;
  };
  const int which = p.adjoint ? phase : of_class;
  const RasterPlace at = raster_place(h, q);
  const int y = coordinate(p.y, which / p.x.stride, at.y), x = coordinate(p.x, which % p.x.stride, at.x);
  const bool inside = q < static_cast<int>(h.M) && y >= 0 && y < p.y.source && x >= 0 && x < p.x.source;
  return inside ? (at.frame * p.y.source + y) * p.x.source + x : -1;
}

/// The result's row of row m of a phase.
template <class Elem>
AVID_DEVICE int phase_row(const GatherGemm<Elem>& p, const HaloPlan& h, int phase, int m) {
  if (!p.adjoint) return m;
  const int x = m % h.x.extent, line = m / h.x.extent;
  return (line * p.y.stride + phase / p.x.stride) * p.x.result + x * p.x.stride + phase % p.x.stride;
}

/// The position of the first row of a product; row r is r / kProductGroup groups and r % kProductGroup positions on.
AVID_DEVICE int product_position(const HaloPlan& h, int product) {
  if (h.patches == 0) return product * kProductRows;
  const int strip = product / h.patches, patch = product % h.patches;
  return (strip * h.rows + patch * kProductGroup) * h.pitch;
}

/// Starts the copies of `count` planes from plane `first_plane` on, by kThreads threads of which this is number t: each
/// has a plane of its own, and neighbours copy the chunks of a row. source_row: of each class the rows of h.needed
/// positions, negative where there is none.
template <int kThreads, class Elem>
AVID_DEVICE void load_halo(
    const GatherGemm<Elem>& p, const HaloPlan& h, unsigned char* tile, const int* source_row, int first_plane,
    int count, int t) {
  const int at_a_time = kThreads / count, plane = t % count, chunks = p.source[0].chunks + p.source[1].chunks;
  int chunk = first_plane + plane;
  for (; chunk >= chunks; chunk -= chunks) source_row += h.needed;  // of this class
  const bool second = chunk >= p.source[0].chunks;
  if (second) chunk -= p.source[0].chunks;
  tile += plane * h.plane * 16;
  if (t >= at_a_time * count) return;  // fewer than another position takes
#pragma unroll 1                       // the loading warps have 24 registers
  for (int position = t / count; position < h.needed; position += at_a_time) {
    const int row = source_row[position];
    const std::uint32_t at = static_cast<std::uint32_t>(row) * (second ? p.source[1].pitch : p.source[0].pitch) +
                             static_cast<std::uint32_t>(chunk);
    const bool valid = row >= 0;
    cp_async_16(
        tile + position * 16,
        (second ? p.source[1].data : p.source[0].data) + std::size_t{valid ? at : 0} * kChunk<Elem>, valid);
  }
}

// ---- a ring (halo_ring_plan) ----

AVID_DEVICE HaloChunk ring_chunk(const HaloPlan& h, int plane) {
  const int chunks = h.whole[0] + h.whole[1], c = plane % chunks, source = c < h.whole[0] ? 0 : 1;
  return {plane / chunks, source, c - source * h.whole[0]};
}
template <class Elem>
AVID_DEVICE HaloChunk tail_chunk(const GatherGemm<Elem>& p, const HaloPlan& h, int tail) {
  const bool first = h.whole[0] < p.source[0].chunks, both = first && h.whole[1] < p.source[1].chunks;
  const int source = both ? tail % 2 : first ? 0 : 1;
  return {both ? tail / 2 : tail, source, h.whole[source]};
}

/// A chunk at a tap of its class: how many positions from a row's own, and which chunk in a row of weights.
struct RingTap {
  int distance, weight;
};
template <class Elem>
AVID_DEVICE RingTap ring_tap(const GatherGemm<Elem>& p, const HaloPlan& h, int phase, const HaloChunk& c, int tap) {
  const int which = p.adjoint ? phase : c.of_class, iy = tap / h.x.taps, ix = tap % h.x.taps;
  const ClassAxis y = class_axis(p.y, p.adjoint, which / p.x.stride),
                  x = class_axis(p.x, p.adjoint, which % p.x.stride);
  return {
      h.lead + (y.offset + y.direction * iy) * h.pitch + x.offset + x.direction * ix,
      tap_weight(p, c, y.first_tap + y.tap_step * iy, x.first_tap + x.tap_step * ix)};
}

/// Positions from the beginning of the tile to that of a plane: groups take turns in its halves.
AVID_DEVICE int ring_place(const HaloPlan& h, int plane) { return plane % (2 * kRingPlanes) * h.plane; }

/// Entry i < h.whole_entries, as halo_entry; the adjoint's of one phase.
template <class Elem>
AVID_DEVICE HaloEntry ring_entry(const GatherGemm<Elem>& p, const HaloPlan& h, int phase, int i) {
  const int taps = h.y.taps * h.x.taps, first_plane = i / h.entries_per_pass * kRingPlanes;
  const int planes = min(kRingPlanes, h.planes - first_plane), paired = planes / 2 * taps;
  i %= h.entries_per_pass;
  struct Place {
    int position, weight;
  };
  const auto place = [&](int plane, int tap) {
    const RingTap t = ring_tap(p, h, phase, ring_chunk(h, first_plane + plane), tap);
    return Place{ring_place(h, first_plane + plane) + t.distance, t.weight};
  };
  // Neighbours in the inner dimension are neighbours in a row of weights: whole sectors of memory.
  const int plane = i < paired ? i % (planes / 2) * 2 : planes - 1;
  const int tap = i < paired ? i / (planes / 2) : (i - paired) * 2;
  const Place one = place(plane, tap), other = i < paired ? place(plane + 1, tap) : place(plane, tap + 1);
  const bool in_order = one.position <= other.position;  // distances are not negative
  const Place &a = in_order ? one : other, &b = in_order ? other : one;
  return {
      static_cast<std::uint32_t>(a.position),
      static_cast<std::uint32_t>(b.position - a.position),
      {a.weight, b.weight}};
}

/// Two channels of the inner dimension. A row's position, 16 bytes each, shifted right, and `at` name their bytes in
/// the tile.
struct RingWord {
  std::uint32_t at;
  int shift;
  int weight;  ///< word in a row of weights; negative: none
};

/// Word i of the entries from h.whole_entries on: four of the last tap of a plane that no other is paired with, then
/// every tail at all taps.
template <class Elem>
AVID_DEVICE RingWord ring_word(const GatherGemm<Elem>& p, const HaloPlan& h, int phase, int i) {
  const bool none = i >= h.words;
  if (none) i = h.words - 1;  // a number that this row is made of in any case, times zero
  const int taps = h.y.taps * h.x.taps, of_planes = h.words - h.tails * taps * h.tail_words;
  if (i < of_planes) {
    const RingTap t = ring_tap(p, h, phase, ring_chunk(h, h.planes - 1), taps - 1);
    const int position = ring_place(h, h.planes - 1) + t.distance;
    return {static_cast<std::uint32_t>(position * 16 + i * 4), 0, none ? -1 : t.weight * 4 + i};
  }
  i -= of_planes;
  const int word = i % h.tail_words, tap = i / h.tail_words % taps, tail = i / h.tail_words / taps;
  const RingTap t = ring_tap(p, h, phase, tail_chunk(p, h, tail), tap);
  const int position = tail * h.needed + t.distance;
  return {
      static_cast<std::uint32_t>(h.ring_bytes + (position * h.tail_words + word) * 4), h.tail_words == 1 ? 2 : 1,
      none ? -1 : t.weight * 4 + word};
}

/// The position of row m of a phase, counting from the first of all frames.
AVID_DEVICE int ring_position(const HaloPlan& h, int m) {
  const int x = m % h.x.extent, line = m / h.x.extent, frame = line / h.y.extent;
  return (line + frame * (h.rows - h.y.extent)) * h.pitch + x;
}

/// The source's row of the first class at position q of the raster; -1 where there is none.
template <class Elem>
AVID_DEVICE int ring_source_row(const GatherGemm<Elem>& p, const HaloPlan& h, int q) {
  const int row = raster_row(h, q);
  if (p.adjoint || row < 0) return row;
  const int x = row % h.x.extent, line = row / h.x.extent;
  return line * p.y.stride * p.x.source + x * p.x.stride;
}

/// Where the chunks of a plane or tail lie: `chunk` chunks from a position's row of the first class on, modulo 2^32.
struct alignas(kRingPlaneBytes) RingPlane {
  std::uint32_t chunk;
  int source;
};
template <class Elem>
AVID_DEVICE RingPlane ring_plane(const GatherGemm<Elem>& p, const HaloChunk& c) {
  const int row = c.of_class / p.x.stride * p.x.source + c.of_class % p.x.stride;
  return {static_cast<std::uint32_t>(row) * p.source[c.source].pitch + static_cast<std::uint32_t>(c.chunk), c.source};
}

}  // namespace avid::kernels::AVID_GPU
