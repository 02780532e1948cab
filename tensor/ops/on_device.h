// tensor/ops/on_device.h -- from an op to the kernels of a GPU backend
//
//   if (x.device().is_gpu()) {
//     dispatch_f32_bf16(x.dtype(), "mask_mix", [&]<class Elem>() {
//       on_device(x.device(), "mask_mix", [&]<class Backend>(const kernels::Stream& stream) {
//         kernels::mask_mix_fwd<Backend, Elem>(stream, {.base = device_rows_of<Elem>(base), ...});
//       });
//     });
//     return out;
//   }
#pragma once

#include "kernels/device/backend.h"
#include "kernels/device/runtime.h"
#include "kernels/op_timer.h"
#include "kernels/rows.h"
#include "tensor/tensor.h"

namespace avid {

/// Calls f.operator()<Backend>(stream) with kernels::Cuda or kernels::Sim. DeviceError, naming the op, for the CPU and
/// for a backend that this build lacks (f is not instantiated for it).
template <class F>
auto on_device(Device device, const char* op, F&& f)
    -> decltype(f.template operator()<kernels::Sim>(kernels::Stream{})) {  // the same type for every backend
#if AVID_HAVE_CUDA
  if (device.kind == DeviceKind::cuda)
    return f.template operator()<kernels::Cuda>(kernels::device_stream<kernels::Cuda>(device.index));
#endif
#if AVID_HAVE_SIM
  if (device.kind == DeviceKind::sim)
    return f.template operator()<kernels::Sim>(kernels::device_stream<kernels::Sim>(device.index));
#endif
  detail::fail_no_backend(device, op);
}

/// Calls f.operator()<float>() or f.operator()<BFloat16>(): the element types of activations on a device. DTypeError
/// for others.
template <class F>
decltype(auto) dispatch_f32_bf16(DType dtype, const char* op, F&& f) {
  if (dtype == DType::f32) return f.template operator()<float>();
  if (dtype == DType::bf16) return f.template operator()<BFloat16>();
  fail<DTypeError>("{}: expected f32 or bf16 on a device, got {} | f64 is offered by the CPU only", op, name_of(dtype));
}

/// First element, as a device pointer; null when t is undefined. The type must match.
template <class Elem>
const Elem* device_data(const Tensor& t) {
  if (!t.defined()) return nullptr;
  return static_cast<const Elem*>(t.device_pointer(dtype_of<Elem>));
}
template <class Elem>
Elem* device_mutable_data(Tensor& t) {
  if (!t.defined()) return nullptr;
  return static_cast<Elem*>(t.device_pointer(dtype_of<Elem>));
}

/// The rows of t as device pointers; absent when t is undefined. The type must match.
template <class Elem>
kernels::Rows<const Elem> device_rows_of(const Tensor& t) {
  return {device_data<Elem>(t), t.pitch()};
}
template <class Elem>
kernels::Rows<Elem> device_mutable_rows_of(Tensor& t) {
  return {device_mutable_data<Elem>(t), t.pitch()};
}

/// Memory for a kernel's intermediate results beside `like`; undefined, and its pointer null, when bytes is 0.
inline Tensor device_workspace(std::int64_t bytes, const Tensor& like) {
  if (bytes <= 0) return {};
  Tensor workspace = Tensor::empty({(bytes + 3) / 4}, DType::f32, like.device());
  kernels::note_operand(workspace.device_pointer(DType::f32), 0, 0);  // not what the op has to move
  return workspace;
}

}  // namespace avid
