// kernels/device/gather_norm_grad.h -- the end of a gathered product that makes d_h of h = rms_norm_film_silu(x)
//
// Where the columns of a block are all of a row, d_h need not go to memory and back for rms_norm_film_silu_bwd: it is
// staged in shared memory, 16 rows of a warp at a time, and from there L lanes take a row as that kernel does (the
// equations: kernels/rms_norm_film_silu.cu). d_h is rounded first, and the additions of a row are those of that kernel
// in its order: d_x has its bits, and which way was taken is a matter of speed alone. Rounded, d_h takes half of the
// accumulators' registers, which the sums over rows need.
//
// The sums over rows are a frame's. A warp takes its rows frame by frame, in order: 16 rows that lie in two frames are
// walked twice, each time with the other frame's left out. The sums of a frame that is done go over the lanes to a
// place in shared memory that is this warp's and frame's; at the end over the block's warps, in order.
#pragma once

#include "kernels/device/gather_norm.h"

namespace avid::kernels::AVID_GPU {

/// How a kernel ends, beside those of gather_norm.h.
struct NormGradRows {
  static constexpr bool kNorm = false;
};

/// Of 16 rows of kColumns staged d_h those of one frame, a warp together: d_x is stored, the lane's share of the
/// frame's sums added. L lanes hold a row, each K chunks. `coefficients` are the frame's; rows with out_row < 0 lie in
/// no frame.
template <int kColumns, int L, int K>
AVID_DEVICE void store_norm_grad_rows(
    const GatherGemm<bf16>& p, const std::uint32_t* staged, const int* out_row, int frame, const float4* coefficients,
    int lane, float (&sum_zx)[K][8], float (&sum_z)[K][8]) {
  constexpr int kChunks = kColumns / 8, kRows = 32 / L;
  const int C = p.norm.C, first_chunk = lane % L, first_row = frame * p.norm.S;
  const auto of_frame = [&](int row) {
    return static_cast<unsigned>(row - first_row) < static_cast<unsigned>(p.norm.S);
  };
  const auto load_x = [&](int r, Chunk8<bf16>(&to)[K]) {
    const int row = out_row[r];
    const bool any = of_frame(row);
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = first_chunk + j * L;
      const std::size_t at = any ? std::size_t{static_cast<unsigned>(row)} * p.norm.x.pitch + chunk : 0;
      to[j] = load_chunk(p.norm.x.data + at * 8, any ? C - chunk * 8 : 0);
    }
  };
  constexpr bool kHeld = K <= 2;  // those of more chunks, beside their sums, do not fit into a lane's registers
  float a[K][8], shift[K][8];
  if constexpr (kHeld) {
#pragma unroll
    for (int j = 0; j < K; ++j) get_coefficients<kChunks>(coefficients, first_chunk + j * L, a[j], shift[j]);
  }
  Chunk8<bf16> next[K];
  load_x(lane / L, next);
#pragma unroll 1
  for (int r = lane / L; r < 16; r += kRows) {
    const int row = out_row[r];
    const bool any = of_frame(row);
    Chunk8<bf16> x[K];
    float squares = 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      x[j] = next[j];
      float v[8];
      unpack(x[j], v);
#pragma unroll
      for (int e = 0; e < 8; ++e) squares = fmaf(v[e], v[e], squares);
    }
    if (r + kRows < 16) load_x(r + kRows, next);  // on its way beside the arithmetic of these rows
    bool moves;
    const float rnorm = reciprocal_norm(lane_sum<L>(squares), moves);
    float dot = 0, q[K][8];
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = first_chunk + j * L;
      Chunk8<bf16> d{};
      if (any && chunk < kChunks) d = load_rounded_chunk<kColumns>(staged, r, chunk);
      if constexpr (!kHeld) get_coefficients<kChunks>(coefficients, chunk, a[j], shift[j]);
      float v[8];
      unpack(x[j], v);
      unpack(d, q[j]);
      add_gradient_of_z<bf16>(v, rnorm, a[j], shift[j], q[j], sum_zx[j], sum_z[j], dot);
    }
    dot = lane_sum<L>(dot);
    if (!any) continue;
    const float along = moves ? dot : 0.0f;
    bf16* out = p.out[0].data + std::size_t{static_cast<unsigned>(row)} * p.out[0].pitch * 8;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = first_chunk + j * L;
      float v[8];
      unpack(x[j], v);
      gradient_of_x(v, rnorm, q[j], along);
      store_chunk(out + chunk * 8, v, C - chunk * 8);
    }
  }
}

/// A warp's share of the end: its d_h in order, as mma leaves it but rounded, two neighbouring columns to a word.
/// `staged` is its own memory for 16 rows, warp_sums + frame * frame_sums its place for a frame's sums, [2][kColumns].
template <int kColumns, int kTilesM, int L, int K, class RowsOf>
AVID_DEVICE void norm_grad_of_warp(
    const GatherGemm<bf16>& p, const std::uint32_t (&d_h)[kTilesM][kColumns / 8][2], std::uint32_t* staged,
    const NormTable& table, float* warp_sums, int frame_sums, int lane, const RowsOf& rows_of) {
  constexpr int kChunks = kColumns / 8, kNone = -1;
  float sum_zx[K][8] = {}, sum_z[K][8] = {};
  const auto put = [&](float(&sums)[K][8], float* to) {
    store_sums_over_rows<kColumns, L>(sums, to, lane);
#pragma unroll
    for (int j = 0; j < K; ++j) {
#pragma unroll
      for (int e = 0; e < 8; ++e) sums[j][e] = 0;
    }
  };
  int frame = kNone;
  const auto put_frame = [&] {
    if (frame == kNone) return;
    float* to = warp_sums + (frame - table.first_frame) * frame_sums;
    put(sum_zx, to);
    put(sum_z, to + kColumns);
  };
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
    stage_rounded_fragments<kColumns>(staged, lane, d_h[i]);
    __syncwarp();
    const int* out_row = rows_of(i);
    const int row = out_row[lane & 15], of_row = row < 0 ? kNone : row / p.norm.S;
    const int last = __reduce_max_sync(0xffffffffu, of_row);
    int at = __reduce_min_sync(0xffffffffu, of_row == kNone ? last : of_row);
#pragma unroll 1
    for (; at != kNone && at <= last; ++at) {
      if (at != frame) {
        put_frame();
        frame = at;
      }
      const int of_table = p.norm.film.data != nullptr ? at - table.first_frame : 0;
      store_norm_grad_rows<kColumns, L, K>(
          p, staged, out_row, at, table.frames + of_table * 4 * kChunks, lane, sum_zx, sum_z);
    }
    __syncwarp();
  }
  put_frame();
}

/// The whole end, by kWarps warps of which this is thread `thread`. `memory` holds their staged rows, the table of
/// norm.frames_per_block frames (fill_norm_table; the block's rows begin in the frame of `first_row`), and the warps'
/// sums; rows_of(i) are the numbers of the warp's i-th 16 rows, frame by frame but for those < 0, sum(i, j, e) is value
/// e of stage_fragments there. `barrier` is one of these warps.
template <int kColumns, int kWarps, int kTilesM, class RowsOf, class Sum, class Barrier>
AVID_DEVICE void end_in_norm_grad(
    const GatherGemm<bf16>& p, void* memory, int first_row, int thread, const RowsOf& rows_of, const Sum& sum,
    const Barrier& barrier) {
  // As many lanes as with_row_lanes gives a row; the widest tiles get none of fewer channels (norm_blocks).
  constexpr int L = kColumns <= 192 ? 8 : 16, K = kColumns <= 192 ? (kColumns + 63) / 64 : 2;
  constexpr int kFrameSums = kWarps * 2 * kColumns, kRowWords = 16 * kStagedWords<kColumns>;
  constexpr std::size_t kStaged = staged_bytes(kWarps, kColumns);
  static_assert(kColumns <= 256 && kWarps * kRowWords * sizeof(std::uint32_t) <= kStaged);
  std::uint32_t d_h[kTilesM][kColumns / 8][2];
  round_fragments(d_h, sum);
  const int frames = p.norm.frames_per_block, warp = thread / 32;
  unsigned char* const behind = static_cast<unsigned char*>(memory) + kStaged;
  float* const sums = reinterpret_cast<float*>(behind + frames * norm_table_bytes(kColumns));  // [frames][kWarps][2][]
  const NormTable table = fill_norm_table<kColumns>(p, behind, first_row, thread, 32 * kWarps);
  for (int i = thread; i < frames * kFrameSums; i += 32 * kWarps) sums[i] = 0;
  barrier();
  norm_grad_of_warp<kColumns, kTilesM, L, K>(
      p, d_h, static_cast<std::uint32_t*>(memory) + warp * kRowWords, table, sums + warp * 2 * kColumns, kFrameSums,
      thread & 31, rows_of);
  barrier();
  const int width = p.out[0].chunks * 8;
  float* to = p.norm.column_sums + std::size_t{blockIdx.x} * frames * 2 * width;
  for (int i = thread; i < frames * 2 * width; i += 32 * kWarps) {
    const int place = i / width, c = i % width;  // a frame's sums of d_z x/n, or of d_z
    const float* from = sums + place / 2 * kFrameSums + place % 2 * kColumns + c;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += from[w * 2 * kColumns];
    to[i] = total;
  }
}

}  // namespace avid::kernels::AVID_GPU
