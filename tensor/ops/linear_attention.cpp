// tensor/ops/linear_attention.cpp -- checks and allocation of linear_attention
#include "tensor/ops/linear_attention.h"

#include "kernels/linear_attention.h"

namespace avid {
namespace {

constexpr const char* kOp = "linear_attention";

kernels::AttentionBlockArgs operands(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionOptions& options) {
  kernels::AttentionBlockArgs args;
  check<ShapeError>(b_out.defined(), "{}: b_out: expected [C], got an undefined tensor", kOp);
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
  return args;
}

}  // namespace

Tensor linear_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionOptions& options) {
  auto args = operands(x, norm_gamma, w_qkv, w_out, b_out, options);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  args.y = out.raw_data();
  args.y_pitch = out.pitch();
  kernels::linear_attention_fwd(args);
  return out;
}

AttentionGrads linear_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& b_out, const AttentionOptions& options, const AttentionNeeds& needs) {
  const auto args = operands(x, norm_gamma, w_qkv, w_out, b_out, options);
  kernels::AttentionBlockGrads grads;
  AttentionGrads out = detail::allocate_attention_grads(grads, kOp, d_out, x, norm_gamma, w_qkv, w_out, b_out, needs);
  kernels::linear_attention_bwd(args, grads);
  return out;
}

}  // namespace avid
