// autograd/ops/unet_input.h -- differentiable unet_input
#pragma once

#include "autograd/var.h"

namespace avid {

/// Channels of every frame: cond [B,K,H,W,3] colour-major (colour*K+frame) and repeated per frame, then x_t
/// [B,T,H,W,3], then base [B,T,H,W,3] if defined. Returns [B,T,H,W,3K+3(+3)]. Contract and errors:
/// tensor/ops/unet_input.h.
///
/// Grad     x_t and base: their channels of d_out. Saves nothing.
Var unet_input(const Tensor& cond, const Var& x_t, const Var& base);

}  // namespace avid
