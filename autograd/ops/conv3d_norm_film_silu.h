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

}  // namespace avid
