// tests/sim/pitched.h -- pitched rows on the host for kernel tests, and comparisons in f64
#pragma once

#include <sys/mman.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "kernels/dtype.h"
#include "kernels/rows.h"

namespace avid::test {

/// [rows, cols] of Elem with rows of 16-byte multiples, gaps zero. The buffer ends with the last row, so that the
/// sanitizer build sees a read past it.
template <class Elem>
struct Pitched {
  std::int64_t rows = 0, cols = 0, pitch = 0;
  std::vector<Elem> values;

  Pitched() = default;
  Pitched(std::int64_t num_rows, std::int64_t num_cols)
      : Pitched(
            num_rows, num_cols, (num_cols * std::int64_t{sizeof(Elem)} + 15) / 16 * 16 / std::int64_t{sizeof(Elem)}) {}
  Pitched(std::int64_t num_rows, std::int64_t num_cols, std::int64_t pitch_)
      : rows(num_rows),
        cols(num_cols),
        pitch(pitch_),
        values(static_cast<std::size_t>(num_rows * pitch_), Elem(0.0f)) {}
  Elem& at(std::int64_t r, std::int64_t c) { return values[static_cast<std::size_t>(r * pitch + c)]; }
  double operator()(std::int64_t r, std::int64_t c) const {
    const Elem& v = values[static_cast<std::size_t>(r * pitch + c)];
    if constexpr (sizeof(Elem) == 2)
      return static_cast<double>(static_cast<float>(v));
    else
      return static_cast<double>(v);
  }
  kernels::Rows<const Elem> view() const { return {values.data(), pitch}; }
  kernels::Rows<Elem> view() { return {values.data(), pitch}; }
};

/// Rows of zeros so far apart that element offsets pass 2^31 and byte offsets 2^32; only touched pages exist.
template <class Elem>
class FarRows {
 public:
  explicit FarRows(std::int64_t num_rows)
      : bytes_(static_cast<std::size_t>(num_rows * kPitch) * sizeof(Elem)),
        data_(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~FarRows() { munmap(data_, bytes_); }
  FarRows(const FarRows&) = delete;
  FarRows& operator=(const FarRows&) = delete;
  bool mapped() const { return data_ != MAP_FAILED; }
  kernels::Rows<Elem> view() const { return {static_cast<Elem*>(data_), kPitch}; }
  /// Takes the elements of t, row by row.
  void operator=(const Pitched<Elem>& t) {
    for (std::int64_t r = 0; r < t.rows; ++r)
      for (std::int64_t c = 0; c < t.cols; ++c) view().row(r)[c] = t.values[static_cast<std::size_t>(r * t.pitch + c)];
  }
  /// The same rows close together.
  Pitched<Elem> near(std::int64_t rows, std::int64_t cols) const {
    Pitched<Elem> t(rows, cols);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c) t.at(r, c) = view().row(r)[c];
    return t;
  }

 private:
  static constexpr std::int64_t kPitch = (std::int64_t{1} << 30) + 8;
  std::size_t bytes_;
  void* data_;
};

/// Uniform in [-scale, scale), rounded to bf16, so that every element type holds the same numbers.
template <class Elem>
Pitched<Elem> random_rows(std::int64_t rows, std::int64_t cols, unsigned seed, double scale = 1.0) {
  Pitched<Elem> out(rows, cols);
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> draw(-scale, scale);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c)
      out.at(r, c) = Elem(static_cast<float>(BFloat16(static_cast<float>(draw(engine)))));
  return out;
}

/// Puts numbers uniform in [-scale, scale) into t, with all the bits an Elem has: an f32 product that drops low bits
/// shows.
template <class Elem>
void fill_fine(Pitched<Elem>& t, unsigned seed, double scale) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> draw(-scale, scale);
  for (std::int64_t r = 0; r < t.rows; ++r)
    for (std::int64_t c = 0; c < t.cols; ++c) t.at(r, c) = Elem(static_cast<float>(draw(engine)));
}
template <class Elem>
Pitched<Elem> fine_rows(std::int64_t rows, std::int64_t cols, unsigned seed, double scale = 1.0) {
  Pitched<Elem> out(rows, cols);
  fill_fine(out, seed, scale);
  return out;
}

/// The same numbers, rows as far apart.
template <class Elem>
Pitched<double> in_f64(const Pitched<Elem>& t) {
  Pitched<double> out(t.rows, t.cols, t.pitch);
  for (std::int64_t r = 0; r < t.rows; ++r)
    for (std::int64_t c = 0; c < t.cols; ++c) out.at(r, c) = t(r, c);
  return out;
}

/// An output to be written by a kernel: NaN everywhere, gaps included.
template <class Elem>
Pitched<Elem> poisoned_rows(std::int64_t rows, std::int64_t cols) {
  Pitched<Elem> out(rows, cols);
  for (Elem& v : out.values) v = Elem(std::numeric_limits<float>::quiet_NaN());
  return out;
}

/// ||a - b|| / ||b|| over the elements; NaN anywhere gives NaN, another shape infinity. 0 for two zeros.
template <class A, class B>
double rel_l2(const Pitched<A>& a, const Pitched<B>& b) {
  if (a.rows != b.rows || a.cols != b.cols) return std::numeric_limits<double>::infinity();
  double error = 0, norm = 0;
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t c = 0; c < a.cols; ++c) {
      error += (a(r, c) - b(r, c)) * (a(r, c) - b(r, c));
      norm += b(r, c) * b(r, c);
    }
  return error == 0 ? 0 : std::sqrt(error / norm);
}

/// Everything behind the last column of every row is zero.
template <class Elem>
bool gaps_are_zero(const Pitched<Elem>& t) {
  for (std::int64_t r = 0; r < t.rows; ++r)
    for (std::int64_t c = t.cols; c < t.pitch; ++c)
      if (!(t(r, c) == 0)) return false;
  return true;
}

/// Nothing was written into poisoned rows.
template <class Elem>
bool is_poisoned(const Pitched<Elem>& t) {
  for (const Elem& v : t.values)
    if (!std::isnan(static_cast<float>(v))) return false;
  return true;
}

/// Working memory full of NaNs, as aligned as a device's, exactly as long as asked for: the sanitizers see its end.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(std::int64_t bytes) { allocate(bytes); }
  void* allocate(std::int64_t bytes) {
    memory_.reset(static_cast<std::byte*>(::operator new (static_cast<std::size_t>(bytes), std::align_val_t{256})));
    std::memset(memory_.get(), 0xff, static_cast<std::size_t>(bytes));
    return memory_.get();
  }
  template <class T>
  T* data() const {
    return reinterpret_cast<T*>(memory_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{256}); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

/// The same bits everywhere.
template <class Elem>
bool same_bits(const Pitched<Elem>& a, const Pitched<Elem>& b) {
  if (a.values.size() != b.values.size()) return false;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    if constexpr (sizeof(Elem) == 2) {
      if (a.values[i].bits != b.values[i].bits) return false;
    } else {
      if (std::bit_cast<std::uint32_t>(a.values[i]) != std::bit_cast<std::uint32_t>(b.values[i])) return false;
    }
  }
  return true;
}

}  // namespace avid::test
