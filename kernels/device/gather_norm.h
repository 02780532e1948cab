// kernels/device/gather_norm.h -- the end of a gathered product: rows of sums are stored as they are, or normed first
//
// Where the columns of a block are all of a row, its sums need not go to memory and back for rms_norm_film_silu. They
// are staged in shared memory in any case (16 rows of a warp at a time), and from there L lanes take a row, each its
// chunks l, l + L ..., as in the norm's own kernel (row_lanes.h): the same additions in the same order, and so the same
// bits in out.
//
// The sums are rounded before anything is made of them, and staged so. A backward pass has the rounded row; and whether
// somebody wants it (training) or not (sampling) must not change out.
//
// a and shift of a frame are used by each of its rows: a table in shared memory holds them for all frames that a
// block's rows lie in, where the stages were. A lane reads those of its chunks once for 16 rows, and again where these
// go on in the next frame.
#pragma once

#include "kernels/device/gather_taps.h"
#include "kernels/device/rms_norm_steps.h"

namespace avid::kernels::AVID_GPU {

/// How a kernel ends; a parameter of its template, so that a norm costs the products without one nothing.
struct PlainRows {
  static constexpr bool kNorm = false;
};
struct NormedRows {
  static constexpr bool kNorm = true;
};

/// Coefficients of frames from `first_frame` on: kColumns / 8 chunks of a as row_lanes.h keeps them, then of shift.
struct NormTable {
  const float4* frames;
  int first_frame;
};

/// Fills the table for rows from `first_row` on, by threads of which this is number `thread`. A barrier must follow.
template <int kColumns, class Elem>
AVID_DEVICE NormTable fill_norm_table(const GatherGemm<Elem>& p, void* memory, int first_row, int thread, int threads) {
  constexpr int kChunks = kColumns / 8;
  float4* frames = static_cast<float4*>(memory);
  const int first_frame = first_row / p.norm.S;
  const int count = p.norm.film.data != nullptr ? min(p.norm.frames_per_block, p.norm.F - first_frame) : 1;
  const float root_c = sqrtf(static_cast<float>(p.norm.C));
  for (int i = thread; i < count * kColumns; i += threads) {
    const int frame = i / kColumns, c = i % kColumns;
    const float2 value = film_coefficients(p.norm, first_frame + frame, c, root_c);
    put_coefficient<kChunks>(frames + frame * 4 * kChunks, c, value.x);
    put_coefficient<kChunks>(frames + frame * 4 * kChunks + 2 * kChunks, c, value.y);
  }
  return {frames, first_frame};
}

/// a and shift of a frame for a chunk; zeros past the last.
template <int kChunks>
AVID_DEVICE void get_coefficients(const float4* frame, int chunk, float (&a)[8], float (&shift)[8]) {
#pragma unroll
  for (int e = 0; e < 8; ++e) a[e] = shift[e] = 0;
  if (chunk >= kChunks) return;
  get_coefficients<kChunks>(frame, chunk, a);
  get_coefficients<kChunks>(frame + 2 * kChunks, chunk, shift);
}

/// 32-bit words of a staged row of kColumns rounded sums: 4 modulo 32 banks, so that eight rows of four words do not
/// collide.
template <int kColumns>
inline constexpr int kStagedWords = (kColumns / 2 + 27) / 32 * 32 + 4;

/// Rounds a warp's sums, kTilesM times 16 rows of 8 kChunks columns, as mma leaves them over the lanes: sum(i, j, e) is
/// value e (0..3) of the lane's share of columns 8 j to 8 j + 7. Two neighbouring columns make a word, of the lane's
/// first row and of its second, 8 rows on.
template <int kTilesM, int kChunks, class Sum>
AVID_DEVICE void round_fragments(std::uint32_t (&to)[kTilesM][kChunks][2], const Sum& sum) {
#pragma unroll
  for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
    for (int j = 0; j < kChunks; ++j)
      to[i][j][0] = pack_bf16x2(sum(i, j, 0), sum(i, j, 1)), to[i][j][1] = pack_bf16x2(sum(i, j, 2), sum(i, j, 3));
  }
}

/// Writes 16 rows of rounded sums (round_fragments) to `staged`, 16 * kStagedWords<kColumns> words of the warp's own.
template <int kColumns>
AVID_DEVICE void stage_rounded_fragments(
    std::uint32_t* staged, int lane, const std::uint32_t (&rounded)[kColumns / 8][2]) {
  std::uint32_t* mine = staged + (lane >> 2) * kStagedWords<kColumns> + (lane & 3);
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) mine[8 * half * kStagedWords<kColumns> + j * 4] = rounded[j][half];
  }
}

/// Chunk `chunk` of staged row r.
template <int kColumns>
AVID_DEVICE Chunk8<bf16> load_rounded_chunk(const std::uint32_t* staged, int r, int chunk) {
  return {*reinterpret_cast<const uint4*>(staged + r * kStagedWords<kColumns> + chunk * 4)};
}

/// Stores 16 rows of kColumns staged and rounded sums, a warp together: norms, FiLM, SiLU, adds the residual, rounds,
/// writes. Rows with out_row < 0 are left out. L lanes hold a row, each K chunks.
template <int kColumns, int L, int K>
AVID_DEVICE void store_normed_rows(
    const GatherGemm<bf16>& p, const std::uint32_t* staged, const int* out_row, const NormTable& table, int lane) {
  constexpr int kChunks = kColumns / 8, kRows = 32 / L, kNone = -1;
  const int C = p.norm.C, first_chunk = lane % L;
  const auto load_residual = [&](int r, Chunk8<bf16>(&to)[K]) {
    const int row = out_row[r];
    const bool any = row >= 0 && p.residual.chunks > 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = first_chunk + j * L;
      const std::size_t at = any ? std::size_t{static_cast<unsigned>(row)} * p.residual.pitch + chunk : 0;
      to[j] = load_chunk(p.residual.data + at * 8, any ? C - chunk * 8 : 0);
    }
  };
  float a[K][8], shift[K][8];  // of `frame`
  int frame = kNone;
  Chunk8<bf16> next[K];
  load_residual(lane / L, next);
#pragma unroll 1
  for (int r = lane / L; r < 16; r += kRows) {
    const int row = out_row[r];
    Chunk8<bf16> u[K] = {}, residual[K];
    float squares = 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = first_chunk + j * L;
      if (chunk < kChunks) u[j] = load_rounded_chunk<kColumns>(staged, r, chunk);
      float v[8];
      unpack(u[j], v);
#pragma unroll
      for (int e = 0; e < 8; ++e) squares = fmaf(v[e], v[e], squares);
      residual[j] = next[j];
    }
    if (r + kRows < 16) load_residual(r + kRows, next);  // on its way beside the arithmetic of these rows
    bool moves;
    const float rnorm = reciprocal_norm(lane_sum<L>(squares), moves);
    if (row < 0) continue;
    const int of_row = p.norm.film.data != nullptr ? row / p.norm.S - table.first_frame : 0;
    if (of_row != frame) {
      frame = of_row;
#pragma unroll
      for (int j = 0; j < K; ++j)
        get_coefficients<kChunks>(table.frames + frame * 4 * kChunks, first_chunk + j * L, a[j], shift[j]);
    }
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = first_chunk + j * L, valid = C - chunk * 8;
      if (valid <= 0) continue;
      const std::size_t at = std::size_t{static_cast<unsigned>(row)};
      if (p.norm.sums.data != nullptr)
        *reinterpret_cast<uint4*>(p.norm.sums.data + (at * p.norm.sums.pitch + chunk) * 8) = u[j].bits;
      float v[8], add[8];
      unpack(u[j], v);
      unpack(residual[j], add);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float z = fmaf(v[e] * rnorm, a[j][e], shift[j][e]);
        v[e] = fmaf(z, sigmoid<bf16>(z), add[e]);
      }
      store_chunk(p.out[0].data + (at * p.out[0].pitch + chunk) * 8, v, valid);
    }
  }
}

/// Writes the sums over a warp's rows of what its lanes hold of kColumns columns to `to`, kColumns floats of the warp's
/// own. `sums` are those sums afterwards.
template <int kColumns, int L, int K>
AVID_DEVICE void store_sums_over_rows(float (&sums)[K][8], float* to, int lane) {
  sum_over_rows<L>(sums);
#pragma unroll
  for (int j = 0; j < K; ++j) {
    const int chunk = lane + j * L;
    if (lane >= L || chunk >= kColumns / 8) continue;
    float4* at = reinterpret_cast<float4*>(to + chunk * 8);
    at[0] = make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3]);
    at[1] = make_float4(sums[j][4], sums[j][5], sums[j][6], sums[j][7]);
  }
}

/// Writes 16 rows of kColumns sums that lie over a warp's lanes as mma leaves them to `staged`, 16 * kPitch floats of
/// the warp's own: sum(j, e) is value e (0..3) of the lane's share of columns 8 j to 8 j + 7.
template <int kColumns, int kPitch, class Sum>
AVID_DEVICE void stage_fragments(float* staged, int lane, const Sum& sum) {
  float* mine = staged + (lane >> 2) * kPitch + (lane & 3) * 2;
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      *reinterpret_cast<float2*>(mine + 8 * half * kPitch + j * 8) =
          make_float2(sum(j, 2 * half), sum(j, 2 * half + 1));
    }
  }
}

/// Stores a warp's sums, kTilesM times 16 rows of kColumns, through `staged`, 16 * kPitch floats of the warp's own.
/// rows_of(i) are the numbers of the i-th 16 rows, sum(i, j, e) is value e of stage_fragments there. The table is that
/// of fill_norm_table, read by NormedRows only.
template <class End, class Elem, int kColumns, int kPitch, int kTilesM, class RowsOf, class Sum>
AVID_DEVICE void store_fragments(
    const GatherGemm<Elem>& p, float* staged, int first_chunk, int lane, const NormTable& table, const RowsOf& rows_of,
    const Sum& sum) {
  if constexpr (End::kNorm) {
    static_assert(kStagedWords<kColumns> <= kPitch);
    std::uint32_t* const words = reinterpret_cast<std::uint32_t*>(staged);
    std::uint32_t rounded[kTilesM][kColumns / 8][2];  // all at once: half as many registers from here on
    round_fragments(rounded, sum);
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
      stage_rounded_fragments<kColumns>(words, lane, rounded[i]);
      __syncwarp();
      // As many lanes as with_row_lanes gives a row. Chunks that a row does not have add zeros.
      if constexpr (kColumns <= 192) {
        store_normed_rows<kColumns, 8, (kColumns + 63) / 64>(p, words, rows_of(i), table, lane);
      } else if (p.norm.C <= 192) {
        store_normed_rows<kColumns, 8, 3>(p, words, rows_of(i), table, lane);
      } else {
        store_normed_rows<kColumns, 16, 2>(p, words, rows_of(i), table, lane);
      }
      __syncwarp();
    }
  } else {
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
      stage_fragments<kColumns, kPitch>(staged, lane, [&](int j, int e) { return sum(i, j, e); });
      __syncwarp();
      store_staged_rows<Elem, kColumns, kPitch>(p, staged, rows_of(i), first_chunk, lane);
      __syncwarp();
    }
  }
}

}  // namespace avid::kernels::AVID_GPU
