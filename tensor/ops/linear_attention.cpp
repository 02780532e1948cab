// tensor/ops/linear_attention.cpp -- checks and allocation of linear_attention
#include "tensor/ops/linear_attention.h"

#include "kernels/linear_attention.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "linear_attention";

void check_bias(const Tensor& b_out) {
  check<ShapeError>(b_out.defined(), "{}: b_out: expected [C], got an undefined tensor", kOp);
}

Tensor fwd_on_device(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionOptions& options) {
  detail::check_core_head(kOp, options);
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
    kernels::AttentionBlockDeviceArgs<Elem> args;
    detail::set_device_attention_operands(args, x, norm_gamma, w_qkv, w_out, b_out, options);
    args.y = device_mutable_rows_of<Elem>(out);
    Tensor workspace = detail::attention_workspace(kernels::linear_attention_workspace_bytes(args, false), x);
    args.workspace = device_mutable_data<float>(workspace);
    on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::linear_attention_fwd<Backend, Elem>(stream, args);
    });
  });
  return out;
}

AttentionGrads bwd_on_device(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& b_out, const AttentionOptions& options, const AttentionNeeds& needs) {
  detail::check_core_head(kOp, options);
  AttentionGrads out = detail::allocate_attention_grads(x, norm_gamma, w_qkv, w_out, b_out, needs);
  dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
    kernels::AttentionBlockDeviceArgs<Elem> args;
    detail::set_device_attention_operands(args, x, norm_gamma, w_qkv, w_out, b_out, options);
    kernels::AttentionBlockDeviceGrads<Elem> grads;
    detail::set_device_attention_grads(grads, d_out, out);
    Tensor workspace = detail::attention_workspace(kernels::linear_attention_workspace_bytes(args, true), x);
    args.workspace = device_mutable_data<float>(workspace);
    on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::linear_attention_bwd<Backend, Elem>(stream, args, grads);
    });
  });
  return out;
}

}  // namespace

Tensor linear_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionOptions& options) {
  if (detail::is_emulated_bf16(x))
    return detail::narrowed(linear_attention_fwd(
        detail::widened(x), norm_gamma, detail::widened(w_qkv), detail::widened(w_out), b_out, options));
  check_bias(b_out);
  if (x.defined() && x.device().is_gpu()) {
    detail::check_attention_operands(kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
    return fwd_on_device(detail::usual_pitch(x), norm_gamma, w_qkv, w_out, b_out, options);
  }
  kernels::AttentionBlockArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  args.y = out.raw_data();
  args.y_pitch = out.pitch();
  kernels::linear_attention_fwd(args);
  return out;
}

AttentionGrads linear_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& b_out, const AttentionOptions& options, const AttentionNeeds& needs) {
  if (detail::is_emulated_bf16(x)) {
    AttentionGrads grads = linear_attention_bwd(
        detail::widened(d_out), detail::widened(x), norm_gamma, detail::widened(w_qkv), detail::widened(w_out),
        b_out, options, needs);
    grads.d_x = detail::narrowed(grads.d_x);
    return grads;
  }
  check_bias(b_out);
  if (x.defined() && x.device().is_gpu()) {
    detail::check_attention_operands(kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
    detail::check_attention_grad(kOp, d_out, x);
    return bwd_on_device(
        detail::usual_pitch(d_out), detail::usual_pitch(x), norm_gamma, w_qkv, w_out, b_out, options, needs);
  }
  kernels::AttentionBlockArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
  kernels::AttentionBlockGrads grads;
  AttentionGrads out = detail::allocate_attention_grads(grads, kOp, d_out, x, norm_gamma, w_qkv, w_out, b_out, needs);
  kernels::linear_attention_bwd(args, grads);
  return out;
}

}  // namespace avid
