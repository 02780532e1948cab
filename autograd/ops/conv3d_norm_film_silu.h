// autograd/ops/conv3d_norm_film_silu.h -- differentiable convolution with RMSNorm, FiLM, SiLU and residual behind it
#pragma once

#include "autograd/var.h"
#include "tensor/ops/conv3d.h"

namespace avid {

/// rms_norm_film_silu(conv3d(x, w, b, options, x2), gamma, film, residual): these two ops, or one kernel where
/// conv3d_norm_film_silu_is_one_kernel says so (tensor/ops/conv3d_norm_film_silu.h). Undefined b, x2, film or residual
/// = absent.
///
/// Grad     x, w, b, x2, gamma, film, residual, by the rules of the two ops, which save what they save: the
///          convolution's result among it. One kernel writes that only where something needs a gradient.
Var conv3d_norm_film_silu(
    const Var& x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& x2, const Var& gamma,
    const Var& film, const Var& residual);

/// conv3d_norm_film_silu without residual, for one reader, a convolution: no rule of the norm is recorded yet.
struct NormedConv3d {
  Tensor out;
  Var u, gamma, film;  ///< out = rms_norm_film_silu(u, gamma, film); undefined where none of it needs a gradient
};
NormedConv3d conv3d_norm_film_silu_for_conv3d(
    const Var& x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& x2, const Var& gamma,
    const Var& film);

/// conv3d_norm_film_silu of x.out. The gradient of x.out goes through the norm before it in one
/// kernel where there is one (autograd/ops/norm_film_silu_conv3d.h), else by the rules of the two ops.
Var conv3d_norm_film_silu(
    NormedConv3d x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& gamma, const Var& film,
    const Var& residual);

}  // namespace avid
