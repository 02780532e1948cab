// tensor/ops/group_norm_silu.cpp -- checks and allocation of group_norm_silu
#include "tensor/ops/group_norm_silu.h"

#include "kernels/group_norm_silu.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "group_norm_silu";

void check_inputs(const Tensor& x, const Tensor& gamma, const Tensor& beta, const GroupNormOptions& options) {
  detail::check_float(x, kOp, "x");
  check<ShapeError>(x.rank() == 5 && x.dim(4) > 0, "{}: x: expected [B,T,H,W,C] with C > 0, got {}", kOp, x.describe());
  check<ShapeError>(
      options.groups > 0 && x.dim(4) % options.groups == 0, "{}: options: expected groups that divide C = {}, got {}",
      kOp, x.dim(4), options.groups);
  detail::check_parameter(gamma, {x.dim(4)}, x, kOp, "gamma");
  detail::check_parameter(beta, {x.dim(4)}, x, kOp, "beta");
}

kernels::GroupNormSize size_of_items(const Tensor& x, const GroupNormOptions& options) {
  const bool per_frame = options.scope == GroupNormScope::frame;
  const std::int64_t pixels = x.dim(2) * x.dim(3);
  return {
      .I = per_frame ? x.dim(0) * x.dim(1) : x.dim(0),
      .R = per_frame ? pixels : x.dim(1) * pixels,
      .C = x.dim(4),
      .G = options.groups,
      .eps = options.eps,
      .silu = options.silu};
}

template <class Elem>
kernels::GroupNormSiluArgs<Elem> operands(
    const Tensor& x, const Tensor& gamma, const Tensor& beta, const GroupNormOptions& options) {
  return {
      .size = size_of_items(x, options),
      .x = detail::rows_of<Elem>(x),
      .gamma = gamma.data<Elem>(),
      .beta = beta.data<Elem>(),
      .out = {}};
}

template <class Elem>
kernels::GroupNormSiluDeviceArgs<Elem> device_operands(
    const Tensor& x, const Tensor& gamma, const Tensor& beta, const GroupNormOptions& options, Tensor& workspace) {
  const kernels::GroupNormSize size = size_of_items(x, options);
  workspace = Tensor::empty({kernels::group_norm_silu_workspace(size)}, DType::f32, x.device());
  return {
      .size = size,
      .x = device_rows_of<Elem>(x),
      .gamma = device_data<float>(gamma),
      .beta = device_data<float>(beta),
      .out = {},
      .workspace = device_mutable_data<float>(workspace)};
}

}  // namespace

Tensor group_norm_silu_fwd(
    const Tensor& x_any, const Tensor& gamma, const Tensor& beta, const GroupNormOptions& options) {
  check_inputs(x_any, gamma, beta, options);
  const Tensor x = detail::usual_pitch(x_any);
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
      Tensor workspace;
      auto args = device_operands<Elem>(x, gamma, beta, options, workspace);
      args.out = device_mutable_rows_of<Elem>(out);
      on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::group_norm_silu_fwd<Backend, Elem>(stream, args);
      });
    });
    return out;
  }
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    auto args = operands<Elem>(x, gamma, beta, options);
    args.out = detail::mutable_rows_of<Elem>(out);
    kernels::group_norm_silu_fwd<Elem>(args);
  });
  return out;
}

GroupNormSiluGradients group_norm_silu_bwd(
    const Tensor& d_out_any, const Tensor& x_any, const Tensor& gamma, const Tensor& beta,
    const GroupNormOptions& options, const GroupNormSiluNeeds& needs) {
  check_inputs(x_any, gamma, beta, options);
  detail::check_like(d_out_any, x_any, kOp, "d_out");
  const Tensor x = detail::usual_pitch(x_any), d_out = detail::usual_pitch(d_out_any);
  GroupNormSiluGradients grads;
  if (needs.x) grads.d_x = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (needs.gamma) grads.d_gamma = Tensor::empty(gamma.shape(), gamma.dtype(), x.device());
  if (needs.beta) grads.d_beta = Tensor::empty(beta.shape(), beta.dtype(), x.device());
  if (x.device().is_gpu()) {
    dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
      Tensor workspace;
      const auto args = device_operands<Elem>(x, gamma, beta, options, workspace);
      const kernels::GroupNormSiluDeviceGrads<Elem> out{
          .d_out = device_rows_of<Elem>(d_out),
          .d_x = device_mutable_rows_of<Elem>(grads.d_x),
          .d_gamma = device_mutable_data<float>(grads.d_gamma),
          .d_beta = device_mutable_data<float>(grads.d_beta)};
      on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        kernels::group_norm_silu_bwd<Backend, Elem>(stream, args, out);
      });
    });
    return grads;
  }
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    kernels::group_norm_silu_bwd<Elem>(
        operands<Elem>(x, gamma, beta, options), kernels::GroupNormSiluGrads<Elem>{
                                                     .d_out = detail::rows_of<Elem>(d_out),
                                                     .d_x = detail::mutable_rows_of<Elem>(grads.d_x),
                                                     .d_gamma = detail::mutable_data_or_null<Elem>(grads.d_gamma),
                                                     .d_beta = detail::mutable_data_or_null<Elem>(grads.d_beta)});
  });
  return grads;
}

}  // namespace avid
