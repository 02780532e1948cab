// tensor/ops/unet_input.cpp -- checks and allocation of unet_input
#include "tensor/ops/unet_input.h"

#include "kernels/unet_input.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "unet_input";

}  // namespace

Tensor unet_input_fwd(const Tensor& cond, const Tensor& x_t, const Tensor& base) {
  detail::check_float(x_t, kOp, "x_t");
  check_rank(x_t, 5, kOp, "x_t");
  check_rank(cond, 5, kOp, "cond");
  const std::int64_t B = x_t.dim(0), T = x_t.dim(1), H = x_t.dim(2), W = x_t.dim(3), C = x_t.dim(4), K = cond.dim(1);
  detail::check_operand(cond, {B, K, H, W, C}, x_t.dtype(), kOp, "cond");
  detail::check_same_device(cond, x_t, kOp, "cond");
  if (base.defined()) detail::check_like(base, x_t, kOp, "base");
  Tensor out =
      Tensor::uninitialised(x_t.shape().with_cols(C * K + C + (base.defined() ? C : 0)), x_t.dtype(), x_t.device());
  if (x_t.device().is_gpu()) {
    dispatch_f32_bf16(x_t.dtype(), kOp, [&]<class Elem>() {
      on_device(x_t.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::unet_input_fwd<Backend, Elem>(
            stream, {.B = B, .T = T, .K = K, .S = H * W, .C = C}, device_rows_of<Elem>(cond), device_rows_of<Elem>(x_t),
            device_rows_of<Elem>(base), device_mutable_rows_of<Elem>(out));
      });
    });
    return out;
  }
  dispatch_f32_f64(x_t.dtype(), kOp, [&]<class Elem>() {
    kernels::unet_input_fwd<Elem>(
        {.B = B, .T = T, .K = K, .S = H * W, .C = C}, detail::rows_of<Elem>(cond), detail::rows_of<Elem>(x_t),
        detail::rows_of<Elem>(base), detail::mutable_rows_of<Elem>(out));
  });
  return out;
}

UnetInputGrads unet_input_bwd(
    const Tensor& d_out, std::int64_t num_cond_channels, std::int64_t num_colours, bool needs_x_t, bool needs_base) {
  detail::check_float(d_out, kOp, "d_out");
  check_rank(d_out, 5, kOp, "d_out");
  const Shape shape = d_out.shape().with_cols(num_colours);
  UnetInputGrads grads;
  if (needs_x_t) grads.d_x_t = Tensor::empty(shape, d_out.dtype(), d_out.device());
  if (needs_base) grads.d_base = Tensor::empty(shape, d_out.dtype(), d_out.device());
  const kernels::UnetInputSizes size{
      .B = d_out.dim(0),
      .T = d_out.dim(1),
      .K = num_cond_channels / num_colours,
      .S = d_out.dim(2) * d_out.dim(3),
      .C = num_colours};
  if (d_out.device().is_gpu()) {
    dispatch_f32_bf16(d_out.dtype(), kOp, [&]<class Elem>() {
      on_device(d_out.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::unet_input_bwd<Backend, Elem>(
            stream, size, device_rows_of<Elem>(d_out), device_mutable_rows_of<Elem>(grads.d_x_t),
            device_mutable_rows_of<Elem>(grads.d_base));
      });
    });
    return grads;
  }
  dispatch_f32_f64(d_out.dtype(), kOp, [&]<class Elem>() {
    kernels::unet_input_bwd<Elem>(
        size, detail::rows_of<Elem>(d_out), detail::mutable_rows_of<Elem>(grads.d_x_t),
        detail::mutable_rows_of<Elem>(grads.d_base));
  });
  return grads;
}

}  // namespace avid
