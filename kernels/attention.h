// kernels/attention.h -- softmax attention of any number of queries and keys (contract: tensor/ops/attention.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// Queries b*Q + i of q, out; keys b*K + j of k, v; head n is columns n*D .. n*D + D-1.
///
///   p_ij = softmax_j(scale * q_i . k_j);  out_i = sum_j p_ij v_j;  log_sum_i = log sum_j exp(scale * q_i . k_j)
template <class Elem>
struct AttentionArgs {
  std::int64_t B = 0, Q = 0, K = 0, N = 0, D = 0;  ///< K > 0
  double scale = 1;                                ///< not 0
  Rows<const Elem> q = {}, k = {}, v = {};
  Rows<Elem> out = {};  ///< written by fwd (its gaps stay as they are), read by bwd on a device
  /// [B,N,Q], written by fwd, read by bwd; Elem on the CPU, f32 on a device, where fwd can do without.
  void* log_sum = nullptr;
};

/// Gradients of a backward pass; each output may be absent. Overwritten. Gaps are left alone.
template <class Elem>
struct AttentionGrads {
  Rows<const Elem> d_out;
  Rows<Elem> d_q, d_k, d_v;
  float* workspace = nullptr;  ///< on a device: [B,N,Q] for sum_d d_out out; unused on the CPU
};

/// Elem is float (SIMD loops in f32) or double (the same loops in f64: the reference).
template <class Elem>
void attention_fwd(const AttentionArgs<Elem>& p);
template <class Elem>
void attention_bwd(const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g);

/// Widest head on a device.
inline constexpr std::int64_t kMaxFlashHead = 64;

/// Elem is float or BFloat16; sums in f32, the same bits in every run. D <= kMaxFlashHead; rows start at 16-byte
/// boundaries.
template <class Backend, class Elem>
void attention_fwd(const Stream& stream, const AttentionArgs<Elem>& p);
template <class Backend, class Elem>
void attention_bwd(const Stream& stream, const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g);

}  // namespace avid::kernels
