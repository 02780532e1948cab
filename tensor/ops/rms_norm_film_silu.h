// tensor/ops/rms_norm_film_silu.h -- a ResNet block's RMSNorm, FiLM, SiLU and residual, fused
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// Normalises each pixel's channels, scales and shifts them per frame, activates, and adds a residual.
///
///   y = x / max(||x||_2, 1e-12) * sqrt(C) * gamma          norm over the C channels of one pixel
///   z = y * (scale + 1) + shift                            scale, shift = halves of film[b,t,:]; z = y without film
///   out = z * sigmoid(z) + residual
///
/// Shapes   x, residual [B,T,H,W,C]; gamma [C]; film [B,T,2C] or undefined; residual may be undefined; returns
///          [B,T,H,W,C].
/// Dtypes   CPU: f32 or f64, one for all. Device: x f32 or bf16, gamma and FiLM f32 (FiLM also bf16); d_gamma and the
///          like f32.
/// Grad     see rms_norm_film_silu_bwd; d_residual = d_out.
/// Errors   ShapeError, DTypeError, before any allocation.
/// Exact    x = 0 gives silu(shift) + residual, and a finite gradient.
/// Cost     memory bound in the forward pass: 2C (3C with residual) elements moved per pixel; backward 3C.
/// Source   pixel.md 2.3 (RMSNorm, Block). Deviations: none.
Tensor rms_norm_film_silu_fwd(const Tensor& x, const Tensor& gamma, const Tensor& film, const Tensor& residual);

struct RmsNormFilmSiluNeeds {
  bool x = true, gamma = true, film = true;
};
struct RmsNormFilmSiluGradients {
  Tensor d_x, d_gamma, d_film;  ///< undefined where not asked for
};
/// With n = max(||x||, 1e-12), u = x sqrt(C) / n, d_z = d_out * silu'(z), q = d_z gamma (1 + scale):
///   d_x = sqrt(C)/n (q - x sum_c(q x) / n^2) (second term absent where ||x|| < 1e-12)
///   d_gamma = sum d_z u (1 + scale);  d_scale = gamma sum_hw d_z u;  d_shift = sum_hw d_z
/// Everything but x, gamma and film is computed again.
RmsNormFilmSiluGradients rms_norm_film_silu_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& gamma, const Tensor& film, const RmsNormFilmSiluNeeds& needs);

}  // namespace avid
