// tensor/ops/temporal_attention.h -- residual attention through time, one sequence of T tokens per pixel
#pragma once

#include "tensor/ops/attention_block.h"

namespace avid {

/// The whole block: pre-norm, projections, rotary code, relative position bias, attention, output, residual.
///
///   h = (x - mean_c x) / sqrt(var_c x + 1e-5) * norm_gamma
///   [q | k | v] = h w_qkv^T, head-major;  q *= D^-1/2
///   rot_p turns the channel pair (2r, 2r+1) of a head by p * rotary_freqs[r]; channels >= 2R stay
///   p_ij = softmax_j( rot_i(q_i) . rot_j(k_j) + bias_table[bucket(j - i), n] )     for each pixel and head n
///   out = x + concat_n(sum_j p_ij v_j) w_out^T
///
/// Shapes   x, out [B,T,H,W,C]; norm_gamma [C]; w_qkv [3*N*D,C]; w_out [C,N*D]; bias_table [32,N]; rotary_freqs [R]
///          with 2R <= D. Empty tensors are legal.
/// Dtypes   f32 (SIMD path) or f64 (reference loops), one for all; rotary_freqs is always f32.
/// Grad     x and all parameters; rotary_freqs is a constant. The backward pass computes everything from x again.
/// Errors   ShapeError, DTypeError, DeviceError, thrown before any work.
/// Exact    no mask; gaps of out are zero; w_out = 0 returns x.
/// Source   spec/pixel.md 2.3-2.5. Deviations: none.
Tensor temporal_attention_fwd(
    const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out, const Tensor& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options);

/// Gradients of temporal_attention_fwd from d_out [B,T,H,W,C].
AttentionGrads temporal_attention_bwd(
    const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv, const Tensor& w_out,
    const Tensor& bias_table, const Tensor& rotary_freqs, const AttentionOptions& options, const AttentionNeeds& needs);

}  // namespace avid
