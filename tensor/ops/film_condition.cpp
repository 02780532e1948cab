// tensor/ops/film_condition.cpp -- checks and allocation of film_condition
#include "tensor/ops/film_condition.h"

#include "kernels/film_condition.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "film_condition";

}  // namespace

Tensor film_condition_fwd(const Tensor& time_code, const Tensor& action_code, std::int64_t num_frames) {
  detail::check_float(time_code, kOp, "time_code");
  check_rank(time_code, 2, kOp, "time_code");
  check<ShapeError>(num_frames >= 0, "{}: num_frames: expected >= 0, got {}", kOp, num_frames);
  const std::int64_t B = time_code.dim(0), E = time_code.dim(1);
  if (action_code.defined()) {
    check_rank(action_code, 3, kOp, "action_code");
    detail::check_operand(action_code, {B, num_frames, action_code.dim(2)}, time_code.dtype(), kOp, "action_code");
    detail::check_same_device(action_code, time_code, kOp, "action_code");
  }
  const std::int64_t A = action_code.defined() ? action_code.dim(2) : 0;
  Tensor out = Tensor::empty({B, num_frames, E + A}, time_code.dtype(), time_code.device());
  if (time_code.device().is_gpu()) {
    dispatch_f32_bf16(time_code.dtype(), kOp, [&]<class Elem>() {
      on_device(time_code.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::film_condition_fwd<Backend, Elem>(
            stream, {.B = B, .T = num_frames, .time_width = E, .action_width = A}, device_rows_of<Elem>(time_code),
            device_rows_of<Elem>(action_code), device_mutable_rows_of<Elem>(out));
      });
    });
    return out;
  }
  dispatch_f32_f64(time_code.dtype(), kOp, [&]<class Elem>() {
    kernels::film_condition_fwd<Elem>(
        {.B = B, .T = num_frames, .time_width = E, .action_width = A}, detail::rows_of<Elem>(time_code),
        detail::rows_of<Elem>(action_code), detail::mutable_rows_of<Elem>(out));
  });
  return out;
}

FilmConditionGrads film_condition_bwd(
    const Tensor& d_out, std::int64_t time_width, bool needs_time, bool needs_action) {
  detail::check_float(d_out, kOp, "d_out");
  check_rank(d_out, 3, kOp, "d_out");
  const std::int64_t B = d_out.dim(0), T = d_out.dim(1), A = d_out.dim(2) - time_width;
  FilmConditionGrads grads;
  if (needs_time) grads.d_time_code = Tensor::empty({B, time_width}, d_out.dtype(), d_out.device());
  if (needs_action) grads.d_action_code = Tensor::empty({B, T, A}, d_out.dtype(), d_out.device());
  if (d_out.device().is_gpu()) {
    dispatch_f32_bf16(d_out.dtype(), kOp, [&]<class Elem>() {
      on_device(d_out.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::film_condition_bwd<Backend, Elem>(
            stream, {.B = B, .T = T, .time_width = time_width, .action_width = A}, device_rows_of<Elem>(d_out),
            device_mutable_rows_of<Elem>(grads.d_time_code), device_mutable_rows_of<Elem>(grads.d_action_code));
      });
    });
    return grads;
  }
  dispatch_f32_f64(d_out.dtype(), kOp, [&]<class Elem>() {
    kernels::film_condition_bwd<Elem>(
        {.B = B, .T = T, .time_width = time_width, .action_width = A}, detail::rows_of<Elem>(d_out),
        detail::mutable_rows_of<Elem>(grads.d_time_code), detail::mutable_rows_of<Elem>(grads.d_action_code));
  });
  return grads;
}

}  // namespace avid
