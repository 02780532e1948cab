// kernels/temporal_attention_core.h -- attention through time on projected rows, on a device: the middle of
// temporal_attention, between its two projections
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// Operands of the core. Rows are tokens (b, t, s) = (b*T + t)*S + s. Heads are padded: head n of a row begins at
/// n * head_pitch, elements D .. head_pitch of every head are zero on entry and on return.
///
///   q_i = rot_i(D^-1/2 q_i);  k_j = rot_j(k_j);  p_ij = softmax_j(q_i . k_j + bias[n,i,j]);  o_i = sum_j p_ij v_j
template <class Elem>
struct TemporalCoreArgs {
  std::int64_t B = 0, T = 0, S = 0, N = 0, D = 0;
  std::int64_t head_pitch = 0;    ///< D rounded up to 8
  Rows<Elem> qkv;                 ///< [B*T*S, 3*N*head_pitch]: q of all heads, k, v; bwd replaces it by its gradient
  const float* bias = nullptr;    ///< [N,T,T]
  const float* rotary = nullptr;  ///< [T,num_pairs,2] cos, sin of the angle of frame t and channel pair r
  std::int64_t num_pairs = 0;     ///< channels 2 * num_pairs and above stay; a multiple of 16, unused pairs hold 1, 0
  Rows<Elem> o;                   ///< [B*T*S, N*head_pitch]; bwd: d_o on entry, o on return
  float* d_bias_partials = nullptr;  ///< bwd: [plan.num_partials][N,T,T], every element written; or null
};

/// Warps of a block of the core's kernels.
inline constexpr int kTemporalCoreWarps = 4;

struct TemporalCoreSize {
  std::int64_t B = 0, T = 0, S = 0, N = 0, D = 0, num_pairs = 0;
};

/// How the core runs; a function of sizes and element type only.
struct TemporalCorePlan {
  bool on_tensor_cores = false;        ///< bf16, T <= 16, D <= 64, at most 16 channel pairs; else through shared memory
  std::int64_t num_items = 0;          ///< what a warp takes at a time: pixels, or pairs of pixels
  std::int64_t warps = 0, blocks = 0;  ///< warps per block; blocks per head
  std::int64_t shared_bytes = 0;       ///< of a block
  std::int64_t num_partials = 0;       ///< rows of d_bias_partials
  float scale = 1;                     ///< D^-1/2
};

/// Throws std::invalid_argument when a sequence does not fit shared memory or pixels do not fit 31 bits.
TemporalCorePlan temporal_core_plan(const TemporalCoreSize& size, DType dtype, bool backward);

/// o from qkv. Elem float (fused multiply-adds) or BFloat16 (tensor cores for T <= 16 and D <= 64, f32 accumulation).
template <class Backend, class Elem>
void temporal_core_fwd(const Stream& stream, const TemporalCoreArgs<Elem>& p);

/// Reads qkv and d_o (in o), writes d_qkv over qkv and o over d_o, and the sums of d_logits over this launch's pixels.
/// Deterministic: partial sums have a fixed owner and order.
template <class Backend, class Elem>
void temporal_core_bwd(const Stream& stream, const TemporalCoreArgs<Elem>& p);

}  // namespace avid::kernels
