// kernels/linear_attention.h -- linear attention within each frame (contract: tensor/ops/linear_attention.h)
#pragma once

#include "kernels/attention_block.h"
#include "kernels/device/backend.h"

namespace avid::kernels {

/// f32 runs the channel-major SIMD path, f64 the reference loops. b_out belongs to this block.
void linear_attention_fwd(const AttentionBlockArgs& p);
void linear_attention_bwd(const AttentionBlockArgs& p, const AttentionBlockGrads& g);

/// The reference loops for f32 or f64.
void linear_attention_fwd_reference(const AttentionBlockArgs& p);
void linear_attention_bwd_reference(const AttentionBlockArgs& p, const AttentionBlockGrads& g);

/// f32 only: channels by rows, positions in the SIMD lanes (kernels/linear_attention_cpu_fast.cpp).
void linear_attention_fwd_channel_major(const AttentionBlockArgs& p);
void linear_attention_bwd_channel_major(const AttentionBlockArgs& p, const AttentionBlockGrads& g);

// ---- on a device ----

/// Bytes of AttentionBlockDeviceArgs::workspace for the forward or the backward pass.
template <class Elem>
std::int64_t linear_attention_workspace_bytes(const AttentionBlockDeviceArgs<Elem>& p, bool backward);

/// Elements of AttentionBlockDeviceArgs::key_sums, f32 [B*T,N][32 * (C rounded up to 8) + 32]: kn^T h of a head, and
/// the log of the sum of exponentials of each channel of k. 0: the forms of these sizes keep nothing, and want null.
template <class Elem>
std::int64_t linear_attention_key_sums(const AttentionBlockDeviceArgs<Elem>& p);

/// Elem is float or BFloat16; sums in f32, the same bits in every run. Head widths up to 64.
template <class Backend, class Elem>
void linear_attention_fwd(const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p);
/// Computes everything from x again, but for p.key_sums where the forward pass kept them.
template <class Backend, class Elem>
void linear_attention_bwd(
    const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p, const AttentionBlockDeviceGrads<Elem>& g);

}  // namespace avid::kernels
