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

/// The position of result r, counting from the first of all frames.
AVID_DEVICE int raster_position(const HaloPlan& h, int r) {
  const int x = r % h.x.extent, line = r / h.x.extent, frame = line / h.y.extent;
  return (line + frame * (h.rows - h.y.extent)) * h.pitch + x;
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
