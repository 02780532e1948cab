// tensor/ops/layer_norm.h -- LayerNorm over the last dimension
#pragma once

#include "tensor/tensor.h"

namespace avid {

///   out = (x - mean) / sqrt(var + eps) * gamma + beta,   mean and biased variance over the last dimension
///
/// Shapes   x [...,C]; gamma [C]; beta [C] or undefined; returns [...,C].
/// Dtypes   CPU: f32 or f64, one for all. Device: x f32 or bf16, gamma and beta f32; d_gamma and the like f32.
/// Grad     with xh = (x - mean) rstd and q = d_out gamma: d_x = rstd (q - mean(q) - xh mean(q xh)); d_gamma = sum
///          d_out xh;
///          d_beta = sum d_out. Needs x only; the statistics are computed again.
/// Source   pixel.md 2.3 (pre-norm, without beta) and 6.1. Deviations: none.
Tensor layer_norm_fwd(const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps = 1e-5);

struct LayerNormNeeds {
  bool x = true, gamma = true, beta = true;
};
struct LayerNormGradients {
  Tensor d_x, d_gamma, d_beta;  ///< undefined where not asked for
};
LayerNormGradients layer_norm_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& gamma, double eps, const LayerNormNeeds& needs);

}  // namespace avid
