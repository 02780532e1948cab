// tests/sim/attention_support.h -- random operands and comparisons for the attention kernels
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/dtype.h"

namespace avid::test {

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  double normal() { return distribution_(engine_); }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> distribution_;
};

template <class Elem>
double rounded_to(double v) {
  return static_cast<double>(static_cast<float>(Elem(static_cast<float>(v))));
}
template <class Elem>
Elem nan_of() {
  return Elem(std::numeric_limits<float>::quiet_NaN());
}

template <class Elem>
std::vector<Elem> elements(const std::vector<double>& values) {
  std::vector<Elem> out;
  out.reserve(values.size());
  for (const double v : values) out.push_back(Elem(static_cast<float>(v)));
  return out;
}
template <class Elem>
std::vector<double> doubles(const std::vector<Elem>& values) {
  std::vector<double> out;
  out.reserve(values.size());
  for (const Elem v : values) out.push_back(static_cast<double>(static_cast<float>(v)));
  return out;
}

/// ||got - expected|| / ||expected||; infinite for NaN or other lengths, so that a comparison fails.
inline double relative_l2(const std::vector<double>& got, const std::vector<double>& expected) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  if (got.empty()) return 0;
  const double ratio = std::sqrt(error / norm);
  return ratio == ratio ? ratio : std::numeric_limits<double>::infinity();
}

/// Elements `used` .. `pitch` of every group of `pitch` are zero.
template <class Elem>
bool gaps_are_zero(const std::vector<Elem>& values, std::int64_t used, std::int64_t pitch) {
  for (std::size_t i = 0; i < values.size(); ++i)
    if (static_cast<std::int64_t>(i) % pitch >= used && static_cast<float>(values[i]) != 0) return false;
  return true;
}

}  // namespace avid::test
