// tests/sim/conv_support.h -- operands of convolution tests: rounded, pitched, with poisoned outputs
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "kernels/rows.h"
#include "tests/doctest.h"

namespace avid::test {

/// Reproducible values in [-1, 1).
class Values {
 public:
  explicit Values(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  double next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return static_cast<double>(state_ >> 11) / 4503599627370496.0 - 1.0;
  }

 private:
  std::uint64_t state_;
};

/// Memory that begins where a device's does, so that rows lie in as many sectors in every run.
template <class T>
struct DeviceAligned {
  using value_type = T;
  static constexpr std::align_val_t kBytes{256};
  DeviceAligned() = default;
  template <class U>
  DeviceAligned(const DeviceAligned<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kBytes)); }
  void deallocate(T* p, std::size_t) { ::operator delete(p, kBytes); }
  bool operator==(const DeviceAligned&) const = default;
};

/// num_rows rows of `cols` channels with the pitch of a device tensor, in memory aligned as one. Elements are f64
/// values that Elem holds exactly, so that an f64 reference sees the same numbers.
template <class Elem>
class DeviceRows {
 public:
  static constexpr std::int64_t kPerChunk = 16 / static_cast<std::int64_t>(sizeof(Elem));

  DeviceRows() = default;
  DeviceRows(std::int64_t num_rows, std::int64_t cols)
      : num_rows_(num_rows),
        cols_(cols),
        pitch_((cols + kPerChunk - 1) / kPerChunk * kPerChunk),
        memory_(static_cast<std::size_t>(num_rows * pitch_ / kPerChunk)) {}

  static DeviceRows random(std::int64_t num_rows, std::int64_t cols, std::uint64_t seed) {
    DeviceRows rows(num_rows, cols);
    Values values(seed);
    for (std::int64_t r = 0; r < num_rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c) rows.at(r)[c] = Elem(static_cast<float>(values.next()));
    return rows;
  }
  /// NaN everywhere, gaps included: what a kernel leaves out shows.
  static DeviceRows poisoned(std::int64_t num_rows, std::int64_t cols) {
    DeviceRows rows(num_rows, cols);
    for (std::int64_t i = 0; i < num_rows * rows.pitch_; ++i)
      rows.at(0)[i] = Elem(std::numeric_limits<float>::quiet_NaN());
    return rows;
  }

  Elem* at(std::int64_t r) { return reinterpret_cast<Elem*>(memory_.data()) + r * pitch_; }
  const Elem* at(std::int64_t r) const { return reinterpret_cast<const Elem*>(memory_.data()) + r * pitch_; }
  kernels::Rows<Elem> rows() { return memory_.empty() ? kernels::Rows<Elem>{} : kernels::Rows<Elem>{at(0), pitch_}; }
  kernels::Rows<const Elem> rows() const {
    return memory_.empty() ? kernels::Rows<const Elem>{} : kernels::Rows<const Elem>{at(0), pitch_};
  }

  /// Dense f64 copy.
  std::vector<double> values() const {
    std::vector<double> v;
    for (std::int64_t r = 0; r < num_rows_; ++r)
      for (std::int64_t c = 0; c < cols_; ++c) v.push_back(static_cast<double>(static_cast<float>(at(r)[c])));
    return v;
  }
  bool gaps_are_zero() const {
    for (std::int64_t r = 0; r < num_rows_; ++r)
      for (std::int64_t c = cols_; c < pitch_; ++c)
        if (!(static_cast<float>(at(r)[c]) == 0.0f)) return false;
    return true;
  }
  std::vector<std::string> bytes() const {  // for comparing bits
    return {std::string(reinterpret_cast<const char*>(memory_.data()), memory_.size() * 16)};
  }

 private:
  struct alignas(16) Chunk {
    unsigned char bytes[16] = {};
  };
  std::int64_t num_rows_ = 0, cols_ = 0, pitch_ = 0;
  std::vector<Chunk, DeviceAligned<Chunk>> memory_;
};

/// Workspace of a kernel, filled with NaN.
class Workspace {
 public:
  explicit Workspace(std::int64_t bytes) : rows_(DeviceRows<float>::poisoned((bytes + 255) / 256, 64)) {}
  void* data() { return rows_.rows().data; }

 private:
  DeviceRows<float> rows_;
};

/// sum += more, element by element, of as many.
inline void add_to(std::vector<double>& sum, const std::vector<double>& more) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += more.at(i);
}

/// Largest |got - expected| over `unit` * the root mean square of expected plus its own size; NaN and missing values
/// fail. bf16 results carry one rounding, f32 results the sums' error.
inline double worst_error(const std::vector<double>& got, const std::vector<double>& expected, double unit) {
  if (got.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double squares = 0.0;
  for (double v : expected) squares += v * v;
  const double rms = expected.empty() ? 0.0 : std::sqrt(squares / static_cast<double>(expected.size()));
  double worst = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - expected[i]) / (unit * (rms + std::abs(expected[i]) + 1e-30));
    if (!(error <= worst)) worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
  return worst;
}

/// The error that one rounding of a result may add (bf16), or that f32 sums may.
template <class Elem>
inline constexpr double kUnit = sizeof(Elem) == 2 ? 1.0 / 256 : 4e-6;  // 2^-24 * sqrt(1000 terms), twice
/// The error of sums in f32 of products of two Elems: those of bf16 stay in tensor cores, which cut them
/// (simulator.md).
template <class Elem>
inline constexpr double kSumUnit = sizeof(Elem) == 2 ? 2e-5 : kUnit<float>;

}  // namespace avid::test
