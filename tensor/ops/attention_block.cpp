// tensor/ops/attention_block.cpp -- checks and allocation for the three attention blocks
#include "tensor/ops/attention_block.h"

#include "tensor/ops/operands.h"

namespace avid::detail {
namespace {

void check_operand(
    const Tensor& t, const Shape& expected, const char* why, DType dtype, const Tensor& x, const char* op,
    const char* name) {
  check<ShapeError>(
      t.defined() && t.shape() == expected, "{}: {}: expected {} ({}), got {}", op, name, expected, why,
      t.defined() ? t.describe() : "an undefined tensor");
  check<DTypeError>(
      t.dtype() == dtype, "{}: {}: expected {} {}, got {}", op, name, name_of(dtype),
      dtype == x.dtype() ? "as x" : "beside x on " + x.device().to_string(), t.describe());
  check_same_device(t, x, op, name);
}

}  // namespace

void check_attention_operands(
    const char* op, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& b_out, const AttentionOptions& options) {
  check<ShapeError>(
      x.defined() && x.rank() == 5 && x.cols() > 0, "{}: x: expected [B,T,H,W,C] with C > 0, got {}", op,
      x.defined() ? x.describe() : "an undefined tensor");
  check_float(x, op, "x");
  check<ShapeError>(
      options.heads > 0 && options.head_dim > 0, "{}: options: expected heads and head_dim > 0, got {} and {}", op,
      options.heads, options.head_dim);
  const std::int64_t C = x.cols(), inner = options.heads * options.head_dim;
  check_operand(norm_gamma, {C}, "the channels of x", parameter_dtype(x), x, op, "norm_gamma");
  check_operand(w_qkv, {3 * inner, C}, "3 * heads * head_dim by the channels of x", x.dtype(), x, op, "w_qkv");
  check_operand(w_out, {C, inner}, "the channels of x by heads * head_dim", x.dtype(), x, op, "w_out");
  if (b_out.defined()) check_operand(b_out, {C}, "the channels of x", parameter_dtype(x), x, op, "b_out");
}

void check_attention_grad(const char* op, const Tensor& d_out, const Tensor& x) {
  check_operand(d_out, x.shape(), "the shape of x", x.dtype(), x, op, "d_out");
}

void check_core_head(const char* op, const AttentionOptions& options) {
  check<ShapeError>(
      options.head_dim <= kernels::kMaxCoreHead, "{}: options: expected head_dim <= {} on a device, got {}", op,
      kernels::kMaxCoreHead, options.head_dim);
}

void set_attention_operands(
    kernels::AttentionBlockArgs& args, const char* op, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv,
    const Tensor& w_out, const Tensor& b_out, const AttentionOptions& options) {
  check_attention_operands(op, x, norm_gamma, w_qkv, w_out, b_out, options);
  check<DeviceError>(!x.device().is_gpu(), "{}: x: expected a tensor on cpu, got {}", op, x.device().to_string());
  args.dtype = x.dtype();
  args.B = x.dim(0);
  args.T = x.dim(1);
  args.S = x.dim(2) * x.dim(3);
  args.C = x.cols();
  args.N = options.heads;
  args.D = options.head_dim;
  args.x = x.raw_data();
  args.x_pitch = x.pitch();
  args.gamma = norm_gamma.raw_data();
  args.w_qkv = w_qkv.raw_data();
  args.w_qkv_pitch = w_qkv.pitch();
  args.w_out = w_out.raw_data();
  args.w_out_pitch = w_out.pitch();
  args.b_out = b_out.defined() ? b_out.raw_data() : nullptr;
}

AttentionGrads allocate_attention_grads(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionNeeds& needs) {
  AttentionGrads out;
  const auto allocate = [&](const Tensor& like, bool needed, Tensor& grad) {
    if (needed) grad = Tensor::empty(like.shape(), parameter_dtype(x), x.device());
  };
  if (needs.x) out.d_x = Tensor::uninitialised(x.shape(), x.dtype(), x.device());
  allocate(norm_gamma, needs.norm_gamma, out.d_norm_gamma);
  allocate(w_qkv, needs.w_qkv, out.d_w_qkv);
  allocate(w_out, needs.w_out, out.d_w_out);
  allocate(b_out, needs.b_out, out.d_b_out);
  return out;
}

AttentionGrads allocate_attention_grads(
    kernels::AttentionBlockGrads& grads, const char* op, const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma,
    const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out, const AttentionNeeds& needs) {
  check_attention_grad(op, d_out, x);
  grads.d_y = d_out.raw_data();
  grads.d_y_pitch = d_out.pitch();
  AttentionGrads out = allocate_attention_grads(x, norm_gamma, w_qkv, w_out, b_out, needs);
  const auto data = [](Tensor& grad) { return grad.defined() ? grad.raw_data() : nullptr; };
  grads.d_x = data(out.d_x);
  grads.d_gamma = data(out.d_norm_gamma);
  grads.d_w_qkv = data(out.d_w_qkv);
  grads.d_w_out = data(out.d_w_out);
  grads.d_b_out = data(out.d_b_out);
  if (needs.x) grads.d_x_pitch = out.d_x.pitch();
  if (needs.w_qkv) grads.d_w_qkv_pitch = out.d_w_qkv.pitch();
  if (needs.w_out) grads.d_w_out_pitch = out.d_w_out.pitch();
  return out;
}

}  // namespace avid::detail
