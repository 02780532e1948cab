// kernels/pack_f32.h -- small matrices in the order in which tiles read them (tile_f32.h)
#pragma once

#include <algorithm>
#include <cstdint>

namespace avid::kernels {

/// to[r*width + l] = from[r*step + l] for l < lanes, 0 for lanes <= l < width: the lanes lie next to each other
/// already.
inline void pack_straight(
    const float* from, std::int64_t step, std::int64_t num_rows, std::int64_t lanes, std::int64_t width, float* to) {
  for (std::int64_t r = 0; r < num_rows; ++r, from += step, to += width) {
    std::copy_n(from, lanes, to);
    std::fill_n(to + lanes, width - lanes, 0.0f);
  }
}

/// to[r*width + l] = from[l*step + r] for l < lanes, 0 for lanes <= l < width: one lane per row of `from`.
inline void pack_transposed(
    const float* from, std::int64_t step, std::int64_t num_rows, std::int64_t lanes, std::int64_t width, float* to) {
  for (std::int64_t r = 0; r < num_rows; ++r, ++from, to += width) {
    for (std::int64_t l = 0; l < lanes; ++l) to[l] = from[l * step];
    std::fill_n(to + lanes, width - lanes, 0.0f);
  }
}

}  // namespace avid::kernels
