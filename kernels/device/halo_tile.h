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

/// Entry i of a pass over `planes` planes from plane `first_plane` on. Past the end: no weights.
template <class Elem>
AVID_DEVICE HaloEntry halo_entry(const GatherGemm<Elem>& p, const HaloPlan& h, int first_plane, int planes, int i) {
  const int taps = h.y.taps * h.x.taps, paired = planes / 2 * taps;
  const auto place = [&](int plane, int tap) {
    const int y = h.y.first + h.y.direction * (tap / h.x.taps), x = h.x.first + h.x.direction * (tap % h.x.taps);
    return static_cast<std::uint32_t>(plane * h.plane + h.lead + y * h.pitch + x);
  };
  const auto weight = [&](int plane, int tap) {
    const int c = first_plane + plane, source = c < p.source[0].chunks ? 0 : 1;
    return p.weight_source[source] + tap * p.weight_tap[source] + c - source * p.source[0].chunks;
  };
  if (i < paired) {
    // Neighbours in the inner dimension are neighbours in a row of weights: whole sectors of memory.
    const int plane = i % (planes / 2) * 2, tap = i / (planes / 2);
    return {place(plane, tap), static_cast<std::uint32_t>(h.plane), {weight(plane, tap), weight(plane + 1, tap)}};
  }
  const int plane = planes - 1, tap = (i - paired) * 2;
  if (planes % 2 == 0 || tap >= taps) return {static_cast<std::uint32_t>(h.lead), 0, {-1, -1}};
  if (tap + 1 == taps) return {place(plane, tap), 0, {weight(plane, tap), -1}};
  const std::uint32_t a = place(plane, tap), b = place(plane, tap + 1);
  if (a < b) return {a, b - a, {weight(plane, tap), weight(plane, tap + 1)}};
  return {b, a - b, {weight(plane, tap + 1), weight(plane, tap)}};  // distances are not negative
}

/// The source's row, and the result's, at position q of the raster; -1 where there is none.
AVID_DEVICE int raster_row(const HaloPlan& h, int q) {
  const int x = q % h.pitch, line = q / h.pitch, y = line % h.rows, frame = line / h.rows;
  const bool inside = q >= 0 && q < static_cast<int>(h.M) && x < h.x.extent && y < h.y.extent;
  return inside ? (frame * h.y.extent + y) * h.x.extent + x : -1;
}

// ---- a ring (halo_ring_plan) ----

/// Entry i of the group of planes from `first_plane` on, as halo_entry; the adjoint's of one phase.
template <class Elem>
AVID_DEVICE HaloEntry ring_entry(const GatherGemm<Elem>& p, const HaloPlan& h, int phase, int first_plane, int i) {
  const int taps = h.y.taps * h.x.taps, chunks = p.source[0].chunks + p.source[1].chunks;
  const int planes = min(kRingPlanes, h.planes - first_plane), paired = planes / 2 * taps;
  struct Place {
    int position, weight;
  };
  const auto place = [&](int plane, int tap) {
    const int of_class = (first_plane + plane) / chunks, c = (first_plane + plane) % chunks;
    const int which = p.adjoint ? phase : of_class, source = c < p.source[0].chunks ? 0 : 1;
    const RingAxis y = ring_axis(p.y, p.adjoint, which / p.x.stride), x = ring_axis(p.x, p.adjoint, which % p.x.stride);
    const int iy = tap / h.x.taps, ix = tap % h.x.taps;
    const int number = (y.first_tap + y.tap_step * iy) * p.x.taps + x.first_tap + x.tap_step * ix;
    return Place{
        plane * h.plane + h.lead + (y.offset + y.direction * iy) * h.pitch + x.offset + x.direction * ix,
        p.weight_source[source] + number * p.weight_tap[source] + c - source * p.source[0].chunks};
  };
  Place a{h.lead, -1}, b{h.lead, -1};  // past the end
  if (i < paired) {
    // Neighbours in the inner dimension are neighbours in a row of weights: whole sectors of memory.
    const int plane = i % (planes / 2) * 2, tap = i / (planes / 2);
    a = place(plane, tap), b = place(plane + 1, tap);
  } else if (const int tap = (i - paired) * 2; planes % 2 != 0 && tap < taps) {
    a = place(planes - 1, tap);
    b = tap + 1 < taps ? place(planes - 1, tap + 1) : Place{a.position, -1};
    if (b.position < a.position)
      return HaloEntry{
          static_cast<std::uint32_t>(b.position),
          static_cast<std::uint32_t>(a.position - b.position),
          {b.weight, a.weight}};  // distances are not negative
  }
  return {
      static_cast<std::uint32_t>(a.position),
      static_cast<std::uint32_t>(b.position - a.position),
      {a.weight, b.weight}};
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

/// Where a plane's chunks lie: `chunk` chunks from a position's row of the first class on, modulo 2^32.
struct alignas(kRingPlaneBytes) RingPlane {
  std::uint32_t chunk;
  int source;
};
template <class Elem>
AVID_DEVICE RingPlane ring_plane(const GatherGemm<Elem>& p, int plane) {
  const int chunks = p.source[0].chunks + p.source[1].chunks, which = plane / chunks, c = plane % chunks;
  const int source = c < p.source[0].chunks ? 0 : 1, row = which / p.x.stride * p.x.source + which % p.x.stride;
  return {
      static_cast<std::uint32_t>(row) * p.source[source].pitch +
          static_cast<std::uint32_t>(c - source * p.source[0].chunks),
      source};
}

/// The result's row of row m of a phase.
template <class Elem>
AVID_DEVICE int ring_result_row(const GatherGemm<Elem>& p, const HaloPlan& h, int phase, int m) {
  if (!p.adjoint) return m;
  const int x = m % h.x.extent, line = m / h.x.extent;
  return (line * p.y.stride + phase / p.x.stride) * p.x.result + x * p.x.stride + phase % p.x.stride;
}

/// Starts the copies of `count` planes from plane `first_plane` on, by kThreads threads of which this is number t.
template <int kThreads, class Elem>
AVID_DEVICE void load_halo(
    const GatherGemm<Elem>& p, const HaloPlan& h, unsigned char* tile, const int* source_row, int first_plane,
    int count, int t) {
  const int step_position = kThreads / count, step_plane = kThreads % count;
  for (int position = t / count, plane = t % count; position < h.needed; position += step_position) {
    const int c = first_plane + plane, row = source_row[position];
    const bool second = c >= p.source[0].chunks, valid = row >= 0;
    const std::uint32_t at = static_cast<std::uint32_t>(row) * (second ? p.source[1].pitch : p.source[0].pitch) +
                             static_cast<std::uint32_t>(second ? c - p.source[0].chunks : c);
    cp_async_16(
        tile + (plane * h.plane + position) * 16,
        (second ? p.source[1].data : p.source[0].data) + std::size_t{valid ? at : 0} * kChunk<Elem>, valid);
    plane += step_plane;
    if (plane >= count) plane -= count, ++position;
  }
}

}  // namespace avid::kernels::AVID_GPU
