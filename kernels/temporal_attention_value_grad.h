// kernels/temporal_attention_value_grad.h -- gradients of the weights that values pass in temporal attention, on a
// device: behind temporal_fused_bwd
//
// v = h w_v^T, o = P v and y = x + o w_o^T are linear, so a head's weights can be applied behind the sum over the
// positions: sum = (P h)^T d_y, [C,C], then d_w_o = sum^T w_v^T and d_w_v^T = sum w_o.
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// Heads that a block of temporal_value_sums has.
inline constexpr int kValueGradHeads = 2;

/// By how many the pixels are divided, so that there are at most `most_blocks` blocks, or one per pair of heads.
constexpr std::int64_t temporal_value_splits(std::int64_t N, std::int64_t most_blocks) {
  const std::int64_t splits = N > 0 ? most_blocks / ((N + kValueGradHeads - 1) / kValueGradHeads) : 1;
  return splits > 1 ? splits : 1;
}

/// Blocks of the kernel on wgmma that a multiprocessor holds.
constexpr int value_wgmma_resident(std::int64_t C) { return C <= 56 ? 2 : 1; }

/// Blocks of temporal_value_sums for rows of C channels on a device of compute capability `arch` that may have `most`:
/// two for each multiprocessor of an A100 (108), or of the largest device of 9.0 (132), or as many as the kernel on
/// wgmma has there.
constexpr std::int64_t most_value_blocks(std::int64_t most, int arch, std::int64_t C, bool wgmma) {
  const std::int64_t fit = wgmma ? value_wgmma_resident(C) * 132 : arch >= 90 ? 2 * 132 : 2 * 108;
  return most < fit ? most : fit;
}

/// Operands: what the fused backward pass read and wrote. T is 8 or 16; there is a pixel, B * S > 0.
struct TemporalValueGradArgs {
  std::int64_t B = 0, T = 8, S = 0, C = 0, N = 0, D = 0;
  Rows<const BFloat16> h, d_y;     ///< [B*T*S,C], zeros up to whole chunks
  const BFloat16* prob = nullptr;  ///< as in TemporalFusedGrads
  std::int64_t splits = 0;         ///< by how many the pixels are divided (temporal_value_splits)
  float* sums = nullptr;           ///< [splits][N][C][C rounded up to 8]: sum of (P h)^T d_y over the pixels
  bool first = true;               ///< sums are set; else they are added to
};

/// The sums over the pixels of these clips, by the kernel on wgmma where the device has it. The same bits in every run.
/// Throws std::invalid_argument for sizes without a fused kernel (temporal_fused_kernel).
template <class Backend>
void temporal_value_sums(const Stream& stream, const TemporalValueGradArgs& p);

/// The same by the kernel for compute capability 9.0. GpuError without have_wgmma() (kernels/gather_gemm.h).
template <class Backend>
void temporal_value_sums_wgmma(const Stream& stream, const TemporalValueGradArgs& p);

/// d_w_v [N*D,C] and d_w_o [C,N*D], either of which may be absent, from p.sums. w_v [N*D,C] and w_o [C,N*D] are the
/// weights in their own order; total: [N][C][C rounded up to 8], working memory.
template <class Backend>
void temporal_value_weight_grads(
    const Stream& stream, const TemporalValueGradArgs& p, Rows<const BFloat16> w_v, Rows<const BFloat16> w_o,
    float* total, Rows<float> d_w_v, Rows<float> d_w_o);

}  // namespace avid::kernels
