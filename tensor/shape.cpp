// tensor/shape.cpp -- extents, element counts, row pitch
#include "tensor/shape.h"

#include <limits>

#include "tensor/error.h"

namespace avid {

Shape::Shape(std::initializer_list<std::int64_t> extents)
    : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) {
  check<ShapeError>(
      extents.size() <= kMaxRank, "shape: expected at most {} dimensions, got {}", int{kMaxRank}, extents.size());
  std::int64_t total = 1;
  for (const std::int64_t extent : extents) {
    check<ShapeError>(extent >= 0, "shape: expected extents >= 0, got {}", extent);
    // 2^56 elements is far past any memory and leaves room for byte counts in 64 bits.
    if (extent > 0 && total > 0)
      check<ShapeError>(total <= (std::int64_t{1} << 56) / extent, "shape: element count passes 2^56");
    total *= extent;
    extents_[static_cast<std::size_t>(rank_++)] = extent;
  }
}

std::int64_t Shape::operator[](int i) const {
  const int index = i < 0 ? i + rank_ : i;
  check<ShapeError>(index >= 0 && index < rank_, "shape: dimension {} of {}", i, to_string());
  return extents_[static_cast<std::size_t>(index)];
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (const std::int64_t extent : *this) n *= extent;
  return n;
}

std::int64_t Shape::rows() const {
  std::int64_t n = 1;
  for (int i = 0; i + 1 < rank_; ++i) n *= extents_[static_cast<std::size_t>(i)];
  return n;
}

Shape Shape::with_cols(std::int64_t cols) const {
  check<ShapeError>(rank_ > 0, "shape: a scalar has no last dimension");
  auto extents = to_vector();
  extents.back() = cols;
  return Shape(extents);
}

std::string Shape::to_string() const { return fmt::format("[{}]", fmt::join(begin(), end(), ",")); }

std::int64_t row_pitch(const Shape& shape, DType dtype) {
  if (shape.rank() == 0) return 1;
  if (!is_float(dtype)) return shape.cols();
  const auto per_16_bytes = static_cast<std::int64_t>(16 / size_of(dtype));
  return (shape.cols() + per_16_bytes - 1) / per_16_bytes * per_16_bytes;
}

}  // namespace avid
