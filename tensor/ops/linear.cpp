// tensor/ops/linear.cpp -- checks, allocation and dispatch of linear
#include "tensor/ops/linear.h"

#include "kernels/linear.h"
#include "kernels/op_timer.h"
#include "tensor/kernel_args.h"
#include "tensor/ops/elementwise.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/library_route.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

using kernels::LinearSize;

/// Extents from the shapes, with every relation between them checked. x2 may have rank 0 (absent).
LinearSize size_of_linear(const char* op, const Shape& x, const Shape& x2, const Shape& w) {
  check<ShapeError>(x.rank() >= 1, "{}: x: expected at least one dimension [...,I], got {}", op, x);
  check<ShapeError>(w.rank() == 2, "{}: w: expected rank 2 [O,I], got {}", op, w);
  const std::int64_t I2 = x2.rank() == 0 ? 0 : x2.cols();
  check<ShapeError>(
      x2.rank() == 0 || x2 == x.with_cols(I2), "{}: x2: expected {} (x with any number of channels), got {}", op,
      x.with_cols(I2), x2);
  check<ShapeError>(
      w.cols() == x.cols() + I2, "{}: w: expected {} columns (x is {}, x2 has {} channels), got {}", op, x.cols() + I2,
      x, I2, w);
  return {.P = x.rows(), .I = x.cols(), .I2 = I2, .O = w[0]};
}

Shape shape_or_none(const Tensor& t) { return t.defined() ? t.shape() : Shape{}; }

}  // namespace

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& x2, const Tensor& residual) {
  if (detail::is_emulated_bf16(x))
    return detail::narrowed(
        linear(detail::widened(x), detail::widened(w), bias, detail::widened(x2), detail::widened(residual)));
  check_args("linear", {{"x", x}, {"w", w}, {"x2", x2}, {"residual", residual}});
  const LinearSize s = size_of_linear("linear", x.shape(), shape_or_none(x2), w.shape());
  if (bias.defined()) detail::check_parameter(bias, {s.O}, x, "linear", "bias");
  kernels::note_flops(s.flops());
  const Shape out_shape = x.shape().with_cols(s.O);
  if (residual.defined()) check_shape(residual, out_shape, "linear", "residual");
  Tensor out = Tensor::uninitialised(out_shape, x.dtype(), x.device());  // [...,O]
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), "linear", [&]<class Elem>() {
      const auto x_rows = device_rows_of<Elem>(x), x2_rows = device_rows_of<Elem>(x2), w_rows = device_rows_of<Elem>(w),
                 residual_rows = device_rows_of<Elem>(residual);
      const auto out_rows = device_mutable_rows_of<Elem>(out);
      const float* bias_data = device_data<float>(bias);
      on_device(x.device(), "linear", [&]<class Backend>(const kernels::Stream& stream) {
        const auto native = [&] {
          Tensor workspace = device_workspace(kernels::linear_fwd_workspace_bytes<Elem>(s), x);
          kernels::linear_fwd<Backend, Elem>(
              stream, s, x_rows, x2_rows, w_rows, bias_data, residual_rows, out_rows,
              device_mutable_data<float>(workspace));
        };
        if constexpr (detail::kHasLibraries<Backend>) {
          const auto library = [&] {
            Tensor workspace = device_workspace(kernels::vendor::kGemmWorkspaceBytes, x);
            kernels::vendor::library_linear_fwd<Elem>(
                stream, s, x_rows, x2_rows, w_rows, bias_data, residual_rows, out_rows,
                device_mutable_data<float>(workspace));
          };
          if (s.P > 0)
            return detail::run_either(
                detail::Family::gemm, stream, [&] { return detail::describe_linear<Elem>("linear_fwd", s); }, native,
                library);
        }
        native();
      });
    });
    return out;
  }
  dispatch_f32_f64(x.dtype(), "linear", [&]<class Elem>() {
    kernels::linear_fwd(
        s, rows_of<Elem>(x), rows_of<Elem>(x2), rows_of<Elem>(w), rows_of<Elem>(bias).data, rows_of<Elem>(residual),
        mutable_rows_of<Elem>(out));
  });
  return out;
}

LinearInputGrads linear_bwd_data(
    const Tensor& d_out, const Tensor& w, const Shape& x_shape, const Shape& x2_shape, bool needs_x, bool needs_x2,
    const Tensor& add_x, const Tensor& add_x2) {
  if (detail::is_emulated_bf16(d_out)) {
    const LinearInputGrads wide = linear_bwd_data(
        detail::widened(d_out), detail::widened(w), x_shape, x2_shape, needs_x, needs_x2, detail::widened(add_x),
        detail::widened(add_x2));
    return {detail::narrowed(wide.d_x), detail::narrowed(wide.d_x2)};
  }
  check_args("linear_bwd_data", {{"d_out", d_out}, {"w", w}, {"add_x", add_x}, {"add_x2", add_x2}});
  const LinearSize s = size_of_linear("linear_bwd_data", x_shape, x2_shape, w.shape());
  check_shape(d_out, x_shape.with_cols(s.O), "linear_bwd_data", "d_out");
  if (add_x.defined()) check_shape(add_x, x_shape, "linear_bwd_data", "add_x");
  if (add_x2.defined()) check_shape(add_x2, x2_shape, "linear_bwd_data", "add_x2");
  kernels::note_flops(s.flops());
  LinearInputGrads grads;
  if (needs_x) grads.d_x = Tensor::uninitialised(x_shape, d_out.dtype(), d_out.device());
  if (needs_x2 && x2_shape.rank() > 0) grads.d_x2 = Tensor::uninitialised(x2_shape, d_out.dtype(), d_out.device());
  if (d_out.device().is_gpu()) {
    const Tensor added = needs_x && add_x.defined() ? detail::usual_pitch(add_x) : Tensor();
    const Tensor added2 = needs_x2 && add_x2.defined() ? detail::usual_pitch(add_x2) : Tensor();
    dispatch_f32_bf16(d_out.dtype(), "linear_bwd_data", [&]<class Elem>() {
      const auto d_out_rows = device_rows_of<Elem>(d_out), w_rows = device_rows_of<Elem>(w),
                 add_rows = device_rows_of<Elem>(added), add2_rows = device_rows_of<Elem>(added2);
      const auto d_x_rows = device_mutable_rows_of<Elem>(grads.d_x),
                 d_x2_rows = device_mutable_rows_of<Elem>(grads.d_x2);
      on_device(d_out.device(), "linear_bwd_data", [&]<class Backend>(const kernels::Stream& stream) {
        const auto native = [&] {
          Tensor workspace = device_workspace(kernels::linear_bwd_data_workspace_bytes<Elem>(s), d_out);
          kernels::linear_bwd_data<Backend, Elem>(
              stream, s, d_out_rows, w_rows, d_x_rows, d_x2_rows, device_mutable_data<float>(workspace), add_rows,
              add2_rows);
        };
        if constexpr (detail::kHasLibraries<Backend>) {
          const auto library = [&] {
            Tensor workspace = device_workspace(kernels::vendor::kGemmWorkspaceBytes, d_out);
            kernels::vendor::library_linear_bwd_data<Elem>(
                stream, s, d_out_rows, w_rows, d_x_rows, d_x2_rows, device_mutable_data<float>(workspace));
            if (added.defined()) add_in_place(grads.d_x, added);
            if (added2.defined()) add_in_place(grads.d_x2, added2);
          };
          if (s.P > 0)
            return detail::run_either(
                detail::Family::gemm, stream, [&] { return detail::describe_linear<Elem>("linear_bwd_data", s); },
                native, library);
        }
        native();
      });
    });
    return grads;
  }
  dispatch_f32_f64(d_out.dtype(), "linear_bwd_data", [&]<class Elem>() {
    kernels::linear_bwd_data(
        s, rows_of<Elem>(d_out), rows_of<Elem>(w), mutable_rows_of<Elem>(grads.d_x), mutable_rows_of<Elem>(grads.d_x2));
  });
  if (needs_x && add_x.defined()) add_in_place(grads.d_x, add_x);
  if (needs_x2 && add_x2.defined()) add_in_place(grads.d_x2, add_x2);
  return grads;
}

LinearWeightGrads linear_bwd_weight(
    const Tensor& d_out, const Tensor& x, const Tensor& x2, const Shape& w_shape, bool needs_w, bool needs_bias) {
  if (detail::is_emulated_bf16(d_out))
    return linear_bwd_weight(
        detail::widened(d_out), detail::widened(x), detail::widened(x2), w_shape, needs_w, needs_bias);
  check_args("linear_bwd_weight", {{"d_out", d_out}, {"x", x}, {"x2", x2}});
  LinearSize s{.P = d_out.rows(), .O = d_out.cols()};
  if (needs_w) {
    check<ShapeError>(x.defined(), "linear_bwd_weight: x: expected a tensor, got an undefined one");
    s = size_of_linear("linear_bwd_weight", x.shape(), shape_or_none(x2), w_shape);
    check_shape(d_out, x.shape().with_cols(s.O), "linear_bwd_weight", "d_out");
    kernels::note_flops(s.flops());
  }
  LinearWeightGrads grads;
  const DType grad_dtype = detail::parameter_dtype(d_out);
  if (needs_w) grads.d_w = Tensor::empty(w_shape, grad_dtype, d_out.device());
  if (needs_bias) grads.d_bias = Tensor::empty({s.O}, grad_dtype, d_out.device());
  if (d_out.device().is_gpu()) {
    dispatch_f32_bf16(d_out.dtype(), "linear_bwd_weight", [&]<class Elem>() {
      const auto d_out_rows = device_rows_of<Elem>(d_out), x_rows = device_rows_of<Elem>(x),
                 x2_rows = device_rows_of<Elem>(x2);
      const auto d_w_rows = device_mutable_rows_of<float>(grads.d_w);
      float* d_bias = device_mutable_data<float>(grads.d_bias);
      on_device(d_out.device(), "linear_bwd_weight", [&]<class Backend>(const kernels::Stream& stream) {
        const auto ours = [&](kernels::Rows<float> d_w) {
          Tensor workspace = device_workspace(kernels::linear_bwd_weight_workspace_bytes<Elem>(s), d_out);
          kernels::linear_bwd_weight<Backend, Elem>(
              stream, s, d_out_rows, x_rows, x2_rows, d_w, d_bias, device_mutable_data<float>(workspace));
        };
        const auto native = [&] { ours(d_w_rows); };
        if constexpr (detail::kHasLibraries<Backend>) {
          const auto library = [&] {
            {
              Tensor workspace = device_workspace(kernels::vendor::kGemmWorkspaceBytes, d_out);
              kernels::vendor::library_linear_bwd_weight<Elem>(
                  stream, s, d_out_rows, x_rows, x2_rows, d_w_rows, device_mutable_data<float>(workspace));
            }
            if (d_bias != nullptr) ours({});
          };
          if (s.P > 0 && needs_w)
            return detail::run_either(
                detail::Family::gemm, stream, [&] { return detail::describe_linear<Elem>("linear_bwd_weight", s); },
                native, library);
        }
        native();
      });
    });
    return grads;
  }
  dispatch_f32_f64(d_out.dtype(), "linear_bwd_weight", [&]<class Elem>() {
    kernels::linear_bwd_weight(
        s, rows_of<Elem>(d_out), rows_of<Elem>(x), rows_of<Elem>(x2), mutable_rows_of<Elem>(grads.d_w),
        mutable_rows_of<Elem>(grads.d_bias).data);
  });
  return grads;
}

}  // namespace avid
