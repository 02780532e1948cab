// kernels/temporal_attention.h -- attention through time, one sequence of T tokens per pixel (contract:
// tensor/ops/temporal_attention.h)
#pragma once

#include "kernels/attention_block.h"
#include "kernels/device/backend.h"

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

// ---- on a device ----

/// Elem is float or BFloat16; gamma, table and frequencies are f32.
template <class Elem>
struct TemporalAttentionDeviceArgs : AttentionBlockDeviceArgs<Elem> {
  Rows<const float> bias_table;         ///< [32,N]
  const float* rotary_freqs = nullptr;  ///< [R], 2R <= D
  std::int64_t R = 0;
  /// Clips worked on at a time, which bounds the workspace; 0 leaves the choice to temporal_attention_plan().
  std::int64_t clips_per_chunk = 0;
  /// At most so many blocks run the fused backward kernel, each over several tiles: three on each multiprocessor of the
  /// largest device. It is fewer where two fit.
  std::int64_t fused_blocks = 396;
};

template <class Elem>
struct TemporalAttentionDeviceGrads : AttentionBlockDeviceGrads<Elem> {
  Rows<float> d_bias_table;  ///< [32,N]
};

/// Bytes of workspace for the forward or the backward pass. Throws std::invalid_argument for sizes that do not fit
/// (temporal_core_plan in temporal_attention_core.h).
template <class Elem>
std::int64_t temporal_attention_workspace_bytes(const TemporalAttentionDeviceArgs<Elem>& p, bool backward);

/// Sums in f32, the same bits in every run.
template <class Backend, class Elem>
void temporal_attention_fwd(const Stream& stream, const TemporalAttentionDeviceArgs<Elem>& p);
/// Computes everything from x again. d_x may not overlap d_y.
template <class Backend, class Elem>
void temporal_attention_bwd(
    const Stream& stream, const TemporalAttentionDeviceArgs<Elem>& p, const TemporalAttentionDeviceGrads<Elem>& g);

}  // namespace avid::kernels
