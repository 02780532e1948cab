// tensor/ops/temporal_attention.cpp -- checks and allocation of temporal_attention
#include "tensor/ops/temporal_attention.h"

#include <stdexcept>

#include "kernels/relative_bias.h"
#include "kernels/temporal_attention.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "temporal_attention";

/// What this block has beside the operands of every attention block.
void check_positions(
    const Tensor& x, const Tensor& bias_table, const Tensor& rotary_freqs, const AttentionOptions& options) {
  check_shape(bias_table, {kernels::kRelativeBiasBuckets, options.heads}, kOp, "bias_table");
  check_dtype(bias_table, detail::parameter_dtype(x), kOp, "bias_table");
  detail::check_same_device(bias_table, x, kOp, "bias_table");
  check_rank(rotary_freqs, 1, kOp, "rotary_freqs");
  check_dtype(rotary_freqs, DType::f32, kOp, "rotary_freqs");
  detail::check_same_device(rotary_freqs, x, kOp, "rotary_freqs");
  check<ShapeError>(
      2 * rotary_freqs.dim(0) <= options.head_dim,
      "{}: rotary_freqs: expected at most {} frequencies (half of head_dim {}), got {}", kOp, options.head_dim / 2,
      options.head_dim, rotary_freqs.describe());
}

kernels::TemporalAttentionArgs operands(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options) {
  kernels::TemporalAttentionArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, {}, options);
  check_positions(x, bias_table, rotary_freqs, options);
  args.bias_table = bias_table.raw_data();
  args.bias_table_pitch = bias_table.pitch();
  args.rotary_freqs = rotary_freqs.data<float>();
  args.R = rotary_freqs.dim(0);
  return args;
}

// ---- on a device ----

template <class Elem>
kernels::TemporalAttentionDeviceArgs<Elem> device_operands(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options) {
  kernels::TemporalAttentionDeviceArgs<Elem> args;
  detail::set_device_attention_operands(args, x, norm_gamma, w_qkv, w_out, {}, options);
  args.bias_table = device_rows_of<float>(bias_table);
  args.rotary_freqs = device_data<float>(rotary_freqs);
  args.R = rotary_freqs.dim(0);
  return args;
}

/// The workspace of a pass, and where sizes that no kernel takes become a ShapeError.
template <class Elem>
Tensor workspace_for(const kernels::TemporalAttentionDeviceArgs<Elem>& args, bool backward, const Tensor& x) {
  try {
    return device_workspace(kernels::temporal_attention_workspace_bytes(args, backward), x);
  } catch (const std::invalid_argument& error) {
    fail<ShapeError>("{}", error.what());
  }
}

Tensor fwd_on_device(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options) {
  Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
    auto args = device_operands<Elem>(x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options);
    args.y = device_mutable_rows_of<Elem>(out);
    Tensor workspace = workspace_for(args, false, x);
    args.workspace = device_mutable_data<float>(workspace);
    on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::temporal_attention_fwd<Backend, Elem>(stream, args);
    });
  });
  return out;
}

AttentionGrads bwd_on_device(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& bias_table, const Tensor& rotary_freqs, const AttentionOptions& options,
    const AttentionNeeds& needs) {
  AttentionGrads out = detail::allocate_attention_grads(x, norm_gamma, w_qkv, w_out, {}, needs);
  if (needs.bias_table) out.d_bias_table = Tensor::empty(bias_table.shape(), DType::f32, x.device());
  dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
    auto args = device_operands<Elem>(x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options);
    kernels::TemporalAttentionDeviceGrads<Elem> grads;
    detail::set_device_attention_grads(grads, d_out, out);
    grads.d_bias_table = device_mutable_rows_of<float>(out.d_bias_table);
    Tensor workspace = workspace_for(args, true, x);
    args.workspace = device_mutable_data<float>(workspace);
    on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::temporal_attention_bwd<Backend, Elem>(stream, args, grads);
    });
  });
  return out;
}

}  // namespace

Tensor temporal_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options) {
  if (detail::is_emulated_bf16(x))
    return detail::narrowed(temporal_attention_fwd(
        detail::widened(x), norm_gamma, detail::widened(w_qkv), detail::widened(w_out), bias_table, rotary_freqs,
        options));
  if (x.defined() && x.device().is_gpu()) {
    detail::check_attention_operands(kOp, x, norm_gamma, w_qkv, w_out, {}, options);
    detail::note_block(x, options, 4 * x.dim(1) * options.head_dim, false);
    check_positions(x, bias_table, rotary_freqs, options);
    return fwd_on_device(x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options);
  }
  auto args = operands(x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options);
  detail::note_block(x, options, 4 * x.dim(1) * options.head_dim, false);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  args.y = out.raw_data();
  args.y_pitch = out.pitch();
  kernels::temporal_attention_fwd(args);
  return out;
}

AttentionGrads temporal_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& bias_table, const Tensor& rotary_freqs, const AttentionOptions& options,
    const AttentionNeeds& needs) {
  if (detail::is_emulated_bf16(x)) {
    AttentionGrads grads = temporal_attention_bwd(
        detail::widened(d_out), detail::widened(x), norm_gamma, detail::widened(w_qkv), detail::widened(w_out),
        bias_table, rotary_freqs, options, needs);
    grads.d_x = detail::narrowed(grads.d_x);
    return grads;
  }
  if (x.defined() && x.device().is_gpu()) {
    detail::check_attention_operands(kOp, x, norm_gamma, w_qkv, w_out, {}, options);
    detail::note_block(x, options, 4 * x.dim(1) * options.head_dim, true);
    check_positions(x, bias_table, rotary_freqs, options);
    detail::check_attention_grad(kOp, d_out, x);
    return bwd_on_device(d_out, x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options, needs);
  }
  const auto args = operands(x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options);
  detail::note_block(x, options, 4 * x.dim(1) * options.head_dim, true);
  kernels::TemporalAttentionGrads grads;
  AttentionGrads out = detail::allocate_attention_grads(grads, kOp, d_out, x, norm_gamma, w_qkv, w_out, {}, needs);
  if (needs.bias_table) {
    out.d_bias_table = Tensor::empty(bias_table.shape(), bias_table.dtype());
    grads.d_bias_table = out.d_bias_table.raw_data();
    grads.d_bias_table_pitch = out.d_bias_table.pitch();
  }
  kernels::temporal_attention_bwd(args, grads);
  return out;
}

}  // namespace avid
