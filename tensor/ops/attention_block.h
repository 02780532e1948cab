// tensor/ops/attention_block.h -- what the three attention blocks share: options, checks, gradients
#pragma once

#include <cstdint>

#include "kernels/attention_block.h"
#include "tensor/tensor.h"

namespace avid {

/// Heads of an attention block. The inner width is heads * head_dim.
struct AttentionOptions {
  std::int64_t heads = 1;
  std::int64_t head_dim = 32;
};

/// Which gradients a backward pass is asked for; the work of the others is skipped.
struct AttentionNeeds {
  bool x = true, norm_gamma = true, w_qkv = true, w_out = true;
  bool b_out = false;       ///< linear_attention only
  bool bias_table = false;  ///< temporal_attention only
};

/// Gradients in the shapes of their inputs; those not asked for are undefined.
struct AttentionGrads {
  Tensor d_x, d_norm_gamma, d_w_qkv, d_w_out, d_b_out, d_bias_table;
};

namespace detail {

/// Checks shapes, dtypes and devices of the common operands and fills `args` with them. `b_out` may be undefined.
/// `op` opens every message.
void set_attention_operands(
    kernels::AttentionBlockArgs& args, const char* op, const Tensor& x, const Tensor& norm_gamma, const Tensor& w_qkv,
    const Tensor& w_out, const Tensor& b_out, const AttentionOptions& options);

/// Allocates the common gradients that are needed and fills `grads` with them and with d_out.
AttentionGrads allocate_attention_grads(
    kernels::AttentionBlockGrads& grads, const char* op, const Tensor& d_out, const Tensor& x, const Tensor& norm_gamma,
    const Tensor& w_qkv, const Tensor& w_out, const Tensor& b_out, const AttentionNeeds& needs);

}  // namespace detail
}  // namespace avid
