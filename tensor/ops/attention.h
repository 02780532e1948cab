// tensor/ops/attention.h -- softmax attention of queries to keys, any number of either
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace avid {

struct SoftmaxAttentionOptions {
  std::int64_t heads = 1;
  double scale = 0;  ///< factor of the logits; 0 stands for head_dim^-1/2
};

struct SoftmaxAttention {
  Tensor out;
  Tensor log_sum;  ///< log sum_j exp(logit), [B*N*Q] without gaps; the backward pass reads it
};

/// Attention proper: no norm, no projections, no positions. Keys and values may come from somewhere else than queries.
///
///   p_ij = softmax_j(scale * q_i . k_j)   for every sequence and head;   out_i = sum_j p_ij v_j
///
/// Shapes   q, out [B,Q,N*D]; k, v [B,K,N*D], K > 0 unless B or Q is 0; head n is channels n*D .. n*D + D-1.
/// Dtypes   f32 or f64 on the CPU; f32 or bf16 on a device, where log_sum is f32. One for q, k, v.
/// Grad     q, k, v. Saves them, out and log_sum; probabilities are computed again.
/// Errors   ShapeError (on a device also for D > 64), DTypeError, DeviceError, thrown before any work.
/// Cost     4 B Q K N D FLOP; memory beyond the operands: B Q N numbers.
SoftmaxAttention attention_fwd(
    const Tensor& q, const Tensor& k, const Tensor& v, const SoftmaxAttentionOptions& options);

struct SoftmaxAttentionNeeds {
  bool q = true, k = true, v = true;
};
struct SoftmaxAttentionGrads {
  Tensor d_q, d_k, d_v;
};

/// Gradients from d_out [B,Q,N*D] and what attention_fwd returned.
SoftmaxAttentionGrads attention_bwd(
    const Tensor& d_out, const Tensor& q, const Tensor& k, const Tensor& v, const SoftmaxAttention& forward,
    const SoftmaxAttentionOptions& options, const SoftmaxAttentionNeeds& needs);

}  // namespace avid
