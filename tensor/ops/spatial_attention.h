// tensor/ops/spatial_attention.h -- residual softmax attention within each frame
#pragma once

#include "tensor/ops/attention_block.h"

namespace avid {

/// The whole block: pre-norm, projections, softmax attention over the positions of a frame, output, residual.
///
///   h = (x - mean_c x) / sqrt(var_c x + 1e-5) * norm_gamma
///   [q | k | v] = h w_qkv^T, head-major
///   p_ij = softmax_j( D^-1/2 q_i . k_j );  a_i = sum_j p_ij v_j                    for each frame and head
///   out = x + a w_out^T
///
/// Shapes   x, out [B,T,H,W,C]; norm_gamma [C]; w_qkv [3*N*D,C]; w_out [C,N*D]. Empty tensors are legal.
/// Dtypes   CPU: f32 (SIMD path) or f64 (reference loops), one for all. Device: f32 or bf16, head_dim <= 64; vectors
///          of parameters and all gradients of parameters f32.
/// Grad     x and all parameters. The backward pass computes everything from x again.
/// Errors   ShapeError, DTypeError, DeviceError, thrown before any work.
/// Exact    no position code; gaps of out are zero; w_out = 0 returns x.
/// Source   spec/pixel.md 2.3 (middle of the network, 8x8 positions, head_dim 32). Deviations: none.
Tensor spatial_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const AttentionOptions& options);

/// Gradients of spatial_attention_fwd from d_out [B,T,H,W,C].
AttentionGrads spatial_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const AttentionOptions& options, const AttentionNeeds& needs);

}  // namespace avid
