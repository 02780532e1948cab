// tensor/ops/conv_transpose3d.cpp -- checks, allocation and dispatch of conv_transpose3d
#include "tensor/ops/conv_transpose3d.h"

#include "kernels/conv_transpose3d.h"
#include "kernels/op_timer.h"
#include "tensor/kernel_args.h"
#include "tensor/ops/conv3d_size.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/on_device.h"

namespace avid {
namespace {

using kernels::ConvTranspose3dSize;

ConvTranspose3dSize size_of_conv(const char* op, const Shape& x, const Shape& w, const Conv3dOptions& options) {
  check<ShapeError>(x.rank() == 5, "{}: x: expected rank 5 [B,T,H,W,I], got {}", op, x);
  check<ShapeError>(w.rank() == 5, "{}: w: expected rank 5 [I,kt,kh,kw,O], got {}", op, w);
  check<ShapeError>(
      w[0] == x.cols(), "{}: w: expected {} input channels in the first dimension (x is {}), got {}", op, x.cols(), x,
      w);
  ConvTranspose3dSize s{.B = x[0], .I = x.cols(), .O = w.cols(), .stride = options.stride, .padding = options.padding};
  for (int d = 0; d < 3; ++d) {
    const auto i = static_cast<std::size_t>(d);
    s.in[i] = x[d + 1];
    s.kernel[i] = w[d + 1];
    check<ShapeError>(s.in[i] >= 1, "{}: x: expected at least one frame, row and column, got {}", op, x);
    check<ShapeError>(s.kernel[i] >= 1, "{}: w: expected kernel extents of at least 1, got {}", op, w);
    check<ShapeError>(s.stride[i] >= 1, "{}: stride: expected at least 1 in every dimension, got {}", op, s.stride[i]);
    check<ShapeError>(
        s.padding[i] >= 0, "{}: padding: expected at least 0 in every dimension, got {}", op, s.padding[i]);
    s.out[i] = (s.in[i] - 1) * s.stride[i] - 2 * s.padding[i] + s.kernel[i];
    check<ShapeError>(
        s.out[i] >= 1, "{}: x: {} with kernel {} and padding {} leaves no output in dimension {}", op, x, w,
        s.padding[i], d + 1);
  }
  return s;
}

Shape out_shape(const ConvTranspose3dSize& s) { return {s.B, s.out[0], s.out[1], s.out[2], s.O}; }

}  // namespace

Tensor conv_transpose3d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& options) {
  if (detail::is_emulated_bf16(x))
    return detail::narrowed(conv_transpose3d(detail::widened(x), detail::widened(w), bias, options));
  check_args("conv_transpose3d", {{"x", x}, {"w", w}});
  const ConvTranspose3dSize s = size_of_conv("conv_transpose3d", x.shape(), w.shape(), options);
  if (bias.defined()) detail::check_parameter(bias, {s.O}, x, "conv_transpose3d", "bias");
  kernels::note_flops(s.flops());
  detail::note_conv_sizes("fwd", s);
  Tensor out = Tensor::uninitialised(out_shape(s), x.dtype(), x.device());  // [B,T',H',W',O]
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "conv_transpose3d", [&]<class Elem>() {
      Tensor workspace = device_workspace(kernels::conv_transpose3d_fwd_workspace_bytes<Elem>(s), x);
      on_device(x.device(), "conv_transpose3d", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::conv_transpose3d_fwd<Backend, Elem>(
            stream, s, device_rows_of<Elem>(x), device_rows_of<Elem>(w), device_data<float>(bias),
            device_mutable_rows_of<Elem>(out), device_mutable_data<float>(workspace));
      });
    });
    return out;
  }
  dispatch_f32_f64(x.dtype(), "conv_transpose3d", [&]<class Elem>() {
    kernels::conv_transpose3d_fwd(
        s, rows_of<Elem>(x), rows_of<Elem>(w), rows_of<Elem>(bias).data, mutable_rows_of<Elem>(out));
  });
  return out;
}

Tensor conv_transpose3d_bwd_data(
    const Tensor& d_out, const Tensor& w, const Shape& x_shape, const Conv3dOptions& options) {
  if (detail::is_emulated_bf16(d_out))
    return detail::narrowed(conv_transpose3d_bwd_data(detail::widened(d_out), detail::widened(w), x_shape, options));
  check_args("conv_transpose3d_bwd_data", {{"d_out", d_out}, {"w", w}});
  const ConvTranspose3dSize s = size_of_conv("conv_transpose3d_bwd_data", x_shape, w.shape(), options);
  check_shape(d_out, out_shape(s), "conv_transpose3d_bwd_data", "d_out");
  kernels::note_flops(s.flops());
  detail::note_conv_sizes("data", s);
  Tensor d_x = Tensor::uninitialised(x_shape, d_out.dtype(), d_out.device());
  if (d_out.device().is_gpu()) {
    dispatch_f32_bf16(d_out.dtype(), "conv_transpose3d_bwd_data", [&]<class Elem>() {
      on_device(d_out.device(), "conv_transpose3d_bwd_data", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::conv_transpose3d_bwd_data<Backend, Elem>(
            stream, s, device_rows_of<Elem>(d_out), device_rows_of<Elem>(w), device_mutable_rows_of<Elem>(d_x));
      });
    });
    return d_x;
  }
  dispatch_f32_f64(d_out.dtype(), "conv_transpose3d_bwd_data", [&]<class Elem>() {
    kernels::conv_transpose3d_bwd_data(s, rows_of<Elem>(d_out), rows_of<Elem>(w), mutable_rows_of<Elem>(d_x));
  });
  return d_x;
}

Conv3dWeightGrads conv_transpose3d_bwd_weight(
    const Tensor& d_out, const Tensor& x, const Shape& w_shape, const Conv3dOptions& options, bool needs_w,
    bool needs_bias) {
  if (detail::is_emulated_bf16(d_out))
    return conv_transpose3d_bwd_weight(
        detail::widened(d_out), detail::widened(x), w_shape, options, needs_w, needs_bias);
  check_args("conv_transpose3d_bwd_weight", {{"d_out", d_out}, {"x", x}});
  ConvTranspose3dSize s;
  if (needs_w) {
    check<ShapeError>(x.defined(), "conv_transpose3d_bwd_weight: x: expected a tensor, got an undefined one");
    s = size_of_conv("conv_transpose3d_bwd_weight", x.shape(), w_shape, options);
    check_shape(d_out, out_shape(s), "conv_transpose3d_bwd_weight", "d_out");
    kernels::note_flops(s.flops());
    detail::note_conv_sizes("weights", s);
  } else {
    check_rank(d_out, 5, "conv_transpose3d_bwd_weight", "d_out");
    s = {.B = d_out.dim(0), .out = {d_out.dim(1), d_out.dim(2), d_out.dim(3)}, .O = d_out.cols()};
  }
  Conv3dWeightGrads grads;
  const DType grad_dtype = detail::parameter_dtype(d_out);
  if (needs_w) grads.d_w = Tensor::empty(w_shape, grad_dtype, d_out.device());
  if (needs_bias) grads.d_bias = Tensor::empty({s.O}, grad_dtype, d_out.device());
  if (d_out.device().is_gpu()) {
    dispatch_f32_bf16(d_out.dtype(), "conv_transpose3d_bwd_weight", [&]<class Elem>() {
      Tensor workspace = device_workspace(kernels::conv_transpose3d_bwd_weight_workspace_bytes<Elem>(s), d_out);
      on_device(d_out.device(), "conv_transpose3d_bwd_weight", [&]<class Backend>(const kernels::Stream& stream) {
        kernels::conv_transpose3d_bwd_weight<Backend, Elem>(
            stream, s, device_rows_of<Elem>(d_out), device_rows_of<Elem>(x), device_mutable_rows_of<float>(grads.d_w),
            device_mutable_data<float>(grads.d_bias), device_mutable_data<float>(workspace));
      });
    });
    return grads;
  }
  dispatch_f32_f64(d_out.dtype(), "conv_transpose3d_bwd_weight", [&]<class Elem>() {
    kernels::conv_transpose3d_bwd_weight(
        s, rows_of<Elem>(d_out), rows_of<Elem>(x), mutable_rows_of<Elem>(grads.d_w),
        mutable_rows_of<Elem>(grads.d_bias).data);
  });
  return grads;
}

}  // namespace avid
