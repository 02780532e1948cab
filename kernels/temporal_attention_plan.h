// kernels/temporal_attention_plan.h -- how temporal_attention is cut into chunks on a device, and its working memory
#pragma once

#include <cstdint>

#include "kernels/temporal_attention.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels {

/// Chunks of whole clips, and byte offsets into the workspace. A function of sizes and element type only.
struct TemporalAttentionPlan {
  std::int64_t clips_per_chunk = 0, num_chunks = 0;
  std::int64_t head_pitch = 0;  ///< of weights and, unless the backward pass is fused, rows: D rounded up to 8, for
                                ///< the fused backward pass to 16 where its kernel has as many
  std::int64_t num_pairs = 0;   ///< R rounded up to 16
  std::int64_t inner = 0;       ///< N * head_pitch
  std::int64_t h_pitch = 0;     ///< C rounded up to 8
  StoredHeads o_heads;          ///< what rows of o look like
  StoredHeads qkv_heads;        ///< what rows of qkv look like; fused backward pass: of q and k, all there is
  std::int64_t qkv_pitch = 0, o_pitch = 0;
  std::int64_t num_partials = 0;  ///< rows of partial sums, all chunks together

  /// fwd runs as one kernel on all clips, without rows in the workspace; bwd as one kernel per chunk
  /// and what makes gradients of weights.
  bool fused = false;

  // Constant during a pass. Weights with padded heads, absent (-1) when the weights themselves will do; head_tiles: of
  // the fused backward kernel, which has them in an order of its own.
  int head_tiles = 0;
  std::int64_t w_qkv = -1, w_out = -1, rotary = -1, bias = -1;
  std::int64_t values = -1;  ///< of the fused passes, which take no other weights of v and of the output
  // Of one chunk: normalised rows (later their gradient), projected rows (later theirs), attention's output (first
  // d_o), in whose place the fused backward pass has probabilities.
  std::int64_t h = -1, qkv = -1, o = -1, prob = -1;
  std::int64_t linear = -1;  // working memory of linear
  // bwd only: gradients of one chunk (fused: d_gamma of all blocks and chunks), partial sums, working memory of
  // layer_norm
  std::int64_t d_w_qkv = -1, d_w_out = -1, d_gamma = -1, d_bias_partials = -1, d_bias = -1, norm = -1;
  // Fused bwd only, for the gradients of the weights of v and of the output: sums of each split, and in all.
  std::int64_t value_sums = -1, value_total = -1;
  std::int64_t total_bytes = 0;
};

/// Throws as temporal_core_plan does.
template <class Elem>
TemporalAttentionPlan temporal_attention_plan(const TemporalAttentionDeviceArgs<Elem>& p, bool backward);

}  // namespace avid::kernels
