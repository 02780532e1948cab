// autograd/ops/linear_attention.h -- differentiable linear_attention (x + linear attention within each frame)
#pragma once

#include "autograd/var.h"
#include "tensor/ops/linear_attention.h"

namespace avid {

/// x + linear attention of prenorm(x) over the positions of each frame; the output projection has a bias.
/// Contract, shapes and errors: tensor/ops/linear_attention.h.
///
/// Grad     x, norm_gamma, w_qkv, w_out, b_out. Saves x and the parameters (no copies), in bf16 on a device also sums
///          over the keys of each frame; the backward pass computes projections and attention again, a cache-sized
///          piece at a time.
Var linear_attention(
    const Var& x, const Var& norm_gamma, const Var& w_qkv, const Var& w_out, const Var& b_out,
    const AttentionOptions& options);

}  // namespace avid
