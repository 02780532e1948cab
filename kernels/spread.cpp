// kernels/spread.cpp -- see spread.h
#include "kernels/spread.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace avid::kernels {

Spread spread_of(std::vector<double> values) {
  if (values.empty()) return {};
  for (const double value : values)
    if (std::isnan(value)) {
      const double none = std::numeric_limits<double>::quiet_NaN();
      return {none, none, none};
    }
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
  };
  return {at(0.25), at(0.5), at(0.75)};
}

}  // namespace avid::kernels
