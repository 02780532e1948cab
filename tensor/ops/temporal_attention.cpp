// tensor/ops/temporal_attention.cpp -- checks and allocation of temporal_attention
#include "tensor/ops/temporal_attention.h"

#include "kernels/relative_bias.h"
#include "kernels/temporal_attention.h"

namespace avid {
namespace {

constexpr const char* kOp = "temporal_attention";

kernels::TemporalAttentionArgs operands(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options) {
  kernels::TemporalAttentionArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, {}, options);
  check_shape(bias_table, {kernels::kRelativeBiasBuckets, options.heads}, kOp, "bias_table");
  check_dtype(bias_table, x.dtype(), kOp, "bias_table");
  check_rank(rotary_freqs, 1, kOp, "rotary_freqs");
  check_dtype(rotary_freqs, DType::f32, kOp, "rotary_freqs");
  check<ShapeError>(
      2 * rotary_freqs.dim(0) <= options.head_dim,
      "{}: rotary_freqs: expected at most {} frequencies (half of head_dim {}), got {}", kOp, options.head_dim / 2,
      options.head_dim, rotary_freqs.describe());
  args.bias_table = bias_table.raw_data();
  args.bias_table_pitch = bias_table.pitch();
  args.rotary_freqs = rotary_freqs.data<float>();
  args.R = rotary_freqs.dim(0);
  return args;
}

}  // namespace

Tensor temporal_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options) {
  auto args = operands(x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options);
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
  const auto args = operands(x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options);
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
