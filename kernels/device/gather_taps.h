// kernels/device/gather_taps.h -- the flattened inner dimension of a gathered product: sources, taps, chunks
//
// Shared by the kernels of gather_gemm: how a thread walks (source, tap, chunk) some chunks at a time without
// divisions, where sums start, and where rows of results lie. The end of the kernels: gather_norm.h.
#pragma once

#include "kernels/device/conv_tiles.h"
#include "kernels/device/gather_geometry.h"
#include "kernels/device/gpu.h"
#include "kernels/device/tile_products.h"

namespace avid::kernels::AVID_GPU {

/// One tap of one source: chunks from a window's origin row, the bits it asks of a window, its place in a row of
/// weights.
struct alignas(16) Tap {
  std::uint32_t offset;
  std::uint32_t bits;
  int weight;
  std::uint16_t chunks, source;
};

/// Entry i of the table: the taps of the phase in the order t, y, x, of the first source, then of the second, then an
/// endless one that is inside of no window.
template <class Elem>
AVID_DEVICE Tap tap_at(const GatherGemm<Elem>& p, const GatherView& g, int num_taps, int i) {
  const int source = i < num_taps ? 0 : 1;
  if (source == 1) i -= num_taps;
  if (i >= num_taps || p.source[source].chunks == 0) return {0, kNoTap, 0, 0xffff, 0};
  const int ix = i % g.x.taps, iy = i / g.x.taps % g.y.taps, it = i / g.x.taps / g.y.taps;
  const int row = (it * g.t.direction * g.y_in + iy * g.y.direction) * g.x_in + ix * g.x.direction;
  const int tap = ((g.t.first_tap + g.t.tap_step * it) * p.y.taps + g.y.first_tap + g.y.tap_step * iy) * p.x.taps +
                  g.x.first_tap + g.x.tap_step * ix;
  return {
      static_cast<std::uint32_t>(row) * p.source[source].pitch, tap_bits(it, iy, ix),
      p.weight_source[source] + tap * p.weight_tap[source], static_cast<std::uint16_t>(p.source[source].chunks),
      static_cast<std::uint16_t>(source)};
}

/// Entries that the table may need: one phase of the adjoint uses fewer taps.
template <class Problem>
constexpr int tap_table_size(const Problem& p) {
  return 2 * p.t.taps * p.y.taps * p.x.taps + 1;
}

/// One thread's place in the flattened inner dimension: its source, tap and chunk. It advances by kStepChunks.
template <class Elem, int kStepChunks>
struct InnerCursor {
  const GatherGemm<Elem>& p;
  const Tap* tap;        // in shared memory
  int left;              // chunks of this tap from this thread's on; more than 0
  const Elem* data;      // of the source
  std::uint32_t pitch;   // in chunks
  std::uint32_t offset;  // chunks from a window's origin row to this one, modulo 2^32
  std::uint32_t bits;    // what the tap asks of a window; kNoTap past the end
  int weight;            // chunk in a row of weights

  AVID_DEVICE InnerCursor(const GatherGemm<Elem>& problem, const Tap* table, int first_chunk)
      : p(problem), tap(table), left(table->chunks - first_chunk) {
    settle();
  }
  AVID_DEVICE bool done() const { return bits == kNoTap; }
  AVID_DEVICE void advance() {
    left -= kStepChunks;
    offset += kStepChunks;
    weight += kStepChunks;
    if (left <= 0) settle();
  }

 private:
  /// Carries into the next taps, and derives the rest.
  AVID_DEVICE void settle() {
    while (left <= 0) left += (++tap)->chunks;
    const Tap at = *tap;
    const int chunk = at.chunks - left;
    data = at.source == 0 ? p.source[0].data : p.source[1].data;
    pitch = at.source == 0 ? p.source[0].pitch : p.source[1].pitch;
    offset = at.offset + static_cast<std::uint32_t>(chunk);
    bits = at.bits;
    weight = at.weight + chunk;
  }
};

/// Byte of chunk c (0..3) of row r in a stage of rows of 64 bytes, without bank conflicts for copies and ldmatrix.
AVID_DEVICE constexpr int swizzled_64(int r, int c) { return r * 64 + ((c ^ ((r >> 1) & 3)) << 4); }

/// The row of the result at a position of a phase.
AVID_DEVICE int result_row(const GatherView& g, const RowPosition& at) {
  return ((at.b * g.t_out + at.t * g.t.out_step + g.t.out_first) * g.y_out + at.y * g.y.out_step + g.y.out_first) *
             g.x_out +
         at.x * g.x.out_step + g.x.out_first;
}

/// A chunk of staged results. The lanes of a warp read chunks that follow each other. Of 8 floats, as bf16 has them,
/// lanes 4 apart have theirs in the same banks: every other four lanes begin with the second half.
template <class Elem>
AVID_DEVICE void load_staged_chunk(float (&v)[kChunk<Elem>], const float* from, int lane) {
  if constexpr (kChunk<Elem> == 4) {
    load_chunk(v, from);
  } else {
    const bool swapped = (lane & 4) != 0;
    float a[4], b[4];
    load_chunk(a, from + (swapped ? 4 : 0));
    load_chunk(b, from + (swapped ? 0 : 4));
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      v[k] = swapped ? b[k] : a[k];
      v[4 + k] = swapped ? a[k] : b[k];
    }
  }
}

/// Stores 16 rows of kColumns staged results, a warp together: adds the residual, rounds once, writes whole chunks from
/// `first_chunk` of the result's rows on. Rows with out_row < 0 and chunks past the last are left out.
template <class Elem, int kColumns, int kPitch>
AVID_DEVICE void store_staged_rows(
    const GatherGemm<Elem>& p, const float* staged, const int* out_row, int first_chunk, int lane) {
  constexpr int kRowChunks = kColumns / kChunk<Elem>;
  for (int e = lane; e < 16 * kRowChunks; e += 32) {
    const int r = e / kRowChunks, c = e % kRowChunks;
    const int row = out_row[r], chunk = first_chunk + c;
    if (row < 0 || chunk >= p.out[0].chunks + p.out[1].chunks) continue;
    float v[kChunk<Elem>];
    load_staged_chunk<Elem>(v, staged + r * kPitch + c * kChunk<Elem>, lane);
    const bool second = chunk >= p.out[0].chunks;
    const int place = second ? chunk - p.out[0].chunks : chunk;
    const auto index = [&](std::uint32_t pitch) {
      return (std::size_t{static_cast<unsigned>(row)} * pitch + place) * kChunk<Elem>;
    };
    if (place < (second ? p.residual2.chunks : p.residual.chunks)) {
      float add[kChunk<Elem>];
      load_chunk(add, second ? p.residual2.data + index(p.residual2.pitch) : p.residual.data + index(p.residual.pitch));
#pragma unroll
      for (int k = 0; k < kChunk<Elem>; ++k) v[k] += add[k];
    }
    store_chunk(second ? p.out[1].data + index(p.out[1].pitch) : p.out[0].data + index(p.out[0].pitch), v);
  }
}

/// Sums start at the bias, from column `first` on: at(i, j, e) is value e (0..3) of the lane's share of the i-th 16
/// rows, or 64 of a warpgroup, and of columns 8 j to 8 j + 7, as mma leaves them.
template <int kTilesM, int kColumns, class Elem, class At>
AVID_DEVICE void start_at_bias(const GatherGemm<Elem>& p, int first, int lane, const At& at) {
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
    const int n = first + j * 8 + (lane & 3) * 2;
    const float even = n < p.num_bias ? p.bias[n] : 0.0f, odd = n + 1 < p.num_bias ? p.bias[n + 1] : 0.0f;
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) at(i, j, 0) = even, at(i, j, 1) = odd, at(i, j, 2) = even, at(i, j, 3) = odd;
  }
}

}  // namespace avid::kernels::AVID_GPU
