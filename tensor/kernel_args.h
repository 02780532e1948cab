// tensor/kernel_args.h -- from tensors to the raw pointers that kernels take, and the checks that every op needs first
#pragma once

#include <initializer_list>

#include "kernels/rows.h"
#include "tensor/tensor.h"

namespace avid {

/// The rows of t for reading; null when t is undefined.
template <class Elem>
kernels::Rows<const Elem> rows_of(const Tensor& t) {
  if (!t.defined()) return {};
  return {t.data<Elem>(), t.pitch()};
}

/// The rows of t for writing; null when t is undefined.
template <class Elem>
kernels::Rows<Elem> mutable_rows_of(Tensor& t) {
  if (!t.defined()) return {};
  return {t.data<Elem>(), t.pitch()};
}

/// One tensor argument of an op, by the name that messages use.
struct NamedTensor {
  const char* name;
  const Tensor& tensor;
};

/// Throws DTypeError unless the first tensor is f32 or f64 and the other defined ones have its type, DeviceError unless
/// all are on the CPU (the only device this op runs on in this build).
inline void check_cpu_args(const char* op, std::initializer_list<NamedTensor> args) {
  const NamedTensor& first = *args.begin();
  for (const NamedTensor& arg : args) {
    if (!arg.tensor.defined()) {
      check<ShapeError>(&arg != &first, "{}: {}: expected a tensor, got an undefined one", op, arg.name);
      continue;
    }
    if (&arg == &first) {
      const DType t = arg.tensor.dtype();
      check<DTypeError>(
          t == DType::f32 || t == DType::f64, "{}: {}: expected f32 or f64, got {}", op, arg.name, name_of(t));
    }
    check_dtype(arg.tensor, first.tensor.dtype(), op, arg.name);
    check<DeviceError>(
        arg.tensor.device().kind == DeviceKind::cpu, "{}: {}: expected a tensor on cpu, got one on {}", op, arg.name,
        arg.tensor.device().to_string());
  }
}

}  // namespace avid
