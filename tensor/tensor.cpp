// tensor/tensor.cpp -- creation, views, copies and conversions
#include "tensor/tensor.h"

#include <cstring>

#include "kernels/cast.h"
#include "kernels/device/launch_context.h"
#include "kernels/fill.h"
#include "kernels/op_timer.h"
#include "tensor/ops/on_device.h"

namespace avid {
namespace {

template <class To, class From>
To convert(From v) {
  if constexpr (std::is_same_v<To, From>)
    return v;
  else if constexpr (std::is_same_v<From, bf16> || std::is_same_v<From, f16>)
    return convert<To>(static_cast<float>(v));
  else if constexpr (std::is_same_v<To, bf16> || std::is_same_v<To, f16>)
    return To(static_cast<float>(v));
  else
    return static_cast<To>(v);
}

// Copies rows between two layouts of the same shape.
void copy_rows(
    const void* from, std::size_t from_step, void* to, std::size_t to_step, std::int64_t num_rows,
    std::size_t row_bytes) {
  if (row_bytes == 0 || num_rows == 0) return;  // memcpy wants valid pointers even for nothing
  if (from_step == row_bytes && to_step == row_bytes) {
    std::memcpy(to, from, static_cast<std::size_t>(num_rows) * row_bytes);
    return;
  }
  const auto* source = static_cast<const std::byte*>(from);
  auto* target = static_cast<std::byte*>(to);
  for (std::int64_t r = 0; r < num_rows; ++r, source += from_step, target += to_step)
    std::memcpy(target, source, row_bytes);
}

// Copies the rows of two tensors of the same shape and type, at least one of them on a GPU backend.
void copy_device_rows(
    std::byte* to, Device to_device, std::size_t to_step, const std::byte* from, Device from_device,
    std::size_t from_step, std::size_t row_bytes, std::int64_t num_rows) {
  if (row_bytes == 0 || num_rows == 0) return;
  const bool up = !from_device.is_gpu(), down = !to_device.is_gpu();
  check<DeviceError>(
      up || down || from_device == to_device, "copy: from {} to {}: copy to the CPU first", from_device.to_string(),
      to_device.to_string());
  const auto kind = up     ? kernels::CopyKind::to_device
                    : down ? kernels::CopyKind::to_host
                           : kernels::CopyKind::on_device;
  on_device(up ? to_device : from_device, "copy", [&]<class Backend>(const kernels::Stream& stream) {
    kernels::device_copy<Backend>(stream, kind, to, to_step, from, from_step, row_bytes, num_rows);
  });
}

template <class To, class From>
void cast_rows(Tensor& to, const Tensor& from) {
  on_device(to.device(), "cast", [&]<class Backend>(const kernels::Stream& stream) {
    kernels::cast<Backend, To, From>(
        stream,
        {to.numel() == 0 ? 0 : to.rows(), to.cols(), device_rows_of<From>(from), device_mutable_rows_of<To>(to)});
  });
}

// f32 <-> bf16 where both tensors are on one device; false when that is not the case.
bool cast_on_device(Tensor& to, const Tensor& from) {
  if (to.device() != from.device()) return false;
  if (to.dtype() == DType::bf16 && from.dtype() == DType::f32) return cast_rows<BFloat16, float>(to, from), true;
  if (to.dtype() == DType::f32 && from.dtype() == DType::bf16) return cast_rows<float, BFloat16>(to, from), true;
  return false;
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  Tensor t = uninitialised(shape, dtype, device);
  if (device.is_gpu()) t.zero_gaps();
  return t;
}

Tensor Tensor::uninitialised(const Shape& shape, DType dtype, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.pitch_ = row_pitch(shape, dtype);
  try {
    t.storage_ = Storage::allocate(t.num_bytes(), device);
  } catch (const OutOfMemoryError& error) {
    if (!device.is_gpu()) throw;
    fail<OutOfMemoryError>("{} {}: {}", name_of(dtype), shape, error.what());
  }
  if (!device.is_gpu()) t.zero_gaps();
  return t;
}

void Tensor::zero_gaps() {
  if (pitch_ == cols()) return;
  const std::size_t item = size_of(dtype_), row_bytes = static_cast<std::size_t>(cols()) * item;
  const std::size_t pitch_bytes = static_cast<std::size_t>(pitch_) * item;
  std::byte* row = storage_->data() + offset_bytes_;
  if (device().is_gpu())
    on_device(device(), "tensor", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::device_zero<Backend>(stream, row + row_bytes, pitch_bytes, pitch_bytes - row_bytes, rows());
    });
  else
    for (std::int64_t r = rows(); r > 0; --r, row += pitch_bytes)
      std::memset(row + row_bytes, 0, pitch_bytes - row_bytes);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  if (device.is_gpu())
    on_device(device, "tensor", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::device_zero<Backend>(stream, t.storage_->data(), t.num_bytes(), t.num_bytes(), 1);
    });
  else
    std::memset(t.storage_->data(), 0, t.num_bytes());
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

template <class Elem>
Tensor Tensor::from_values(std::span<const Elem> values, const Shape& shape) {
  return from_dense_bytes(std::as_bytes(values), shape, dtype_of<Elem>);
}

Tensor Tensor::from_dense_bytes(std::span<const std::byte> bytes, const Shape& shape, DType dtype) {
  const std::size_t item = size_of(dtype);
  check<ShapeError>(
      bytes.size() == static_cast<std::size_t>(shape.numel()) * item, "tensor: {} of {} needs {} bytes, got {}",
      name_of(dtype), shape, static_cast<std::size_t>(shape.numel()) * item, bytes.size());
  Tensor t = empty(shape, dtype);
  const std::size_t row_bytes = static_cast<std::size_t>(shape.cols()) * item;
  copy_rows(
      bytes.data(), row_bytes, t.storage_->data(), static_cast<std::size_t>(t.pitch_) * item, shape.rows(), row_bytes);
  return t;
}

Tensor Tensor::from_storage(
    std::shared_ptr<Storage> storage, std::size_t offset_bytes, const Shape& shape, DType dtype, std::int64_t pitch) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.pitch_ = pitch;
  t.offset_bytes_ = offset_bytes;
  t.storage_ = std::move(storage);
  check<ShapeError>(
      pitch >= shape.cols() && offset_bytes + t.num_bytes() <= t.storage_->num_bytes(),
      "tensor: view {} with pitch {} at byte {} does not fit {} bytes", shape, pitch, offset_bytes,
      t.storage_->num_bytes());
  return t;
}

Device Tensor::device() const {
  check(defined(), "tensor: undefined tensor used");
  return storage_->device();
}

std::size_t Tensor::num_bytes() const {
  return static_cast<std::size_t>(shape_.rows()) * static_cast<std::size_t>(pitch_) * size_of(dtype_);
}

const void* Tensor::raw_data() const {
  check(defined(), "tensor: undefined tensor used");
  check<DeviceError>(
      !device().is_gpu(),
      "tensor: {} on {}: host code may not touch device memory, so this op has no kernel there yet | "
      "copy it with to(Device())",
      describe(), device().to_string());
  kernels::note_operand(storage_->data() + offset_bytes_, num_bytes(), numel());
  return storage_->data() + offset_bytes_;
}

void* Tensor::raw_data() {
  check_writable();
  return const_cast<void*>(std::as_const(*this).raw_data());
}

const void* Tensor::device_pointer(DType expected) const {
  check<DTypeError>(dtype_ == expected, "tensor: expected {}, got {}", name_of(expected), describe());
  check<DeviceError>(device().is_gpu(), "tensor: {}: expected a tensor on a device, got one on cpu", describe());
  kernels::note_operand(storage_->data() + offset_bytes_, num_bytes(), numel());
  kernels::note_device_tensor(name_of(dtype_), {shape_.begin(), shape_.end()});
  return storage_->data() + offset_bytes_;
}

void* Tensor::device_pointer(DType expected) {
  return const_cast<void*>(std::as_const(*this).device_pointer(expected));
}

void Tensor::check_writable() const {
  check(defined(), "tensor: undefined tensor used");
  check(!storage_->read_only(), "tensor: {} is mapped from a file and read-only | clone() it first", describe());
}

const void* Tensor::checked_data(DType expected) const {
  check<DTypeError>(dtype_ == expected, "tensor: expected {}, got {}", name_of(expected), describe());
  return raw_data();
}

void* Tensor::checked_mutable_data(DType expected) {
  check<DTypeError>(dtype_ == expected, "tensor: expected {}, got {}", name_of(expected), describe());
  return raw_data();
}

Tensor Tensor::slice(std::int64_t begin, std::int64_t end) const {
  check<ShapeError>(
      rank() >= 1 && begin >= 0 && begin <= end && end <= dim(0), "slice: [{},{}) of {}", begin, end, shape_);
  Tensor t = *this;
  auto extents = shape_.to_vector();
  extents[0] = end - begin;
  t.shape_ = Shape(extents);
  const std::int64_t row_elements = rank() == 1 ? 1 : Shape(std::span(extents).subspan(1)).rows() * pitch_;
  t.offset_bytes_ += static_cast<std::size_t>(begin * row_elements) * size_of(dtype_);
  if (rank() == 1 && end - begin < shape_[0]) t.pitch_ = std::max<std::int64_t>(end - begin, 1);  // no gap of its own
  return t;
}

Tensor Tensor::select(std::int64_t i) const {
  check<ShapeError>(rank() >= 2, "select: expected rank >= 2, got {}", shape_);
  Tensor t = slice(i, i + 1);
  t.shape_ = Shape(std::span<const std::int64_t>(shape_.begin() + 1, shape_.end()));
  return t;
}

Tensor Tensor::reshape(const Shape& shape) const {
  check<ShapeError>(
      shape.numel() == numel(), "reshape: {} has {} elements, {} has {}", shape_, numel(), shape, shape.numel());
  Tensor t = *this;
  t.shape_ = shape;
  if (shape.cols() == cols() && (shape.rank() > 0 || rank() == 0)) return t;
  const std::int64_t wanted_pitch = row_pitch(shape, dtype_);
  // A dense run can be cut anew when the new rows need no gap.
  check<ShapeError>(
      is_dense() && (wanted_pitch == shape.cols() || shape.rows() <= 1),
      "reshape: {} -> {} would need a copy (rows of {} elements lie {} apart) | use dense_reshape", shape_, shape,
      cols(), pitch_);
  t.pitch_ = shape.rows() <= 1 ? std::max<std::int64_t>(shape.cols(), 1) : wanted_pitch;
  return t;
}

Tensor Tensor::dense_reshape(const Shape& shape) const {
  check<ShapeError>(
      shape.numel() == numel(), "dense_reshape: {} has {} elements, {} has {}", shape_, numel(), shape, shape.numel());
  return from_dense_bytes(to_dense_bytes(), shape, dtype_).to(device());
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  Tensor t = empty(shape_, dtype, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& source) {
  check<ShapeError>(source.shape() == shape_, "copy: expected {}, got {}", shape_, source.shape());
  // An empty tensor may still have very many empty rows.
  const std::int64_t num_rows = numel() == 0 ? 0 : rows(), num_cols = cols();
  if (source.device().is_gpu() || device().is_gpu()) {
    check_writable();
    if (source.dtype() != dtype_) {
      if (!cast_on_device(*this, source)) copy_from(source.to(Device()).to(dtype_));  // converted on the host
      return bump_version();
    }
    const std::size_t item = size_of(dtype_);
    // Rows cut alike go as one run with their gaps, which are zero on both sides: copying millions of short rows is
    // slow.
    const bool one_run = pitch_ == source.pitch() && num_rows > 1;
    if (one_run) {
      copy_device_rows(
          storage_->data() + offset_bytes_, device(), num_bytes(), source.storage_->data() + source.offset_bytes_,
          source.device(), num_bytes(), num_bytes(), 1);
      return bump_version();
    }
    copy_device_rows(
        storage_->data() + offset_bytes_, device(), static_cast<std::size_t>(pitch_) * item,
        source.storage_->data() + source.offset_bytes_, source.device(),
        static_cast<std::size_t>(source.pitch()) * item, static_cast<std::size_t>(num_cols) * item, num_rows);
  } else if (source.dtype() == dtype_) {
    const std::size_t item = size_of(dtype_);
    copy_rows(
        source.raw_data(), static_cast<std::size_t>(source.pitch()) * item, raw_data(),
        static_cast<std::size_t>(pitch_) * item, num_rows, static_cast<std::size_t>(num_cols) * item);
  } else {
    dispatch_any(source.dtype(), [&]<class From>() {
      dispatch_any(dtype_, [&]<class To>() {
        const From* from = source.data<From>();
        To* to = data<To>();
        for (std::int64_t r = 0; r < num_rows; ++r)
          for (std::int64_t c = 0; c < num_cols; ++c) to[r * pitch_ + c] = convert<To>(from[r * source.pitch() + c]);
      });
    });
  }
  bump_version();
}

void Tensor::fill(double value) {
  if (device().is_gpu()) {
    if (dtype_ != DType::f32 && dtype_ != DType::bf16) return copy_from(full(shape_, value, dtype_));
    dispatch_f32_bf16(dtype_, "fill", [&]<class Elem>() {
      on_device(device(), "fill", [&]<class Backend>(const kernels::Stream& stream) {
        const std::int64_t num_rows = numel() == 0 ? 0 : rows();
        kernels::fill<Backend, Elem>(
            stream, {num_rows, cols(), device_mutable_rows_of<Elem>(*this), static_cast<float>(value)});
      });
    });
    return bump_version();
  }
  dispatch_any(dtype_, [&]<class Elem>() {
    const Elem v = convert<Elem>(value);
    Elem* to = data<Elem>();
    const std::int64_t num_rows = numel() == 0 ? 0 : rows(), num_cols = cols();
    for (std::int64_t r = 0; r < num_rows; ++r)
      for (std::int64_t c = 0; c < num_cols; ++c) to[r * pitch_ + c] = v;
  });
  bump_version();
}

std::vector<double> Tensor::to_doubles() const {
  std::vector<double> out;
  if (device().is_gpu()) return to(Device()).to_doubles();
  if (numel() == 0) return out;
  out.reserve(static_cast<std::size_t>(numel()));
  dispatch_any(dtype_, [&]<class Elem>() {
    const Elem* from = data<Elem>();
    for (std::int64_t r = 0; r < rows(); ++r)
      for (std::int64_t c = 0; c < cols(); ++c) out.push_back(convert<double>(from[r * pitch_ + c]));
  });
  return out;
}

template <class Elem>
std::vector<Elem> Tensor::to_values() const {
  check<DTypeError>(dtype_ == dtype_of<Elem>, "tensor: expected {}, got {}", name_of(dtype_of<Elem>), describe());
  const auto bytes = to_dense_bytes();
  std::vector<Elem> out(static_cast<std::size_t>(numel()));
  if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

std::vector<std::byte> Tensor::to_dense_bytes() const {
  const std::size_t item = size_of(dtype_), row_bytes = static_cast<std::size_t>(cols()) * item;
  if (device().is_gpu()) return to(Device()).to_dense_bytes();
  std::vector<std::byte> bytes(static_cast<std::size_t>(numel()) * item);
  copy_rows(raw_data(), static_cast<std::size_t>(pitch_) * item, bytes.data(), row_bytes, rows(), row_bytes);
  return bytes;
}

double Tensor::item() const {
  check<ShapeError>(numel() == 1, "item: expected one element, got {}", shape_);
  return to_doubles()[0];
}

std::string Tensor::describe() const {
  return defined() ? fmt::format("{} {}", name_of(dtype_), shape_) : "undefined tensor";
}

std::string Tensor::to_string() const {
  if (!defined()) return "undefined tensor";
  std::string out = fmt::format("{} {}\n", describe(), device().to_string());
  constexpr std::int64_t kEdge = 3, kShowAll = 8;
  const std::int64_t num_rows = rows(), num_cols = cols();
  const Tensor here = to(Device());
  dispatch_any(dtype_, [&]<class Elem>() {
    const Elem* from = here.data<Elem>();
    for (std::int64_t r = 0; r < num_rows; ++r) {
      if (num_rows > kShowAll && r == kEdge) {
        out += fmt::format("  ... {} rows ...\n", num_rows - 2 * kEdge);
        r = num_rows - kEdge;
      }
      out += "  ";
      for (std::int64_t c = 0; c < num_cols; ++c) {
        if (num_cols > 2 * kShowAll && c == kEdge) {
          out += " ... ";
          c = num_cols - kEdge;
        }
        out += is_float(dtype_) ? fmt::format("{:>11.5g} ", convert<double>(from[r * here.pitch() + c]))
                                : fmt::format("{:>5} ", convert<std::int64_t>(from[r * here.pitch() + c]));
      }
      out.back() = '\n';
    }
  });
  return out;
}

void check_shape(const Tensor& t, const Shape& expected, const char* op, const char* name) {
  check<ShapeError>(
      t.defined() && t.shape() == expected, "{}: {}: expected {}, got {}", op, name, expected, t.describe());
}

void check_rank(const Tensor& t, int rank, const char* op, const char* name) {
  check<ShapeError>(t.defined() && t.rank() == rank, "{}: {}: expected rank {}, got {}", op, name, rank, t.describe());
}

void check_dtype(const Tensor& t, DType expected, const char* op, const char* name) {
  check<DTypeError>(
      t.defined() && t.dtype() == expected, "{}: {}: expected {}, got {}", op, name, name_of(expected), t.describe());
}

#define AVID_INSTANTIATE(Elem)                                                    \
  template Tensor Tensor::from_values<Elem>(std::span<const Elem>, const Shape&); \
  template std::vector<Elem> Tensor::to_values<Elem>() const;
AVID_INSTANTIATE(double)
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(bf16)
AVID_INSTANTIATE(f16)
AVID_INSTANTIATE(std::int64_t)
AVID_INSTANTIATE(std::int32_t)
AVID_INSTANTIATE(std::uint8_t)
#undef AVID_INSTANTIATE

}  // namespace avid
