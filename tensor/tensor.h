// tensor/tensor.h -- the array type: shape, element type, device, shared storage, row pitch
//
// A tensor is contiguous except that rows of its last dimension start every `pitch() >= cols()` elements
// (design: 16-byte rows whatever the channel count). The gap behind each row is always zero; kernels may read
// whole pitched rows and must leave the gap zero. Integer tensors are dense (pitch == cols).
// Copying a Tensor copies a handle; data are shared. Nothing copies data unless its name says so.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "tensor/device.h"
#include "tensor/error.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace avid {

class Tensor {
 public:
  /// An undefined tensor: defined() is false and every other call throws.
  Tensor() = default;

  /// Uninitialised elements, zeroed gaps. Throws OutOfMemoryError.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = {});
  /// The same, but on a GPU backend gaps are uninitialised, too: for results of a kernel that writes rows with their
  /// gaps, as the tests of kernels check whose outputs begin with NaNs. It saves a launch.
  static Tensor uninitialised(const Shape& shape, DType dtype, Device device);
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = {});
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32, Device device = {});
  static Tensor scalar(double value, DType dtype = DType::f32, Device device = {}) {
    return full({}, value, dtype, device);
  }
  /// Copies dense row-major host values into a new (pitched) tensor; `values.size()` must be shape.numel().
  template <class Elem>
  static Tensor from_values(std::span<const Elem> values, const Shape& shape);
  template <class Elem>
  static Tensor from_values(const std::vector<Elem>& values, const Shape& shape) {
    return from_values(std::span<const Elem>(values), shape);
  }
  /// Copies dense row-major bytes of `dtype` (a file's layout) into a new tensor.
  static Tensor from_dense_bytes(std::span<const std::byte> bytes, const Shape& shape, DType dtype);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  std::int64_t dim(int i) const { return shape_[i]; }
  std::int64_t numel() const { return shape_.numel(); }
  std::int64_t rows() const { return shape_.rows(); }
  std::int64_t cols() const { return shape_.cols(); }
  std::int64_t pitch() const { return pitch_; }
  /// Rows follow each other without gaps (pitch == cols, or at most one row).
  bool is_dense() const { return pitch_ == cols() || rows() <= 1; }
  DType dtype() const { return dtype_; }
  Device device() const;
  /// Bytes from the first to past the last element, gaps included: rows * pitch * element size.
  std::size_t num_bytes() const;

  /// First element, for host code; the type must match dtype(). The non-const form refuses mapped, read-only files.
  /// DeviceError for a tensor on a GPU backend: host code may not touch device memory.
  template <class Elem>
  const Elem* data() const {
    return static_cast<const Elem*>(checked_data(dtype_of<Elem>));
  }
  template <class Elem>
  Elem* data() {
    return static_cast<Elem*>(checked_mutable_data(dtype_of<Elem>));
  }
  const void* raw_data() const;
  void* raw_data();
  /// First element of a tensor on a GPU backend, for kernels only (tensor/ops/on_device.h); the type must match
  /// dtype(). DeviceError for a tensor on the CPU.
  const void* device_pointer(DType expected) const;
  void* device_pointer(DType expected);

  // ---- views: share storage, never copy ----
  /// Elements [begin, end) of the first dimension.
  Tensor slice(std::int64_t begin, std::int64_t end) const;
  /// Element i of the first dimension, with that dimension removed (rank >= 2).
  Tensor select(std::int64_t i) const;
  /// Same elements in another shape. Throws ShapeError if that would need a copy, i.e. if the last dimension
  /// changes while rows are pitched; dense_reshape() copies in that case.
  Tensor reshape(const Shape& shape) const;

  // ---- copies ----
  Tensor dense_reshape(const Shape& shape) const;
  Tensor clone() const;
  /// Converted to another element type (through f64/f32, round to nearest even; float to integer truncates).
  /// Always a new tensor.
  Tensor to(DType dtype) const;
  /// On another device; itself (the same storage) when it is there already.
  Tensor to(Device device) const;
  /// Overwrites this tensor's elements with those of `source` (same shape; converts the element type and copies between
  /// devices; between two GPU backends is refused).
  void copy_from(const Tensor& source);
  void fill(double value);
  /// Writes zeros into the gaps behind rows.
  void zero_gaps();

  /// Dense row-major host copies, for tests, files and printing.
  std::vector<double> to_doubles() const;
  template <class Elem>
  std::vector<Elem> to_values() const;
  /// Dense row-major bytes of this element type (the layout of safetensors and npy).
  std::vector<std::byte> to_dense_bytes() const;
  /// The only element of a one-element tensor.
  double item() const;

  /// In-place change counter of the storage. Ops that overwrite a tensor call bump_version().
  std::uint64_t version() const { return storage_ ? storage_->version() : 0; }
  void bump_version() { storage_->bump_version(); }
  bool shares_storage_with(const Tensor& other) const { return defined() && storage_ == other.storage_; }
  /// Number of tensors that share this storage.
  long use_count() const { return storage_.use_count(); }

  /// "f32 [2,3] cpu" and the values, edges only when large; for people, also from a debugger: `p t.to_string()`.
  std::string to_string() const;
  /// "f32 [2,3]"
  std::string describe() const;

  /// A view over existing storage; for readers that map files. Rows must be laid out with `pitch`.
  static Tensor from_storage(
      std::shared_ptr<Storage> storage, std::size_t offset_bytes, const Shape& shape, DType dtype, std::int64_t pitch);

 private:
  const void* checked_data(DType expected) const;
  void* checked_mutable_data(DType expected);
  void check_writable() const;

  Shape shape_;
  DType dtype_ = DType::f32;
  std::int64_t pitch_ = 0;
  std::size_t offset_bytes_ = 0;
  std::shared_ptr<Storage> storage_;
};

/// Throws ShapeError "op: name: expected [..], got [..]" unless t has exactly this shape.
void check_shape(const Tensor& t, const Shape& expected, const char* op, const char* name);
/// Throws ShapeError unless t has this rank.
void check_rank(const Tensor& t, int rank, const char* op, const char* name);
/// Throws DTypeError unless t has this dtype.
void check_dtype(const Tensor& t, DType expected, const char* op, const char* name);

}  // namespace avid
