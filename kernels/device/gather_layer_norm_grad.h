// kernels/device/gather_layer_norm_grad.h -- the end of a gathered product that makes d_h of h = layer_norm(x)
//
// Where the columns of a block are all of a row, d_h need not go to memory and back for layer_norm_bwd: its sums are
// staged in shared memory, 16 rows of a warp at a time, and from there L lanes take a row as that kernel does (the
// equations: kernels/layer_norm.cu). d_h stays in f32. The sums for d_gamma go over a warp's rows in order, then over
// the block's warps in order, and leave as one row per block.
#pragma once

#include "kernels/device/gather_norm.h"

namespace avid::kernels::AVID_GPU {

/// How a kernel ends, beside those of gather_norm.h.
struct LayerNormGradRows {
  static constexpr bool kNorm = false;
};

/// 16 rows of kColumns staged d_h, a warp together: d_x is stored, d_h xh added to the lane's share of d_gamma. Rows
/// with out_row < 0 are left out (their d_h is zero). L lanes hold a row, each K chunks.
template <int kColumns, int kPitch, int L, int K>
AVID_DEVICE void store_layer_norm_grad_rows(
    const GatherGemm<bf16>& p, const float* staged, const int* out_row, const float4* gamma, int lane,
    float (&sums)[K][8]) {
  constexpr int kChunks = kColumns / 8, kRows = 32 / L;
  const int C = p.layer_norm.C, l = lane % L;
  const auto load = [&](const ChunkRows<const bf16>& from, int r, Chunk8<bf16>(&to)[K]) {
    const int row = out_row[r];
    const bool any = row >= 0 && from.chunks > 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = l + j * L;
      const std::size_t at = any ? std::size_t{static_cast<unsigned>(row)} * from.pitch + chunk : 0;
      to[j] = load_chunk(from.data + at * 8, any ? C - chunk * 8 : 0);
    }
  };
  Chunk8<bf16> next[K];
  load(p.layer_norm.x, lane / L, next);
#pragma unroll 1
  for (int r = lane / L; r < 16; r += kRows) {
    Chunk8<bf16> x[K], residual[K];
#pragma unroll
    for (int j = 0; j < K; ++j) x[j] = next[j];
    load(p.residual, r, residual);
    if (r + kRows < 16) load(p.layer_norm.x, r + kRows, next);  // on its way beside the arithmetic of these rows
    const RowMoments m = row_moments<L, K, bf16>(x, l, C, p.layer_norm.eps);
    float q[K][8] = {}, sum_q = 0, sum_q_xh = 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = l + j * L;
      float v[8], factors[8] = {};
      if (chunk < kChunks) {
        load_staged_chunk<bf16>(q[j], staged + r * kPitch + chunk * 8, lane);
        get_coefficients<kChunks>(gamma, chunk, factors);
      }
      unpack(x[j], v);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float xh = (v[e] - m.mean) * m.rstd;  // behind the last channel d_h and gamma are zero
        sums[j][e] = fmaf(q[j][e], xh, sums[j][e]);
        q[j][e] *= factors[e];
        sum_q += q[j][e];
        sum_q_xh = fmaf(q[j][e], xh, sum_q_xh);
      }
    }
    const float mean_q = lane_sum<L>(sum_q) / static_cast<float>(C);
    const float mean_q_xh = lane_sum<L>(sum_q_xh) / static_cast<float>(C);
    const int row = out_row[r];
    if (row < 0) continue;
    bf16* out = p.out[0].data + std::size_t{static_cast<unsigned>(row)} * p.out[0].pitch * 8;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = l + j * L;
      float v[8], past[8];
      unpack(x[j], v);
      unpack(residual[j], past);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float xh = (v[e] - m.mean) * m.rstd;
        v[e] = fmaf(m.rstd, q[j][e] - mean_q - xh * mean_q_xh, past[e]);
      }
      store_chunk(out + chunk * 8, v, C - chunk * 8);
    }
  }
}

/// The whole end, by kWarps warps of which this is thread `thread`. `memory` holds their staged rows and gamma;
/// rows_of(i) are the numbers of the warp's i-th 16 rows, sum(i, j, e) as of stage_fragments. `barrier` is one of these
/// warps.
template <int kColumns, int kWarps, int kTilesM, class RowsOf, class Sum, class Barrier>
AVID_DEVICE void end_in_layer_norm_grad(
    const GatherGemm<bf16>& p, void* memory, int thread, const RowsOf& rows_of, const Sum& sum,
    const Barrier& barrier) {
  constexpr int kChunks = kColumns / 8, kPitch = staged_pitch(kColumns);
  constexpr int L = kColumns <= 128 ? 8 : 16, K = (kChunks + L - 1) / L;
  float* const all_staged = static_cast<float*>(memory);
  static_assert(kColumns <= 2 * 16 * kTilesM * kWarps, "layer_norm_bwd_workspace counts on it");
  float4* const gamma = reinterpret_cast<float4*>(all_staged + kWarps * 16 * kPitch);
  for (int c = thread; c < kColumns; c += 32 * kWarps)
    put_coefficient<kChunks>(gamma, c, c < p.layer_norm.C ? p.layer_norm.gamma[c] : 0.0f);
  barrier();
  const int lane = thread & 31;
  float* const staged = all_staged + thread / 32 * 16 * kPitch;
  float sums[K][8] = {};
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
    stage_fragments<kColumns, kPitch>(staged, lane, [&](int j, int e) { return sum(i, j, e); });
    __syncwarp();
    store_layer_norm_grad_rows<kColumns, kPitch, L, K>(p, staged, rows_of(i), gamma, lane, sums);
    __syncwarp();
  }
  if (p.layer_norm.d_gamma == nullptr) return;
  store_sums_over_rows<kColumns, L>(sums, staged, lane);
  barrier();
  const int width = p.out[0].chunks * 8;
  for (int c = thread; c < width; c += 32 * kWarps) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += all_staged[w * 16 * kPitch + c];
    p.layer_norm.d_gamma[std::size_t{blockIdx.x} * width + c] = total;
  }
}

}  // namespace avid::kernels::AVID_GPU
