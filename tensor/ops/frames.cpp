// tensor/ops/frames.cpp -- checks and allocation of the pixel conversions
#include "tensor/ops/frames.h"

#include "kernels/frames.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {

Tensor frames_from_u8(const Tensor& u, DType dtype) {
  check_dtype(u, DType::u8, "frames_from_u8", "u");
  if (u.device().is_gpu()) {
    Tensor out = Tensor::uninitialised(u.shape(), dtype, u.device());
    dispatch_f32_bf16(dtype, "frames_from_u8", [&]<class Elem>() {
      on_device(u.device(), "frames_from_u8", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::frames_from_u8<Backend, Elem>(
            stream, device_rows_of<std::uint8_t>(u), u.rows(), u.cols(), device_mutable_rows_of<Elem>(out));
      });
    });
    return out;
  }
  check<DTypeError>(
      dtype == DType::f32 || dtype == DType::f64, "frames_from_u8: dtype: expected f32 or f64, got {}", name_of(dtype));
  Tensor out = Tensor::empty(u.shape(), dtype);
  dispatch_f32_f64(dtype, "frames_from_u8", [&]<class Elem>() {
    kernels::frames_from_u8<Elem>(
        detail::rows_of<std::uint8_t>(u), u.rows(), u.cols(), detail::mutable_rows_of<Elem>(out));
  });
  return out;
}

Tensor frames_to_u8(const Tensor& x) {
  detail::check_float(x, "frames_to_u8", "x");
  Tensor out = Tensor::empty(x.shape(), DType::u8, x.device());
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "frames_to_u8", [&]<class Elem>() {
      on_device(x.device(), "frames_to_u8", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::frames_to_u8<Backend, Elem>(
            stream, device_rows_of<Elem>(x), x.rows(), x.cols(), device_mutable_rows_of<std::uint8_t>(out));
      });
    });
    return out;
  }
  dispatch_f32_f64(x.dtype(), "frames_to_u8", [&]<class Elem>() {
    kernels::frames_to_u8<Elem>(
        detail::rows_of<Elem>(x), x.rows(), x.cols(), detail::mutable_rows_of<std::uint8_t>(out));
  });
  return out;
}

}  // namespace avid
