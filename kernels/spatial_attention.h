// kernels/spatial_attention.h -- softmax attention within each frame (contract: tensor/ops/spatial_attention.h)
#pragma once

#include <functional>

#include "kernels/attention.h"
#include "kernels/attention_block.h"
#include "kernels/device/backend.h"

namespace avid::kernels {

/// f32 runs the channel-major SIMD path, f64 the reference loops.
void spatial_attention_fwd(const AttentionBlockArgs& p);
void spatial_attention_bwd(const AttentionBlockArgs& p, const AttentionBlockGrads& g);

/// The reference loops for f32 or f64.
void spatial_attention_fwd_reference(const AttentionBlockArgs& p);
void spatial_attention_bwd_reference(const AttentionBlockArgs& p, const AttentionBlockGrads& g);

/// f32 only: channels by rows, positions in the SIMD lanes (kernels/spatial_attention_cpu_fast.cpp).
void spatial_attention_fwd_channel_major(const AttentionBlockArgs& p);
void spatial_attention_bwd_channel_major(const AttentionBlockArgs& p, const AttentionBlockGrads& g);

// ---- on a device ----

/// Bytes of AttentionBlockDeviceArgs::workspace for the forward or the backward pass.
template <class Elem>
std::int64_t spatial_attention_workspace_bytes(const AttentionBlockDeviceArgs<Elem>& p, bool backward);

/// What is done in place of the block's core, softmax attention within every frame. Empty: the core itself. A function
/// gets the operands (B frames, Q = K = S; log_sum is null in a forward pass) and `ours`, which runs the core on them.
template <class Elem>
struct SpatialAttentionCore {
  using Ours = std::function<void()>;
  std::function<void(const AttentionArgs<Elem>&, const Ours& ours)> fwd;
  std::function<void(const AttentionArgs<Elem>&, const AttentionGrads<Elem>&, const Ours& ours)> bwd;
};

/// Elem is float or BFloat16; sums in f32, the same bits in every run. Head widths up to 64.
template <class Backend, class Elem>
void spatial_attention_fwd(
    const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p, const SpatialAttentionCore<Elem>& core = {});
/// Computes everything from x again.
template <class Backend, class Elem>
void spatial_attention_bwd(
    const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p, const AttentionBlockDeviceGrads<Elem>& g,
    const SpatialAttentionCore<Elem>& core = {});

}  // namespace avid::kernels
