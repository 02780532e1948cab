// kernels/moments.h -- mean, spread and range of elements (contract: tensor/ops/moments.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// Over n numbers, in two passes; std with n - 1.
struct HostMoments {
  double mean = 0, std = 0, min = 0, max = 0;
};
HostMoments moments(const double* x, std::int64_t n);

/// P rows of C f32 elements.
struct MomentsArgs {
  std::int64_t P = 0, C = 0;
  Rows<const float> x;
  double shift = 0;  ///< sums are of x - shift, so that the spread of numbers far from 0 keeps its digits
  double* partials =
      nullptr;  ///< moments_blocks(P * C) times {sum, sum of squares, least, largest}; every one is written
};

/// Partial results that a call writes.
std::int64_t moments_blocks(std::int64_t elements);

/// One pass over x. Sums in f64, cut by the size alone: the same bits in every run. NaN in x gives NaN sums.
template <class Backend>
void moments(const Stream& stream, const MomentsArgs& p);

}  // namespace avid::kernels
