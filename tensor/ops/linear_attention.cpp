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

struct LinearAttentionBlock {
  static constexpr const char* kOp = avid::kOp;
  template <class Args>
  static std::int64_t bytes(const Args& args, bool backward) {
    return kernels::linear_attention_workspace_bytes(args, backward);
  }
  template <class Args>
  static std::int64_t kept_elements(const Args& args) {
    return kernels::linear_attention_key_sums(args);
  }
  template <class Backend, class Elem>
  static void fwd(const kernels::Stream& stream, const kernels::AttentionBlockDeviceArgs<Elem>& args, const Tensor&) {
    kernels::linear_attention_fwd<Backend, Elem>(stream, args);
  }
  template <class Backend, class Elem>
  static void bwd(
      const kernels::Stream& stream, const kernels::AttentionBlockDeviceArgs<Elem>& args,
      const kernels::AttentionBlockDeviceGrads<Elem>& grads, const Tensor&) {
    kernels::linear_attention_bwd<Backend, Elem>(stream, args, grads);
  }
};

}  // namespace

Tensor linear_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionOptions& options, Tensor* key_sums) {
  if (detail::is_emulated_bf16(x))
    return detail::narrowed(linear_attention_fwd(
        detail::widened(x), norm_gamma, detail::widened(w_qkv), detail::widened(w_out), b_out, options));
  check_bias(b_out);
  if (x.defined() && x.device().is_gpu()) {
    detail::check_attention_operands(kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
    detail::note_block(x, options, 4 * options.head_dim * options.head_dim, false);
    return detail::attention_fwd_on_device<LinearAttentionBlock>(
        detail::usual_pitch(x), norm_gamma, w_qkv, w_out, b_out, options, key_sums);
  }
  kernels::AttentionBlockArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
  detail::note_block(x, options, 4 * options.head_dim * options.head_dim, false);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  args.y = out.raw_data();
  args.y_pitch = out.pitch();
  kernels::linear_attention_fwd(args);
  return out;
}

AttentionGrads linear_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& b_out, const AttentionOptions& options, const AttentionNeeds& needs, const Tensor& key_sums) {
  if (detail::is_emulated_bf16(x)) {
    AttentionGrads grads = linear_attention_bwd(
        detail::widened(d_out), detail::widened(x), norm_gamma, detail::widened(w_qkv), detail::widened(w_out), b_out,
        options, needs);
    grads.d_x = detail::narrowed(grads.d_x);
    return grads;
  }
  check_bias(b_out);
  if (x.defined() && x.device().is_gpu()) {
    detail::check_attention_operands(kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
    detail::note_block(x, options, 4 * options.head_dim * options.head_dim, true);
    detail::check_attention_grad(kOp, d_out, x);
    return detail::attention_bwd_on_device<LinearAttentionBlock>(
        detail::usual_pitch(d_out), detail::usual_pitch(x), norm_gamma, w_qkv, w_out, b_out, options, needs, key_sums);
  }
  kernels::AttentionBlockArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, b_out, options);
  detail::note_block(x, options, 4 * options.head_dim * options.head_dim, true);
  kernels::AttentionBlockGrads grads;
  AttentionGrads out = detail::allocate_attention_grads(grads, kOp, d_out, x, norm_gamma, w_qkv, w_out, b_out, needs);
  kernels::linear_attention_bwd(args, grads);
  return out;
}

}  // namespace avid
