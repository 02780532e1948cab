// tensor/ops/linear_attention.h -- residual linear attention within each frame
#pragma once

#include "tensor/ops/attention_block.h"

namespace avid {

/// The whole block: pre-norm, projections, linear attention over the positions of a frame, output with bias,
/// residual.
///
///   h = (x - mean_c x) / sqrt(var_c x + 1e-5) * norm_gamma
///   [q | k | v] = h w_qkv^T, head-major
///   q = D^-1/2 softmax over the D channels of a head;  k = softmax over the positions of the frame
///   context_ij = sum_s k_si v_sj;  a_sj = sum_i q_si context_ij                   for each frame and head
///   out = x + a w_out^T + b_out
///
/// Shapes   x, out [B,T,H,W,C]; norm_gamma [C]; w_qkv [3*N*D,C]; w_out [C,N*D]; b_out [C]. Empty tensors are legal.
/// Dtypes   CPU: f32 (SIMD path) or f64 (reference loops), one for all. Device: f32 or bf16, head_dim <= 64; vectors
///          of parameters and all gradients of parameters f32.
/// Grad     x and all parameters. The backward pass computes everything from x again, but for key_sums: where it is not
///          null and the forms of these sizes have a use for it (bf16 on a device), it becomes what
///          linear_attention_bwd takes, sums over the keys of each frame, 4 * (C + 1) * 32 * N bytes a frame. Else it
///          stays as it is.
/// Errors   ShapeError, DTypeError, DeviceError, thrown before any work.
/// Exact    gaps of out are zero.
/// Source   spec/pixel.md 2.3 (head_dim is 32 in every network there). Deviations: none; v is not divided by H*W.
Tensor linear_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out,
    const AttentionOptions& options, Tensor* key_sums = nullptr);

/// Gradients of linear_attention_fwd from d_out [B,T,H,W,C]; key_sums as it left them for the same operands, or
/// undefined: then they are computed again.
AttentionGrads linear_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& b_out, const AttentionOptions& options, const AttentionNeeds& needs, const Tensor& key_sums = {});

}  // namespace avid
