// tests/sim/attention_support.h -- random operands and comparisons for the attention kernels
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/dtype.h"
#include "kernels/rows.h"

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

/// A pitched matrix as a device sees it, 16-byte rows, and its numbers as doubles.
template <class Elem>
struct DeviceMatrix {
  std::int64_t num_rows = 0, cols = 0, pitch = 0;
  std::vector<double> values;  ///< [num_rows, cols] what it was made of
  std::vector<Elem> elements;  ///< [num_rows, pitch]

  DeviceMatrix() = default;
  /// Random numbers that an Elem holds exactly; zero gaps.
  DeviceMatrix(std::int64_t rows_count, std::int64_t cols_count, std::uint64_t seed, double factor)
      : DeviceMatrix(rows_count, cols_count, Elem(0.0f)) {
    Random random(seed);
    for (std::int64_t r = 0; r < num_rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        values.push_back(rounded_to<Elem>(random.normal() * factor));
        elements[static_cast<std::size_t>(r * pitch + c)] = Elem(static_cast<float>(values.back()));
      }
    }
  }
  /// Full of 7s, gaps included: whatever is not written shows.
  static DeviceMatrix dirty(std::int64_t rows_count, std::int64_t cols_count) {
    return DeviceMatrix(rows_count, cols_count, Elem(7.0f));
  }

  kernels::Rows<const Elem> rows() const { return {elements.data(), pitch}; }
  kernels::Rows<Elem> mutable_rows() { return {elements.data(), pitch}; }
  const Elem* data() const { return elements.data(); }
  std::vector<double> read() const {
    std::vector<double> out;
    for (std::int64_t r = 0; r < num_rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c)
        out.push_back(static_cast<double>(static_cast<float>(elements[static_cast<std::size_t>(r * pitch + c)])));
    return out;
  }
  bool gaps_are_zero() const { return avid::test::gaps_are_zero(elements, cols, pitch); }
  bool is_dirty() const {
    for (const Elem e : elements)
      if (static_cast<float>(e) != 7.0f) return false;
    return true;
  }

 private:
  DeviceMatrix(std::int64_t rows_count, std::int64_t cols_count, Elem fill)
      : num_rows(rows_count),
        cols(cols_count),
        pitch((cols_count * sizeof(Elem) + 15) / 16 * 16 / sizeof(Elem)),
        elements(static_cast<std::size_t>(num_rows * pitch), fill) {}
};

/// Working memory full of NaNs, 256-byte aligned, exactly as long as asked for.
class Workspace {
 public:
  void* allocate(std::int64_t bytes) {
    memory_.assign(static_cast<std::size_t>(bytes) + 256, std::byte{0xff});
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return memory_.data() + (256 - address % 256) % 256;
  }

 private:
  std::vector<std::byte> memory_;
};

}  // namespace avid::test
