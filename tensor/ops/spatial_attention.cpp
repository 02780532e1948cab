// tensor/ops/spatial_attention.cpp -- checks and allocation of spatial_attention
#include "tensor/ops/spatial_attention.h"

#include "kernels/spatial_attention.h"

namespace avid {
namespace {

constexpr const char* kOp = "spatial_attention";

}  // namespace

Tensor spatial_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const AttentionOptions& options) {
  kernels::AttentionBlockArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, {}, options);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  args.y = out.raw_data();
  args.y_pitch = out.pitch();
  kernels::spatial_attention_fwd(args);
  return out;
}

AttentionGrads spatial_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const AttentionOptions& options, const AttentionNeeds& needs) {
  kernels::AttentionBlockArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, {}, options);
  kernels::AttentionBlockGrads grads;
  AttentionGrads out = detail::allocate_attention_grads(grads, kOp, d_out, x, norm_gamma, w_qkv, w_out, {}, needs);
  kernels::spatial_attention_bwd(args, grads);
  return out;
}

}  // namespace avid
