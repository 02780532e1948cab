// kernels/temporal_attention.h -- attention through time, one sequence of T tokens per pixel (contract:
// tensor/ops/temporal_attention.h)
#pragma once

#include "kernels/attention_block.h"

namespace avid::kernels {

struct TemporalAttentionArgs : AttentionBlockArgs {
  const void* bias_table = nullptr;  ///< [32,N], elements of dtype
  std::int64_t bias_table_pitch = 0;
  const float* rotary_freqs = nullptr;  ///< [R]; the first 2R channels of each head rotate, 2R <= D
  std::int64_t R = 0;
};

struct TemporalAttentionGrads : AttentionBlockGrads {
  void* d_bias_table = nullptr;  ///< [32,N], or null
  std::int64_t d_bias_table_pitch = 0;
};

/// f32 runs the channel-major SIMD path, f64 the reference loops.
void temporal_attention_fwd(const TemporalAttentionArgs& p);
void temporal_attention_bwd(const TemporalAttentionArgs& p, const TemporalAttentionGrads& g);

/// The reference loops for f32 or f64.
void temporal_attention_fwd_reference(const TemporalAttentionArgs& p);
void temporal_attention_bwd_reference(const TemporalAttentionArgs& p, const TemporalAttentionGrads& g);

/// f32 only: channels by rows, pixels in the SIMD lanes (kernels/temporal_attention_cpu_fast.cpp).
void temporal_attention_fwd_channel_major(const TemporalAttentionArgs& p);
void temporal_attention_bwd_channel_major(const TemporalAttentionArgs& p, const TemporalAttentionGrads& g);

}  // namespace avid::kernels
