// kernels/moments_cpu.cpp -- mean, spread and range of numbers on the host, and how the work of moments.cu is cut
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/moments.h"

namespace avid::kernels {

std::int64_t moments_blocks(std::int64_t elements) {
  constexpr std::int64_t kPerBlock = 256, kMost = 256;
  return std::min((elements + kPerBlock - 1) / kPerBlock, kMost);
}

HostMoments moments(const double* x, std::int64_t n) {
  HostMoments m{0, 0, std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (std::int64_t i = 0; i < n; ++i) {
    m.mean += x[i];
    m.min = std::min(m.min, x[i]);
    m.max = std::max(m.max, x[i]);
  }
  m.mean /= static_cast<double>(n);
  for (std::int64_t i = 0; i < n; ++i) m.std += (x[i] - m.mean) * (x[i] - m.mean);
  m.std = std::sqrt(m.std / static_cast<double>(n - 1));
  return m;
}

}  // namespace avid::kernels
