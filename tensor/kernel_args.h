// tensor/kernel_args.h -- from tensors to the raw pointers that kernels take, and the checks that every op needs first
#pragma once

#include <initializer_list>

#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"
#include "tensor/tensor.h"

namespace avid {

using detail::mutable_rows_of;
using detail::rows_of;

/// One tensor argument of an op, by the name that messages use.
struct NamedTensor {
  const char* name;
  const Tensor& tensor;
};

/// Throws DTypeError unless the first tensor is of a type that its device computes in (f32 or f64 on the CPU, f32 or
/// bf16 on a GPU backend) and the other defined ones have its type, DeviceError unless all are in one place.
inline void check_args(const char* op, std::initializer_list<NamedTensor> args) {
  const NamedTensor& first = *args.begin();
  check<ShapeError>(first.tensor.defined(), "{}: {}: expected a tensor, got an undefined one", op, first.name);
  detail::check_float(first.tensor, op, first.name);
  for (const NamedTensor& arg : args) {
    if (!arg.tensor.defined()) continue;
    check_dtype(arg.tensor, first.tensor.dtype(), op, arg.name);
    detail::check_same_device(arg.tensor, first.tensor, op, arg.name);
  }
}

}  // namespace avid
