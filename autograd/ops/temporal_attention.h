// autograd/ops/temporal_attention.h -- differentiable temporal_attention (x + attention through time)
#pragma once

#include "autograd/var.h"
#include "tensor/ops/temporal_attention.h"

namespace avid {

/// x + temporal attention of prenorm(x): pre-norm, projections, rotary code, relative bias, softmax, output, residual.
/// Contract, shapes and errors: tensor/ops/temporal_attention.h.
///
/// Grad     x, norm_gamma, w_qkv, w_out, bias_table; rotary_freqs is a constant. Saves x and the parameters (no
///          copies); the backward pass computes projections and attention again, a cache-sized piece at a time.
Var temporal_attention(
    const Var& x, const Var& norm_gamma, const Var& w_qkv, const Var& w_out, const Var& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options);

}  // namespace avid
