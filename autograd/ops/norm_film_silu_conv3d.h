// autograd/ops/norm_film_silu_conv3d.h -- the gradient of a convolution through the norm before it, where nobody else
// reads what lies between
#pragma once

#include "autograd/var.h"
#include "tensor/ops/conv3d.h"

namespace avid {

/// The Var of `out` = conv3d(h, w, b, options), where h = rms_norm_film_silu(x, gamma, film) and both were computed
/// already; one rule is recorded for the two. h is no Var: nothing else can ask for its gradient, which is why that
/// need not exist in memory. Only where norm_film_silu_conv3d_bwd_is_one_kernel(h, w, options) says yes
/// (tensor/ops/norm_film_silu_conv3d.h). Undefined b or film = absent.
///
/// Grad     x, gamma, film, w, b: those of the two ops, the sums for gamma and film in another order. Saves x, gamma,
///          film, w, and h where w needs a gradient: what the two save.
Var norm_film_silu_conv3d_result(
    Tensor out, Tensor h, const Var& x, const Var& gamma, const Var& film, const Var& w, const Var& b,
    const Conv3dOptions& options);

}  // namespace avid
