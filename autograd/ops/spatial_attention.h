// autograd/ops/spatial_attention.h -- differentiable spatial_attention (x + softmax attention within each frame)
#pragma once

#include "autograd/var.h"
#include "tensor/ops/spatial_attention.h"

namespace avid {

/// x + softmax attention of prenorm(x) over the positions of each frame; no biases, no position code.
/// Contract, shapes and errors: tensor/ops/spatial_attention.h.
///
/// Grad     x, norm_gamma, w_qkv, w_out. Saves x and the parameters (no copies); the backward pass
///          computes projections and attention again, a cache-sized piece at a time.
Var spatial_attention(
    const Var& x, const Var& norm_gamma, const Var& w_qkv, const Var& w_out, const AttentionOptions& options);

}  // namespace avid
