// tensor/ops/layer_norm.cpp -- checks and allocation of layer_norm
#include "tensor/ops/layer_norm.h"

#include "kernels/layer_norm.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "layer_norm";

void check_inputs(const Tensor& x, const Tensor& gamma) {
  detail::check_float(x, kOp, "x");
  check<ShapeError>(x.rank() >= 1 && x.cols() > 0, "{}: x: expected [...,C] with C > 0, got {}", kOp, x.describe());
  detail::check_operand(gamma, {x.cols()}, x.dtype(), kOp, "gamma");
}

}  // namespace

Tensor layer_norm_fwd(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  check_inputs(x, gamma);
  if (beta.defined()) detail::check_operand(beta, {x.cols()}, x.dtype(), kOp, "beta");
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    kernels::layer_norm_fwd<Elem>(
        {.num_rows = x.rows(),
         .C = x.cols(),
         .x = detail::rows_of<Elem>(x),
         .gamma = gamma.data<Elem>(),
         .beta = detail::data_or_null<Elem>(beta),
         .eps = eps,
         .out = detail::mutable_rows_of<Elem>(out)});
  });
  return out;
}

LayerNormGradients layer_norm_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& gamma, double eps, const LayerNormNeeds& needs) {
  check_inputs(x, gamma);
  detail::check_like(d_out, x, kOp, "d_out");
  LayerNormGradients grads;
  if (needs.x) grads.d_x = Tensor::empty(x.shape(), x.dtype());
  if (needs.gamma) grads.d_gamma = Tensor::empty(gamma.shape(), x.dtype());
  if (needs.beta) grads.d_beta = Tensor::empty(gamma.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    kernels::layer_norm_bwd<Elem>(
        {.num_rows = x.rows(),
         .C = x.cols(),
         .x = detail::rows_of<Elem>(x),
         .gamma = gamma.data<Elem>(),
         .beta = nullptr,
         .eps = eps,
         .out = {}},
        {.d_out = detail::rows_of<Elem>(d_out),
         .d_x = detail::mutable_rows_of<Elem>(grads.d_x),
         .d_gamma = detail::mutable_data_or_null<Elem>(grads.d_gamma),
         .d_beta = detail::mutable_data_or_null<Elem>(grads.d_beta)});
  });
  return grads;
}

}  // namespace avid
