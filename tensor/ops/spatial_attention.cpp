// tensor/ops/spatial_attention.cpp -- checks and allocation of spatial_attention
#include "tensor/ops/spatial_attention.h"

#include "kernels/spatial_attention.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/library_route.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "spatial_attention";

struct SpatialAttentionBlock {
  static constexpr const char* kOp = avid::kOp;
  template <class Args>
  static std::int64_t bytes(const Args& args, bool backward) {
    return kernels::spatial_attention_workspace_bytes(args, backward);
  }
  /// The core by whom --attention says; the projections around it are ours.
  template <class Backend, class Elem>
  static kernels::SpatialAttentionCore<Elem> core(const kernels::Stream& stream, const Tensor& like) {
    kernels::SpatialAttentionCore<Elem> other;
    if constexpr (detail::kHasLibraries<Backend>) {
      other.fwd = [stream, &like](const kernels::AttentionArgs<Elem>& p, const auto& ours) {
        detail::attention_fwd_either<Elem>(stream, p, like, ours);
      };
      other.bwd = [stream, &like](
                      const kernels::AttentionArgs<Elem>& p, const kernels::AttentionGrads<Elem>& g, const auto& ours) {
        detail::attention_bwd_either<Elem>(stream, p, g, like, ours);
      };
    }
    return other;
  }
  template <class Backend, class Elem>
  static void fwd(
      const kernels::Stream& stream, const kernels::AttentionBlockDeviceArgs<Elem>& args, const Tensor& like) {
    kernels::spatial_attention_fwd<Backend, Elem>(stream, args, core<Backend, Elem>(stream, like));
  }
  template <class Backend, class Elem>
  static void bwd(
      const kernels::Stream& stream, const kernels::AttentionBlockDeviceArgs<Elem>& args,
      const kernels::AttentionBlockDeviceGrads<Elem>& grads, const Tensor& like) {
    kernels::spatial_attention_bwd<Backend, Elem>(stream, args, grads, core<Backend, Elem>(stream, like));
  }
};

}  // namespace

Tensor spatial_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const AttentionOptions& options) {
  if (detail::is_emulated_bf16(x))
    return detail::narrowed(
        spatial_attention_fwd(detail::widened(x), norm_gamma, detail::widened(w_qkv), detail::widened(w_out), options));
  if (x.defined() && x.device().is_gpu()) {
    detail::check_attention_operands(kOp, x, norm_gamma, w_qkv, w_out, {}, options);
    detail::note_block(x, options, 4 * x.dim(2) * x.dim(3) * options.head_dim, false);
    return detail::attention_fwd_on_device<SpatialAttentionBlock>(
        detail::usual_pitch(x), norm_gamma, w_qkv, w_out, {}, options);
  }
  kernels::AttentionBlockArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, {}, options);
  detail::note_block(x, options, 4 * x.dim(2) * x.dim(3) * options.head_dim, false);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  args.y = out.raw_data();
  args.y_pitch = out.pitch();
  kernels::spatial_attention_fwd(args);
  return out;
}

AttentionGrads spatial_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const AttentionOptions& options, const AttentionNeeds& needs) {
  if (detail::is_emulated_bf16(x)) {
    AttentionGrads grads = spatial_attention_bwd(
        detail::widened(d_out), detail::widened(x), norm_gamma, detail::widened(w_qkv), detail::widened(w_out), options,
        needs);
    grads.d_x = detail::narrowed(grads.d_x);
    return grads;
  }
  if (x.defined() && x.device().is_gpu()) {
    detail::check_attention_operands(kOp, x, norm_gamma, w_qkv, w_out, {}, options);
    detail::note_block(x, options, 4 * x.dim(2) * x.dim(3) * options.head_dim, true);
    detail::check_attention_grad(kOp, d_out, x);
    return detail::attention_bwd_on_device<SpatialAttentionBlock>(
        detail::usual_pitch(d_out), detail::usual_pitch(x), norm_gamma, w_qkv, w_out, {}, options, needs);
  }
  kernels::AttentionBlockArgs args;
  detail::set_attention_operands(args, kOp, x, norm_gamma, w_qkv, w_out, {}, options);
  detail::note_block(x, options, 4 * x.dim(2) * x.dim(3) * options.head_dim, true);
  kernels::AttentionBlockGrads grads;
  AttentionGrads out = detail::allocate_attention_grads(grads, kOp, d_out, x, norm_gamma, w_qkv, w_out, {}, needs);
  kernels::spatial_attention_bwd(args, grads);
  return out;
}

}  // namespace avid
