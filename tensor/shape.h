// tensor/shape.h -- extents of a tensor, and the row pitch that keeps rows 16-byte aligned
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "kernels/dtype.h"

namespace avid {

/// Up to 8 extents, outermost first. Element counts are 64-bit and checked for overflow.
class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);

  int rank() const { return rank_; }
  /// Extent of dimension i; negative i counts from the last (-1 = channels).
  std::int64_t operator[](int i) const;
  /// Product of all extents; 1 for rank 0.
  std::int64_t numel() const;
  /// Product of all extents but the last; 1 for rank 0 and 1.
  std::int64_t rows() const;
  /// The last extent; 1 for rank 0.
  std::int64_t cols() const { return rank_ == 0 ? 1 : extents_[static_cast<std::size_t>(rank_ - 1)]; }
  /// The same shape with the last extent replaced.
  Shape with_cols(std::int64_t cols) const;

  std::vector<std::int64_t> to_vector() const { return {begin(), end()}; }
  const std::int64_t* begin() const { return extents_.data(); }
  const std::int64_t* end() const { return extents_.data() + rank_; }
  /// "[2,8,64,64,3]"
  std::string to_string() const;

  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && std::equal(a.begin(), a.end(), b.begin());
  }

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

/// Elements from one row to the next: for float types `cols` rounded up so that a row is a multiple of
/// 16 bytes; integer types are dense. Rank 0 has pitch 1.
std::int64_t row_pitch(const Shape& shape, DType dtype);

}  // namespace avid

template <>
struct fmt::formatter<avid::Shape> : fmt::formatter<std::string_view> {
  template <class Context>
  auto format(const avid::Shape& s, Context& ctx) const {
    return fmt::formatter<std::string_view>::format(s.to_string(), ctx);
  }
};
