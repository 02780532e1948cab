// kernels/spread.h -- what several measurements of the same thing say
#pragma once

#include <vector>

namespace avid::kernels {

/// The middle half of the measurements lies between `low` and `high`.
struct Spread {
  double low = 0, median = 0, high = 0;  ///< first quartile, median, third quartile
};

/// Quartiles at positions (n - 1) / 4, (n - 1) / 2 and 3 (n - 1) / 4 of the sorted values, between two of them
/// linearly. Zeros for no values; all NaN if one is.
Spread spread_of(std::vector<double> values);

}  // namespace avid::kernels
