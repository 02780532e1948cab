// kernels/device/linear_attention_core.h -- the core of composed linear attention on the FP32 units: f32, and heads of
// other than 32 channels
//
// Contexts: a block per (frame, slab of 512 positions, head), running maximum and a D x D sum in registers; slabs are
// combined in order. Outputs: a block per (frame, tile, head). Tiles lie in shared memory as f32.
// bf16 heads of 32 channels: linear_attention_head.h
#pragma once

#include "kernels/device/attention_tiles.h"
#include "kernels/rows.h"

namespace avid::kernels::AVID_GPU {

constexpr int kSlabRows = 512;  ///< positions of a frame that one block sums

/// Sizes of the core, and its rows.
template <class Elem>
struct LinearCore {
  std::int64_t F;  ///< frames
  int S, N, D, slabs;
  float scale;           ///< D^-1/2
  Rows<const Elem> qkv;  ///< [F*S, 3*N*D]
  float* partial;        ///< [F,slabs,N,D*D+2D]: context, maximum, sum of a slab; later d_context
  float* context;        ///< [F,N,D*D+2D]: context, maximum, 1/sum
  float* d_context;      ///< [F,N,D*D+D]: d_context, correction

  AVID_DEVICE float* partial_of(std::int64_t frame, int slab, int head) const {
    return partial + ((frame * slabs + slab) * N + head) * (D * D + 2 * D);
  }
  AVID_DEVICE float* context_of(std::int64_t frame, int head) const {
    return context + (frame * N + head) * (D * D + 2 * D);
  }
  AVID_DEVICE float* d_context_of(std::int64_t frame, int head) const {
    return d_context + (frame * N + head) * (D * D + D);
  }
  /// First channel of q (0), k (1) or v (2) of a head in one row.
  AVID_DEVICE const Elem* at(std::int64_t row, int part, int head) const {
    return qkv.data + row * qkv.pitch + (part * N + head) * D;
  }
};

/// A thread's piece of a [D,D] sum over positions: row i, J columns from j0.
template <int kD>
struct Piece {
  static constexpr int kJ = kD * kD / kCoreBlock;
  int i, j0;
  AVID_DEVICE Piece() : i(threadIdx.x / (kD / kJ)), j0(threadIdx.x % (kD / kJ) * kJ) {}
  /// acc[j] += sum_s left[s][i] right[s][j0+j]
  AVID_DEVICE void add_products(float (&acc)[kJ], const float* left, const float* right) const {
    using Tile = HeadTile<kD>;
#pragma unroll 4
    for (int s = 0; s < Tile::kRows; ++s) {
      const float l = left[s * Tile::kPitch + i];
#pragma unroll
      for (int j = 0; j < kJ; j += 4) {
        const float4 r = *reinterpret_cast<const float4*>(right + s * Tile::kPitch + j0 + j);
        acc[j] = fmaf(l, r.x, acc[j]);
        acc[j + 1] = fmaf(l, r.y, acc[j + 1]);
        acc[j + 2] = fmaf(l, r.z, acc[j + 2]);
        acc[j + 3] = fmaf(l, r.w, acc[j + 3]);
      }
    }
  }
};

/// partial = sum_s exp(k_si - maximum_i) v_sj over a slab, with the maximum and the sum of exponentials. Grid
/// (F*slabs, N).
template <class Elem, int kD>
__global__ void __launch_bounds__(kCoreBlock, 2) linear_attention_context_kernel(LinearCore<Elem> p) {
  using Tile = HeadTile<kD>;
  constexpr int kParts = kCoreBlock / kD;
  AVID_SHARED(float, k, [Tile::kFloats]);
  AVID_SHARED(float, v, [Tile::kFloats]);
  AVID_SHARED(float, parts, [kParts * kD]);
  AVID_SHARED(float, largest, [kD]);
  AVID_SHARED(float, shrink, [kD]);
  const std::int64_t frame = blockIdx.x / p.slabs;
  const int slab = static_cast<int>(blockIdx.x % p.slabs), head = static_cast<int>(blockIdx.y);
  const int end = min(p.S, (slab + 1) * kSlabRows);
  const int channel = threadIdx.x % kD, part = threadIdx.x / kD;
  const Piece<kD> piece;
  float acc[Piece<kD>::kJ] = {}, sum = 0;  // sum: of `channel`, in the first kD threads
  for (int t0 = slab * kSlabRows; t0 < end; t0 += Tile::kRows) {
    const int rows = min(Tile::kRows, end - t0);
    __syncthreads();
    load_tile<kD>(k, p.at(frame * p.S + t0, 1, head), p.qkv.pitch, rows, p.D);
    load_tile<kD>(v, p.at(frame * p.S + t0, 2, head), p.qkv.pitch, rows, p.D);
    __syncthreads();
    float top = -__FLT_MAX__;
    for (int s = part; s < rows; s += kParts) top = fmaxf(top, k[s * Tile::kPitch + channel]);
    parts[part * kD + channel] = top;
    __syncthreads();
    if (part == 0) {
      const float before = t0 == slab * kSlabRows ? -__FLT_MAX__ : largest[channel];
      for (int q = 0; q < kParts; ++q) top = fmaxf(top, parts[q * kD + channel]);
      top = fmaxf(top, before);
      largest[channel] = top;
      shrink[channel] = exp_of<Elem>(before - top);
    }
    __syncthreads();
    const float offset = largest[channel];
    float part_sum = 0;
    for (int s = part; s < Tile::kRows; s += kParts) {
      const float e = s < rows ? exp_of<Elem>(k[s * Tile::kPitch + channel] - offset) : 0.0f;
      k[s * Tile::kPitch + channel] = e;
      part_sum += e;
    }
    parts[part * kD + channel] = part_sum;
    __syncthreads();
    if (part == 0) {
      sum *= shrink[channel];
      for (int q = 0; q < kParts; ++q) sum += parts[q * kD + channel];
    }
#pragma unroll
    for (int j = 0; j < Piece<kD>::kJ; ++j) acc[j] *= shrink[piece.i];
    piece.add_products(acc, k, v);
  }
  float* out = p.partial_of(frame, slab, head);
  if (piece.i < p.D)
    for (int j = 0; j < Piece<kD>::kJ; ++j)
      if (piece.j0 + j < p.D) out[piece.i * p.D + piece.j0 + j] = acc[j];
  if (part == 0 && channel < p.D) {
    out[p.D * p.D + channel] = largest[channel];
    out[p.D * p.D + p.D + channel] = sum;
  }
}

/// Combines the slabs of a frame in order. Grid (F, N), a thread per (i, j).
template <class Elem>
__global__ void __launch_bounds__(kCoreBlock, 2) linear_attention_combine_kernel(LinearCore<Elem> p) {
  const std::int64_t frame = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y), D = p.D;
  float* out = p.context_of(frame, head);
  for (int e = threadIdx.x; e < D * D; e += kCoreBlock) {
    const int i = e / D;
    float top = -__FLT_MAX__, sum = 0, context = 0;
    for (int slab = 0; slab < p.slabs; ++slab) top = fmaxf(top, p.partial_of(frame, slab, head)[D * D + i]);
    for (int slab = 0; slab < p.slabs; ++slab) {
      const float* from = p.partial_of(frame, slab, head);
      const float shrink = exp_of<Elem>(from[D * D + i] - top);
      sum = fmaf(from[D * D + D + i], shrink, sum);
      context = fmaf(from[e], shrink, context);
    }
    out[e] = context / sum;
    if (e % D == 0) {
      out[D * D + i] = top;
      out[D * D + D + i] = 1.0f / sum;
    }
  }
}

/// A [D,D] matrix into shared memory, zero from D on; transposed on the way when kTransposed. No barrier.
template <int kD, bool kTransposed>
AVID_DEVICE void load_matrix(float* to, const float* from, int D) {
  for (int e = threadIdx.x; e < kD * kD; e += kCoreBlock) {
    const int i = e / kD, j = e % kD;
    to[kTransposed ? j * HeadTile<kD>::kPitch + i : i * HeadTile<kD>::kPitch + j] =
        i < D && j < D ? from[i * D + j] : 0.0f;
  }
}

/// a = qn context. Grid (F * tiles, N).
template <class Elem, int kD>
__global__ void __launch_bounds__(kCoreBlock, 2)
    linear_attention_apply_kernel(LinearCore<Elem> p, Rows<Elem> a, int tiles) {
  using Tile = HeadTile<kD>;
  AVID_SHARED(float, context, [Tile::kMatrixFloats]);
  AVID_SHARED(float, q, [Tile::kFloats]);
  const std::int64_t frame = blockIdx.x / tiles;
  const int t0 = static_cast<int>(blockIdx.x % tiles) * Tile::kRows, head = static_cast<int>(blockIdx.y);
  const int s = threadIdx.x / Tile::kLanes, c0 = threadIdx.x % Tile::kLanes * 8;
  const bool active = t0 + s < p.S;
  const std::int64_t row = frame * p.S + t0 + s;
  load_matrix<kD, false>(context, p.context_of(frame, head), p.D);
  float v[8] = {};
  if (active) load8(v, p.at(row, 0, head), c0, p.D);
  softmax_channels<kD, Elem>(v, c0, p.D);
#pragma unroll
  for (int e = 0; e < 8; ++e) v[e] *= p.scale;
  put8(q + s * Tile::kPitch + c0, v);
  __syncthreads();
  float out[8] = {};
  add_row_product<kD, Tile::kPitch>(out, q + s * Tile::kPitch, context, c0);
  if (active) store8(out, a.data + row * a.pitch + head * p.D, c0, p.D);
}

/// partial = scale sum_s softmax(q)_si d_a_sj over a slab. Grid (F*slabs, N).
template <class Elem, int kD>
__global__ void __launch_bounds__(kCoreBlock, 2)
    linear_attention_d_context_kernel(LinearCore<Elem> p, Rows<const Elem> d_a) {
  using Tile = HeadTile<kD>;
  AVID_SHARED(float, q, [Tile::kFloats]);
  AVID_SHARED(float, d, [Tile::kFloats]);
  const std::int64_t frame = blockIdx.x / p.slabs;
  const int slab = static_cast<int>(blockIdx.x % p.slabs), head = static_cast<int>(blockIdx.y);
  const int end = min(p.S, (slab + 1) * kSlabRows);
  const int s = threadIdx.x / Tile::kLanes, c0 = threadIdx.x % Tile::kLanes * 8;
  const Piece<kD> piece;
  float acc[Piece<kD>::kJ] = {};
  for (int t0 = slab * kSlabRows; t0 < end; t0 += Tile::kRows) {
    const int rows = min(Tile::kRows, end - t0);
    const std::int64_t row = frame * p.S + t0;
    __syncthreads();
    load_tile<kD>(d, d_a.data + row * d_a.pitch + head * p.D, d_a.pitch, rows, p.D);
    float v[8] = {};
    if (s < rows) load8(v, p.at(row + s, 0, head), c0, p.D);
    softmax_channels<kD, Elem>(v, c0, p.D);
    put8(q + s * Tile::kPitch + c0, v);
    __syncthreads();
    piece.add_products(acc, q, d);
  }
  float* out = p.partial_of(frame, slab, head);
  if (piece.i < p.D)
    for (int j = 0; j < Piece<kD>::kJ; ++j)
      if (piece.j0 + j < p.D) out[piece.i * p.D + piece.j0 + j] = acc[j] * p.scale;
}

/// Adds the slabs of d_context in order; correction_i = sum_j context_ij d_context_ij. Grid (F, N), 64 threads, i
/// each.
template <class Elem>
__global__ void __launch_bounds__(64) linear_attention_d_combine_kernel(LinearCore<Elem> p) {
  const std::int64_t frame = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y), D = p.D, i = threadIdx.x;
  if (i >= D) return;
  const float* context = p.context_of(frame, head) + i * D;
  float* out = p.d_context_of(frame, head);
  float correction = 0;
  for (int j = 0; j < D; ++j) {
    float sum = 0;
    for (int slab = 0; slab < p.slabs; ++slab) sum += p.partial_of(frame, slab, head)[i * D + j];
    out[i * D + j] = sum;
    correction = fmaf(sum, context[j], correction);
  }
  out[D * D + i] = correction;
}

/// d_qkv of a tile; may overwrite qkv. Grid (F * tiles, N).
template <class Elem, int kD>
__global__ void __launch_bounds__(kCoreBlock, 2)
    linear_attention_d_qkv_kernel(LinearCore<Elem> p, Rows<const Elem> d_a, Rows<Elem> d_qkv, int tiles) {
  using Tile = HeadTile<kD>;
  SharedArena arena;
  float* context_t = arena.take<float>(Tile::kMatrixFloats, "context_t");
  float* d_context = arena.take<float>(Tile::kMatrixFloats, "d_context");
  float* d_context_t = arena.take<float>(Tile::kMatrixFloats, "d_context_t");
  float* d = arena.take<float>(Tile::kFloats, "d_a");
  float* k = arena.take<float>(Tile::kFloats, "k");
  float* v = arena.take<float>(Tile::kFloats, "v");
  const std::int64_t frame = blockIdx.x / tiles;
  const int t0 = static_cast<int>(blockIdx.x % tiles) * Tile::kRows, head = static_cast<int>(blockIdx.y);
  const int rows = min(Tile::kRows, p.S - t0);
  const int s = threadIdx.x / Tile::kLanes, c0 = threadIdx.x % Tile::kLanes * 8;
  const bool active = s < rows;
  const std::int64_t row = frame * p.S + t0;
  const float *context = p.context_of(frame, head), *d_context_from = p.d_context_of(frame, head);
  load_matrix<kD, true>(context_t, context, p.D);
  load_matrix<kD, false>(d_context, d_context_from, p.D);
  load_matrix<kD, true>(d_context_t, d_context_from, p.D);
  load_tile<kD>(d, d_a.data + row * d_a.pitch + head * p.D, d_a.pitch, rows, p.D);
  load_tile<kD>(v, p.at(row, 2, head), p.qkv.pitch, rows, p.D);
  float q[8] = {}, kn[8] = {};
  if (active) {
    load8(q, p.at(row + s, 0, head), c0, p.D);
    load8(kn, p.at(row + s, 1, head), c0, p.D);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int i = c0 + e;
      kn[e] = i < p.D ? exp_of<Elem>(kn[e] - context[p.D * p.D + i]) * context[p.D * p.D + p.D + i] : 0.0f;
    }
  }
  softmax_channels<kD, Elem>(q, c0, p.D);
  put8(k + s * Tile::kPitch + c0, kn);
  __syncthreads();

  float d_q[8] = {}, d_k[8] = {}, d_v[8] = {};
  add_row_product<kD, Tile::kPitch>(d_q, d + s * Tile::kPitch, context_t, c0);
  float along = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) along = fmaf(d_q[e], q[e], along);
  along = row_sum<Tile::kLanes>(along);
#pragma unroll
  for (int e = 0; e < 8; ++e) d_q[e] = p.scale * q[e] * (d_q[e] - along);
  add_row_product<kD, Tile::kPitch>(d_k, v + s * Tile::kPitch, d_context_t, c0);
#pragma unroll
  for (int e = 0; e < 8; ++e) d_k[e] = kn[e] * (d_k[e] - (c0 + e < p.D ? d_context_from[p.D * p.D + c0 + e] : 0.0f));
  add_row_product<kD, Tile::kPitch>(d_v, k + s * Tile::kPitch, d_context, c0);
  if (!active) return;
  Elem* out = d_qkv.data + (row + s) * d_qkv.pitch + head * p.D;
  store8(d_q, out, c0, p.D);
  store8(d_k, out + p.N * p.D, c0, p.D);
  store8(d_v, out + 2 * p.N * p.D, c0, p.D);
}

}  // namespace avid::kernels::AVID_GPU
