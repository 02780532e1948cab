// kernels/slabs.h -- how many rows of a frame a block takes where there are few frames
#pragma once

#include <cstdint>

namespace avid::kernels {

/// Rows of the slabs that F frames of S rows are cut into: `most`; half of it, and again, as long as these are fewer
/// than `enough` slabs, whose blocks would leave multiprocessors idle; never fewer than `least`.
constexpr int slab_rows(std::int64_t F, std::int64_t S, int most, int least, std::int64_t enough) {
  int rows = most;
  while (rows > least && F * ((S + rows - 1) / rows) < enough) rows /= 2;
  return rows;
}

}  // namespace avid::kernels
