// kernels/rotary.h -- the rotary position code on adjacent channel pairs (spec/pixel.md 2.4)
#pragma once

#include <cmath>
#include <cstdint>

namespace avid::kernels {

/// Turns each pair (a, b) = (values[2r], values[2r+1]), r < R, by position * freqs[r]:
///
///   (a, b) -> (a cos - b sin, b cos + a sin)
///
/// in place; further channels stay. A negative position is the inverse (and the gradient) of the positive one.
inline void rotate_pairs(double* values, const float* freqs, std::int64_t R, double position) {
  for (std::int64_t r = 0; r < R; ++r) {
    const double angle = position * static_cast<double>(freqs[r]);
    const double cosine = std::cos(angle), sine = std::sin(angle);
    const double a = values[2 * r], b = values[2 * r + 1];
    values[2 * r] = a * cosine - b * sine;
    values[2 * r + 1] = b * cosine + a * sine;
  }
}

}  // namespace avid::kernels
