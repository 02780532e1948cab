// kernels/plane_band.cpp -- zero-padded copies of rows of a frame
#include "kernels/plane_band.h"

#include <algorithm>
#include <cstring>

namespace avid::kernels {
namespace {

using Index = std::int64_t;

/// `count` pixels of C channels from rows of `pitch` to a dense row with `step` floats per pixel. Rows of a multiple of
/// 4 floats are copied in fours: what spills over a pixel's end is overwritten by the next part or is the zero of a
/// gap.
inline void copy_pixels(const float* from, Index pitch, Index C, Index count, float* to, Index step) {
  if (pitch == C && step == C) {
    std::memcpy(to, from, static_cast<std::size_t>(count * C) * sizeof(float));
  } else if (pitch % 4 == 0) {
    for (Index v = 0; v < count; ++v, from += pitch, to += step)
      for (Index c = 0; c < C; c += 4) std::memcpy(to + c, from + c, 4 * sizeof(float));
  } else {
    for (Index v = 0; v < count; ++v, from += pitch, to += step)
      for (Index c = 0; c < C; ++c) to[c] = from[c];
  }
}

/// Two inputs side by side: x's pixel first, then x2's, so that the spill of x is overwritten.
inline void copy_pixels2(const PlaneSource& s, Index row, Index count, float* to) {
  const bool in_fours = s.x.pitch % 4 == 0 && s.x2.pitch % 4 == 0;
  const float* from = s.x.row(row);
  const float* from2 = s.x2.row(row);
  for (Index v = 0; v < count; ++v, from += s.x.pitch, from2 += s.x2.pitch, to += s.C + s.C2) {
    if (in_fours) {
      for (Index c = 0; c < s.C; c += 4) std::memcpy(to + c, from + c, 4 * sizeof(float));
      for (Index c = 0; c < s.C2; c += 4) std::memcpy(to + s.C + c, from2 + c, 4 * sizeof(float));
    } else {
      for (Index c = 0; c < s.C; ++c) to[c] = from[c];
      for (Index c = 0; c < s.C2; ++c) to[s.C + c] = from2[c];
    }
  }
}

}  // namespace

void copy_band(const PlaneSource& s, Index plane, Extent rows, Extent columns, float* band) {
  const Index C = s.channels(), row_floats = columns.size() * C;
  const Index col_begin = std::max<Index>(0, columns.begin), col_end = std::min(s.W, columns.end);
  const Index left = (col_begin - columns.begin) * C, inside = std::max<Index>(0, col_end - col_begin);
  for (Index y = rows.begin; y < rows.end; ++y, band += row_floats) {
    if (y < 0 || y >= s.H || inside == 0) {
      std::fill_n(band, row_floats, 0.0f);
      continue;
    }
    const Index first = (plane * s.H + y) * s.W + col_begin;
    if (s.C2 > 0) {
      copy_pixels2(s, first, inside, band + left);
    } else {
      copy_pixels(s.x.row(first), s.x.pitch, C, inside, band + left, C);
    }
    std::fill_n(band, left, 0.0f);
    std::fill(band + left + inside * C, band + row_floats, 0.0f);
  }
}

}  // namespace avid::kernels
