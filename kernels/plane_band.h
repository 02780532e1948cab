// kernels/plane_band.h -- a zero-padded copy of some rows of one frame, small enough for the cache
//
// Copying a band costs one read and one write per input element against the hundreds of multiply-adds that each element
// takes part in. In exchange borders need no branches, two inputs are joined along channels without a concatenation in
// memory, odd channel counts become dense, and the taps of one kernel row are consecutive floats.
#pragma once

#include <cstdint>

#include "kernels/rows.h"

namespace avid::kernels {

/// Frames of H*W rows of channels, [x | x2] (x2 null when C2 = 0).
struct PlaneSource {
  Rows<const float> x, x2;
  std::int64_t C = 0, C2 = 0, H = 0, W = 0;
  std::int64_t channels() const { return C + C2; }
};

/// A half-open range of row or column numbers; may reach outside of the frame.
struct Extent {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

/// Floats that copy_band may write behind the band's end.
inline constexpr std::int64_t kBandSlack = 16;

/// band[row - rows.begin][column - columns.begin][channel] = source, zero outside of the frame.
void copy_band(const PlaneSource&, std::int64_t plane, Extent rows, Extent columns, float* band);

}  // namespace avid::kernels
