// tensor/ops/conv3d.cpp -- checks, allocation and dispatch of conv3d
#include "tensor/ops/conv3d.h"

#include "kernels/conv3d.h"
#include "kernels/op_name.h"
#include "kernels/op_timer.h"
#include "tensor/kernel_args.h"
#include "tensor/ops/conv3d_size.h"
#include "tensor/ops/elementwise.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/library_route.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {

using kernels::Conv3dSize;

namespace detail {

Conv3dSize size_of_conv(const char* op, const Shape& x, const Shape& x2, const Shape& w, const Conv3dOptions& options) {
  check<ShapeError>(x.rank() == 5, "{}: x: expected rank 5 [B,T,H,W,I], got {}", op, x);
  check<ShapeError>(w.rank() == 5, "{}: w: expected rank 5 [O,kt,kh,kw,I], got {}", op, w);
  const std::int64_t I2 = x2.rank() == 0 ? 0 : x2.cols();
  check<ShapeError>(
      x2.rank() == 0 || x2 == x.with_cols(I2), "{}: x2: expected {} (x with any number of channels), got {}", op,
      x.with_cols(I2), x2);
  check<ShapeError>(
      w.cols() == x.cols() + I2, "{}: w: expected {} input channels in the last dimension (x has {}, x2 {}), got {}",
      op, x.cols() + I2, x.cols(), I2, w);
  Conv3dSize s{.B = x[0], .I = x.cols(), .I2 = I2, .O = w[0], .stride = options.stride, .padding = options.padding};
  for (int d = 0; d < 3; ++d) {
    const auto i = static_cast<std::size_t>(d);
    s.in[i] = x[d + 1];
    s.kernel[i] = w[d + 1];
    check<ShapeError>(s.kernel[i] >= 1, "{}: w: expected kernel extents of at least 1, got {}", op, w);
    check<ShapeError>(s.stride[i] >= 1, "{}: stride: expected at least 1 in every dimension, got {}", op, s.stride[i]);
    check<ShapeError>(
        s.padding[i] >= 0, "{}: padding: expected at least 0 in every dimension, got {}", op, s.padding[i]);
    const std::int64_t room = s.in[i] + 2 * s.padding[i] - s.kernel[i];
    check<ShapeError>(
        room >= 0, "{}: x: {} is smaller than the kernel of w {} with padding {} in dimension {}", op, x, w,
        s.padding[i], d + 1);
    s.out[i] = room / s.stride[i] + 1;
  }
  return s;
}

void note_conv(const char* pass, const Conv3dSize& s, double more_flops) {
  kernels::note_variant({pass, s.kernel});
  kernels::note_flops(s.flops() + more_flops);
  note_conv_sizes(pass, s);
  kernels::note_sizes({{"channels2", s.I2}});
}

}  // namespace detail

namespace {

Shape out_shape(const Conv3dSize& s) { return {s.B, s.out[0], s.out[1], s.out[2], s.O}; }

using kernels::vendor::ConvPass;
using kernels::vendor::ConvPitches;

/// Ours, or cuDNN's with the workspace that it asks for: `run(workspace)`.
template <class Elem, class Native, class Run>
void conv_either(
    const kernels::Stream& stream, const Tensor& like, ConvPass pass, const Conv3dSize& s, const ConvPitches& pitches,
    Native&& native, Run&& run) {
  constexpr auto kType =
      std::is_same_v<Elem, float> ? kernels::vendor::ElementType::f32 : kernels::vendor::ElementType::bf16;
  const auto library = [&] {
    Tensor workspace = device_workspace(kernels::vendor::library_conv3d_workspace_bytes<Elem>(pass, s, pitches), like);
    run(device_mutable_data<float>(workspace));
  };
  detail::run_either(
      detail::Family::conv, stream, [&] { return kernels::vendor::describe(pass, kType, s); }, native, library);
}

Shape shape_or_none(const Tensor& t) { return t.defined() ? t.shape() : Shape{}; }

}  // namespace

Tensor conv3d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& options, const Tensor& x2) {
  if (detail::is_emulated_bf16(x))
    return detail::narrowed(conv3d(detail::widened(x), detail::widened(w), bias, options, detail::widened(x2)));
  check_args("conv3d", {{"x", x}, {"w", w}, {"x2", x2}});
  const Conv3dSize s = detail::size_of_conv("conv3d", x.shape(), shape_or_none(x2), w.shape(), options);
  if (bias.defined()) detail::check_parameter(bias, {s.O}, x, "conv3d", "bias");
  detail::note_conv("fwd", s);
  Tensor out = Tensor::uninitialised(out_shape(s), x.dtype(), x.device());  // [B,T',H',W',O]
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "conv3d", [&]<class Elem>() {
      const auto x_rows = device_rows_of<Elem>(x), x2_rows = device_rows_of<Elem>(x2), w_rows = device_rows_of<Elem>(w);
      const auto out_rows = device_mutable_rows_of<Elem>(out);
      const float* bias_data = device_data<float>(bias);
      on_device(x.device(), "conv3d", [&]<class Backend>(const kernels::Stream& stream) {
        const auto native = [&] {
          Tensor workspace = device_workspace(kernels::conv3d_fwd_workspace_bytes<Elem>(s), x);
          kernels::conv3d_fwd<Backend, Elem>(
              stream, s, x_rows, x2_rows, w_rows, bias_data, out_rows, device_mutable_data<float>(workspace));
        };
        if constexpr (detail::kHasLibraries<Backend>) {
          if (out.numel() > 0)
            return conv_either<Elem>(
                stream, x, ConvPass::fwd, s, {x_rows.pitch, w_rows.pitch, out_rows.pitch}, native,
                [&](void* workspace) {
                  out.zero_gaps();
                  kernels::vendor::library_conv3d_fwd<Elem>(
                      stream, s, x_rows, x2_rows, w_rows, bias_data, out_rows, workspace);
                });
        }
        native();
      });
    });
    return out;
  }
  dispatch_f32_f64(x.dtype(), "conv3d", [&]<class Elem>() {
    kernels::conv3d_fwd(
        s, rows_of<Elem>(x), rows_of<Elem>(x2), rows_of<Elem>(w), rows_of<Elem>(bias).data, mutable_rows_of<Elem>(out));
  });
  return out;
}

Conv3dInputGrads conv3d_bwd_data(
    const Tensor& d_out, const Tensor& w, const Shape& x_shape, const Shape& x2_shape, const Conv3dOptions& options,
    bool needs_x, bool needs_x2, const Tensor& add_x, const Tensor& add_x2) {
  if (detail::is_emulated_bf16(d_out)) {
    const Conv3dInputGrads wide = conv3d_bwd_data(
        detail::widened(d_out), detail::widened(w), x_shape, x2_shape, options, needs_x, needs_x2,
        detail::widened(add_x), detail::widened(add_x2));
    return {detail::narrowed(wide.d_x), detail::narrowed(wide.d_x2)};
  }
  check_args("conv3d_bwd_data", {{"d_out", d_out}, {"w", w}, {"add_x", add_x}, {"add_x2", add_x2}});
  const Conv3dSize s = detail::size_of_conv("conv3d_bwd_data", x_shape, x2_shape, w.shape(), options);
  check_shape(d_out, out_shape(s), "conv3d_bwd_data", "d_out");
  if (add_x.defined()) check_shape(add_x, x_shape, "conv3d_bwd_data", "add_x");
  if (add_x2.defined()) check_shape(add_x2, x2_shape, "conv3d_bwd_data", "add_x2");
  detail::note_conv("data", s);
  Conv3dInputGrads grads;
  if (needs_x) grads.d_x = Tensor::uninitialised(x_shape, d_out.dtype(), d_out.device());
  if (needs_x2 && x2_shape.rank() > 0) grads.d_x2 = Tensor::uninitialised(x2_shape, d_out.dtype(), d_out.device());
  if (d_out.device().is_gpu()) {
    const Tensor added = needs_x && add_x.defined() ? detail::usual_pitch(add_x) : Tensor();
    const Tensor added2 = needs_x2 && add_x2.defined() ? detail::usual_pitch(add_x2) : Tensor();
    dispatch_f32_bf16(d_out.dtype(), "conv3d_bwd_data", [&]<class Elem>() {
      const auto d_out_rows = device_rows_of<Elem>(d_out), w_rows = device_rows_of<Elem>(w),
                 add_rows = device_rows_of<Elem>(added), add2_rows = device_rows_of<Elem>(added2);
      const auto d_x_rows = device_mutable_rows_of<Elem>(grads.d_x),
                 d_x2_rows = device_mutable_rows_of<Elem>(grads.d_x2);
      on_device(d_out.device(), "conv3d_bwd_data", [&]<class Backend>(const kernels::Stream& stream) {
        const auto native = [&] {
          Tensor workspace = device_workspace(kernels::conv3d_bwd_data_workspace_bytes<Elem>(s), d_out);
          kernels::conv3d_bwd_data<Backend, Elem>(
              stream, s, d_out_rows, w_rows, d_x_rows, d_x2_rows, device_mutable_data<float>(workspace), add_rows,
              add2_rows);
        };
        if constexpr (detail::kHasLibraries<Backend>) {
          if (d_out.numel() > 0 && s.in_positions() > 0)
            return conv_either<Elem>(
                stream, d_out, ConvPass::bwd_data, s,
                kernels::vendor::bwd_data_pitches(d_x_rows, w_rows.pitch, d_out_rows.pitch), native,
                [&](void* workspace) {
                  for (Tensor* d : {&grads.d_x, &grads.d_x2})
                    if (d->defined()) d->zero_gaps();
                  kernels::vendor::library_conv3d_bwd_data<Elem>(
                      stream, s, d_out_rows, w_rows, d_x_rows, d_x2_rows, workspace);
                  if (added.defined()) add_in_place(grads.d_x, added);
                  if (added2.defined()) add_in_place(grads.d_x2, added2);
                });
        }
        native();
      });
    });
    return grads;
  }
  dispatch_f32_f64(d_out.dtype(), "conv3d_bwd_data", [&]<class Elem>() {
    kernels::conv3d_bwd_data(
        s, rows_of<Elem>(d_out), rows_of<Elem>(w), mutable_rows_of<Elem>(grads.d_x), mutable_rows_of<Elem>(grads.d_x2));
  });
  if (needs_x && add_x.defined()) add_in_place(grads.d_x, add_x);
  if (needs_x2 && add_x2.defined()) add_in_place(grads.d_x2, add_x2);
  return grads;
}

Conv3dWeightGrads conv3d_bwd_weight(
    const Tensor& d_out, const Tensor& x, const Tensor& x2, const Shape& w_shape, const Conv3dOptions& options,
    bool needs_w, bool needs_bias) {
  if (detail::is_emulated_bf16(d_out))
    return conv3d_bwd_weight(
        detail::widened(d_out), detail::widened(x), detail::widened(x2), w_shape, options, needs_w, needs_bias);
  check_args("conv3d_bwd_weight", {{"d_out", d_out}, {"x", x}, {"x2", x2}});
  Conv3dSize s;
  if (needs_w) {
    check<ShapeError>(x.defined(), "conv3d_bwd_weight: x: expected a tensor, got an undefined one");
    s = detail::size_of_conv("conv3d_bwd_weight", x.shape(), shape_or_none(x2), w_shape, options);
    check_shape(d_out, out_shape(s), "conv3d_bwd_weight", "d_out");
    detail::note_conv("weights", s);
  } else {
    check_rank(d_out, 5, "conv3d_bwd_weight", "d_out");
    s = {.B = d_out.dim(0), .out = {d_out.dim(1), d_out.dim(2), d_out.dim(3)}, .O = d_out.cols()};
  }
  Conv3dWeightGrads grads;
  const DType grad_dtype = detail::parameter_dtype(d_out);
  if (needs_w) grads.d_w = Tensor::empty(w_shape, grad_dtype, d_out.device());
  if (needs_bias) grads.d_bias = Tensor::empty({s.O}, grad_dtype, d_out.device());
  if (d_out.device().is_gpu()) {
    dispatch_f32_bf16(d_out.dtype(), "conv3d_bwd_weight", [&]<class Elem>() {
      const auto d_out_rows = device_rows_of<Elem>(d_out), x_rows = device_rows_of<Elem>(x),
                 x2_rows = device_rows_of<Elem>(x2);
      const auto d_w_rows = device_mutable_rows_of<float>(grads.d_w);
      float* d_bias = device_mutable_data<float>(grads.d_bias);
      on_device(d_out.device(), "conv3d_bwd_weight", [&]<class Backend>(const kernels::Stream& stream) {
        const auto ours = [&](kernels::Rows<float> d_w) {
          Tensor workspace = device_workspace(kernels::conv3d_bwd_weight_workspace_bytes<Elem>(s), d_out);
          kernels::conv3d_bwd_weight<Backend, Elem>(
              stream, s, d_out_rows, x_rows, x2_rows, d_w, d_bias, device_mutable_data<float>(workspace));
        };
        const auto native = [&] { ours(d_w_rows); };
        if constexpr (detail::kHasLibraries<Backend>) {
          if (needs_w && d_out.numel() > 0)
            return conv_either<Elem>(
                stream, d_out, ConvPass::bwd_weight, s,
                kernels::vendor::bwd_weight_pitches<Elem>(s, x_rows.pitch, d_out_rows.pitch), native,
                [&](void* workspace) {
                  kernels::vendor::library_conv3d_bwd_weight<Elem>(
                      stream, s, d_out_rows, x_rows, x2_rows, d_w_rows, workspace);
                  if (d_bias != nullptr) ours({});
                });
        }
        native();
      });
    });
    return grads;
  }
  dispatch_f32_f64(d_out.dtype(), "conv3d_bwd_weight", [&]<class Elem>() {
    kernels::conv3d_bwd_weight(
        s, rows_of<Elem>(d_out), rows_of<Elem>(x), rows_of<Elem>(x2), mutable_rows_of<Elem>(grads.d_w),
        mutable_rows_of<Elem>(grads.d_bias).data);
  });
  return grads;
}

}  // namespace avid
