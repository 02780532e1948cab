// tensor/ops/timestep_code.cpp -- checks and allocation of timestep_code
#include "tensor/ops/timestep_code.h"

#include "kernels/timestep_code.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {

Tensor timestep_code(const Tensor& t_any, std::int64_t width, DType dtype) {
  check_rank(t_any, 1, "timestep_code", "t");
  check_dtype(t_any, DType::i64, "timestep_code", "t");
  check<ShapeError>(width >= 4 && width % 2 == 0, "timestep_code: width: expected even and at least 4, got {}", width);
  if (t_any.device().is_gpu()) {
    const Tensor t = detail::usual_pitch(t_any);
    Tensor out = Tensor::empty({t.dim(0), width}, dtype, t.device());
    dispatch_f32_bf16(dtype, "timestep_code", [&]<class Elem>() {
      on_device(t.device(), "timestep_code", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::timestep_code<Backend, Elem>(
            stream, device_data<std::int64_t>(t), t.dim(0), width, device_mutable_rows_of<Elem>(out));
      });
    });
    return out;
  }
  check<DTypeError>(
      dtype == DType::f32 || dtype == DType::f64, "timestep_code: dtype: expected f32 or f64, got {}", name_of(dtype));
  const Tensor t = detail::usual_pitch(t_any);
  Tensor out = Tensor::empty({t.dim(0), width}, dtype);
  dispatch_f32_f64(dtype, "timestep_code", [&]<class Elem>() {
    kernels::timestep_code<Elem>(t.data<std::int64_t>(), t.dim(0), width, detail::mutable_rows_of<Elem>(out));
  });
  return out;
}

}  // namespace avid
