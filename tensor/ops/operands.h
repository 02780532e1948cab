// tensor/ops/operands.h -- checks and small helpers that many ops share
#pragma once

#include "kernels/dispatch_stats.h"
#include "kernels/rows.h"
#include "tensor/tensor.h"

namespace avid::detail {

/// Throws unless t is defined and of a type that its device computes in: f32 or f64 on the CPU, f32 or bf16 elsewhere.
inline void check_float(const Tensor& t, const char* op, const char* name) {
  if (t.defined() && t.device().is_gpu()) {
    check<DTypeError>(
        t.dtype() == DType::f32 || t.dtype() == DType::bf16, "{}: {}: expected f32 or bf16 on {}, got {}", op, name,
        t.device().to_string(), t.describe());
    return;
  }
  check<DTypeError>(
      t.defined() && (t.dtype() == DType::f32 || t.dtype() == DType::f64), "{}: {}: expected f32 or f64, got {}", op,
      name, t.describe());
}

/// Throws unless t lives where `like` does.
inline void check_same_device(const Tensor& t, const Tensor& like, const char* op, const char* name) {
  check<DeviceError>(
      t.device() == like.device(), "{}: {}: expected a tensor on {}, got one on {}", op, name,
      like.device().to_string(), t.device().to_string());
}

/// Throws unless t has the shape, dtype and device of `like`.
inline void check_like(const Tensor& t, const Tensor& like, const char* op, const char* name) {
  check_shape(t, like.shape(), op, name);
  check_dtype(t, like.dtype(), op, name);
  check_same_device(t, like, op, name);
}

/// Throws unless t has this shape and the dtype `dtype`.
inline void check_operand(const Tensor& t, const Shape& shape, DType dtype, const char* op, const char* name) {
  check_shape(t, shape, op, name);
  check_dtype(t, dtype, op, name);
}

/// The element type of vectors of parameters (gamma, biases, FiLM, ...) beside activations like x: that of x on the
/// CPU, always f32 on a device. Gradients of parameters have it too.
inline DType parameter_dtype(const Tensor& x) { return x.device().is_gpu() ? DType::f32 : x.dtype(); }

/// Throws unless t has this shape, the parameter_dtype of x and its device.
inline void check_parameter(const Tensor& t, const Shape& shape, const Tensor& x, const char* op, const char* name) {
  check_operand(t, shape, parameter_dtype(x), op, name);
  check_same_device(t, x, op, name);
}

/// As check_parameter for the operand film, which on a device may also have x's type, as a linear layer left it: the
/// caller converts it.
inline void check_film(const Tensor& film, const Shape& shape, const Tensor& x, const char* op) {
  if (x.device().is_gpu() && film.dtype() == x.dtype()) {
    check_shape(film, shape, op, "film");
    check_same_device(film, x, op, "film");
  } else {
    check_parameter(film, shape, x, op, "film");
  }
}

/// t itself when its rows have the usual pitch, otherwise (mapped files, slices of vectors) a copy that has it. Kernels
/// that run over whole buffers, gaps included, need the same pitch everywhere.
inline Tensor usual_pitch(const Tensor& t) {
  if (t.pitch() == row_pitch(t.shape(), t.dtype())) return t;
  kernels::note_slow_path("usual_pitch", "rows copied");
  return t.clone();
}

/// Elements of the buffer, gaps included.
inline std::int64_t buffer_elements(const Tensor& t) { return t.rows() * t.pitch(); }

/// The rows of a tensor for a kernel; absent when it is undefined.
template <class Elem>
kernels::Rows<const Elem> rows_of(const Tensor& t) {
  return t.defined() ? kernels::Rows<const Elem>{t.data<Elem>(), t.pitch()} : kernels::Rows<const Elem>{};
}
template <class Elem>
kernels::Rows<Elem> mutable_rows_of(Tensor& t) {
  return t.defined() ? kernels::Rows<Elem>{t.data<Elem>(), t.pitch()} : kernels::Rows<Elem>{};
}
/// First element for a kernel; null when undefined.
template <class Elem>
const Elem* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<Elem>() : nullptr;
}
template <class Elem>
Elem* mutable_data_or_null(Tensor& t) {
  return t.defined() ? t.data<Elem>() : nullptr;
}

}  // namespace avid::detail
