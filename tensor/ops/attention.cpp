// tensor/ops/attention.cpp -- checks and allocation of attention
#include "tensor/ops/attention.h"

#include <cmath>

#include "kernels/attention.h"
#include "kernels/op_timer.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/library_route.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "attention";

void check_inputs(const Tensor& q, const Tensor& k, const Tensor& v, const SoftmaxAttentionOptions& options) {
  detail::check_float(q, kOp, "q");
  check<ShapeError>(q.rank() == 3 && q.cols() > 0, "{}: q: expected [B,Q,N*D] with N*D > 0, got {}", kOp, q.describe());
  check<ShapeError>(
      options.heads > 0 && q.cols() % options.heads == 0,
      "{}: options.heads: expected a divisor of {} (channels of q), got {}", kOp, q.cols(), options.heads);
  check<ShapeError>(
      k.defined() && k.rank() == 3 && k.dim(0) == q.dim(0) && k.cols() == q.cols(),
      "{}: k: expected [{},K,{}] beside q, got {}", kOp, q.dim(0), q.cols(),
      k.defined() ? k.describe() : "an undefined tensor");
  check<ShapeError>(
      k.dim(1) > 0 || q.dim(0) * q.dim(1) == 0, "{}: k: expected at least one key, got {}", kOp, k.describe());
  check_dtype(k, q.dtype(), kOp, "k");
  detail::check_same_device(k, q, kOp, "k");
  detail::check_like(v, k, kOp, "v");
  check<ShapeError>(
      !q.device().is_gpu() || q.cols() / options.heads <= kernels::kMaxFlashHead,
      "{}: q: expected heads of at most {} channels on a device, got {}", kOp, kernels::kMaxFlashHead,
      q.cols() / options.heads);
}

/// Sizes and operands; of Elem data on either side.
template <class Elem>
kernels::AttentionArgs<Elem> arguments(
    const Tensor& q, const Tensor& k, const SoftmaxAttentionOptions& options, kernels::Rows<const Elem> q_rows,
    kernels::Rows<const Elem> k_rows, kernels::Rows<const Elem> v_rows, kernels::Rows<Elem> out, void* log_sum) {
  kernels::AttentionArgs<Elem> p;
  p.B = q.dim(0), p.Q = q.dim(1), p.K = k.dim(1), p.N = options.heads, p.D = q.cols() / options.heads;
  p.scale = options.scale != 0 ? options.scale : 1.0 / std::sqrt(static_cast<double>(p.D));
  p.q = q_rows, p.k = k_rows, p.v = v_rows, p.out = out, p.log_sum = log_sum;
  return p;
}

template <class Elem>
kernels::AttentionArgs<Elem> device_arguments(
    const Tensor& q, const Tensor& k, const Tensor& v, SoftmaxAttention& result,
    const SoftmaxAttentionOptions& options) {
  return arguments<Elem>(
      q, k, options, device_rows_of<Elem>(q), device_rows_of<Elem>(k), device_rows_of<Elem>(v),
      device_mutable_rows_of<Elem>(result.out), device_mutable_data<float>(result.log_sum));
}
template <class Elem>
kernels::AttentionArgs<Elem> cpu_arguments(
    const Tensor& q, const Tensor& k, const Tensor& v, SoftmaxAttention& result,
    const SoftmaxAttentionOptions& options) {
  return arguments<Elem>(
      q, k, options, detail::rows_of<Elem>(q), detail::rows_of<Elem>(k), detail::rows_of<Elem>(v),
      detail::mutable_rows_of<Elem>(result.out), result.log_sum.raw_data());
}

/// Multiply-adds x 2 of the two products of a forward pass; a backward pass has twice as many to do.
double flops_of(const Tensor& q, const Tensor& k) { return 4.0 * static_cast<double>(q.rows() * k.dim(1) * q.cols()); }

/// log_sum as one vector: [B,N,Q] rows would have gaps.
Tensor empty_log_sum(const Tensor& q, const SoftmaxAttentionOptions& options) {
  return Tensor::empty({q.dim(0) * options.heads * q.dim(1)}, detail::parameter_dtype(q), q.device());
}

}  // namespace

SoftmaxAttention attention_fwd(
    const Tensor& q, const Tensor& k, const Tensor& v, const SoftmaxAttentionOptions& options) {
  if (detail::is_emulated_bf16(q)) {
    SoftmaxAttention result = attention_fwd(detail::widened(q), detail::widened(k), detail::widened(v), options);
    result.out = detail::narrowed(result.out);
    return result;
  }
  check_inputs(q, k, v, options);
  kernels::note_flops(flops_of(q, k));
  SoftmaxAttention result{Tensor::empty(q.shape(), q.dtype(), q.device()), empty_log_sum(q, options)};
  if (q.device().is_gpu()) {
    dispatch_f32_bf16(q.dtype(), kOp, [&]<class Elem>() {
      const auto p = device_arguments<Elem>(q, k, v, result, options);
      on_device(q.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        const auto ours = [&] { kernels::attention_fwd<Backend, Elem>(stream, p); };
        if constexpr (detail::kHasLibraries<Backend>) {
          if (q.numel() > 0) return detail::attention_fwd_either<Elem>(stream, p, q, ours);
        }
        ours();
      });
    });
    return result;
  }
  dispatch_f32_f64(q.dtype(), kOp, [&]<class Elem>() {
    kernels::attention_fwd<Elem>(cpu_arguments<Elem>(q, k, v, result, options));
  });
  return result;
}

SoftmaxAttentionGrads attention_bwd(
    const Tensor& d_out, const Tensor& q, const Tensor& k, const Tensor& v, const SoftmaxAttention& forward,
    const SoftmaxAttentionOptions& options, const SoftmaxAttentionNeeds& needs) {
  if (detail::is_emulated_bf16(q)) {
    SoftmaxAttentionGrads grads = attention_bwd(
        detail::widened(d_out), detail::widened(q), detail::widened(k), detail::widened(v),
        {detail::widened(forward.out), forward.log_sum}, options, needs);
    return {detail::narrowed(grads.d_q), detail::narrowed(grads.d_k), detail::narrowed(grads.d_v)};
  }
  check_inputs(q, k, v, options);
  detail::check_like(d_out, q, kOp, "d_out");
  detail::check_like(forward.out, q, kOp, "forward.out");
  kernels::note_flops(2 * flops_of(q, k));
  SoftmaxAttention saved = forward;  // handles; nothing of it is written
  SoftmaxAttentionGrads grads;
  if (needs.q) grads.d_q = Tensor::empty(q.shape(), q.dtype(), q.device());
  if (needs.k) grads.d_k = Tensor::empty(k.shape(), q.dtype(), q.device());
  if (needs.v) grads.d_v = Tensor::empty(v.shape(), q.dtype(), q.device());
  if (q.device().is_gpu()) {
    Tensor workspace = empty_log_sum(q, options);
    dispatch_f32_bf16(q.dtype(), kOp, [&]<class Elem>() {
      const auto p = device_arguments<Elem>(q, k, v, saved, options);
      const kernels::AttentionGrads<Elem> g{
          .d_out = device_rows_of<Elem>(d_out),
          .d_q = device_mutable_rows_of<Elem>(grads.d_q),
          .d_k = device_mutable_rows_of<Elem>(grads.d_k),
          .d_v = device_mutable_rows_of<Elem>(grads.d_v),
          .workspace = device_mutable_data<float>(workspace)};
      on_device(q.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
        const auto ours = [&] { kernels::attention_bwd<Backend, Elem>(stream, p, g); };
        if constexpr (detail::kHasLibraries<Backend>) {
          if (q.numel() > 0) return detail::attention_bwd_either<Elem>(stream, p, g, q, ours);
        }
        ours();
      });
    });
    return grads;
  }
  dispatch_f32_f64(q.dtype(), kOp, [&]<class Elem>() {
    kernels::attention_bwd<Elem>(
        cpu_arguments<Elem>(q, k, v, saved, options), {.d_out = detail::rows_of<Elem>(d_out),
                                                       .d_q = detail::mutable_rows_of<Elem>(grads.d_q),
                                                       .d_k = detail::mutable_rows_of<Elem>(grads.d_k),
                                                       .d_v = detail::mutable_rows_of<Elem>(grads.d_v)});
  });
  return grads;
}

}  // namespace avid
