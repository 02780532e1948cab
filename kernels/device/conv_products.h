// kernels/device/conv_products.h -- a convolution, its adjoint and its weight gradient as gathered products
//
// Host code shared by conv3d.cu, conv_transpose3d.cu and linear.cu: which product, which layout of the weights, how
// much workspace. A linear layer is the convolution of one tap over a line of rows.
#pragma once

#include <algorithm>
#include <string>

#include "kernels/gather_gemm.h"
#include "kernels/linear.h"

namespace avid::kernels::conv_products {

/// Kernels find a chunk of a source by its number, 32 bits of it: GpuError where rows have more.
template <class Elem>
void check_source(const char* op, const char* name, const ChunkRows<Elem>& rows, std::int64_t num_rows) {
  if (rows.chunks == 0 || num_rows * std::int64_t{rows.pitch} <= std::int64_t{1} << 32) return;
  throw GpuError(
      std::string(op) + ": " + name + ": at most 64 GiB on a device, got " +
      std::to_string(num_rows * rows.pitch >> 26) + " GiB | use a smaller batch");
}

/// A linear layer as a convolution.
inline Conv3dSize of_linear(const LinearSize& s) {
  Conv3dSize c;
  c.B = 1;
  c.in = c.out = {1, 1, s.P};
  c.I = s.I, c.I2 = s.I2, c.O = s.O;
  return c;
}

struct Axes {
  int B;
  GatherAxis t, y, x;
};

/// One tap, no stride, no padding: rows meet rows, whatever their coordinates.
inline bool is_row_product(const Conv3dSize& s) {
  return s.taps() == 1 && s.stride == decltype(s.stride){1, 1, 1} && s.padding == decltype(s.padding){};
}

inline Axes axes_of(const char* op, const Conv3dSize& s, bool adjoint) {
  if (is_row_product(s)) {
    Conv3dSize line;
    line.B = 1, line.in = line.out = {1, 1, s.in_positions()};
    return {1, {}, {}, gather_axis(op, line, 2, adjoint)};
  }
  return {
      static_cast<int>(s.B), gather_axis(op, s, 0, adjoint), gather_axis(op, s, 1, adjoint),
      gather_axis(op, s, 2, adjoint)};
}

template <class Problem>
void set_axes(Problem& p, const Axes& axes) {
  p.B = axes.B, p.t = axes.t, p.y = axes.y, p.x = axes.x;
}

// ---- forward ----

/// The weights are read where they are unless x2's columns would start inside a chunk.
template <class Elem>
bool packs_forward_weights(const Conv3dSize& s) {
  return s.I2 > 0 && s.I % kChunk<Elem> != 0;
}

template <class Elem>
PackWeights<Elem> forward_weights(const Conv3dSize& s, Rows<const Elem> w, Elem* to) {
  return {.from = w, .O = s.O, .taps = s.taps(), .I = s.I, .I2 = s.I2, .to = to};
}

template <class Elem>
std::int64_t forward_workspace_bytes(const Conv3dSize& s) {
  return packs_forward_weights<Elem>(s) ? forward_weights<Elem>(s, {}, nullptr).to_bytes() : 0;
}

/// out = [x | x2] * w + bias + residual, or normed rows plus residual. `tile` as GatherGemm::tile.
template <class Backend, class Elem>
void forward(
    const char* op, const Stream& stream, const Conv3dSize& s, Rows<const Elem> x, Rows<const Elem> x2,
    Rows<const Elem> w, const float* bias, Rows<const Elem> residual, Rows<Elem> out, void* workspace,
    int tile = kChooseTile, const RowNorm<Elem>& norm = {}) {
  GatherGemm<Elem> p;
  set_axes(p, axes_of(op, s, false));
  p.source[0] = chunk_rows(op, "x", x, s.I);
  p.source[1] = chunk_rows(op, "x2", x2, s.I2);
  check_source(op, "x", p.source[0], s.in_positions());
  check_source(op, "x2", p.source[1], s.in_positions());
  p.source_channels[0] = static_cast<int>(s.I), p.source_channels[1] = static_cast<int>(s.I2);
  p.num_weight_rows = static_cast<int>(s.O);
  const int chunks = static_cast<int>(chunks_of<Elem>(s.I)), chunks2 = static_cast<int>(chunks_of<Elem>(s.I2));
  if (packs_forward_weights<Elem>(s)) {
    const PackWeights<Elem> pack = forward_weights(s, w, static_cast<Elem*>(workspace));
    pack_weights<Backend>(stream, pack);
    p.weights = pack.to;
    p.weight_row = static_cast<std::uint32_t>(pack.to_row_chunks());
    // All taps of x, then all of x2; the product asks for base + tap*weight_tap + chunk, so the two steps differ.
    p.weight_tap[0] = chunks, p.weight_tap[1] = chunks2;
    p.weight_source[1] = static_cast<int>(s.taps()) * chunks;
  } else {
    p.weights = w.data;
    p.weight_tap[0] = p.weight_tap[1] = static_cast<int>(chunk_rows(op, "w", w, s.I + s.I2).pitch);
    p.weight_row = static_cast<std::uint32_t>(s.taps() * p.weight_tap[0]);
    p.weight_source[1] = static_cast<int>(s.I / kChunk<Elem>);
  }
  p.bias = bias, p.num_bias = bias ? static_cast<int>(s.O) : 0;
  p.residual = chunk_rows(op, "residual", residual, s.O);
  p.out[0] = chunk_rows(op, "out", out, s.O);
  p.norm = norm;
  p.tile = tile;
  gather_gemm<Backend>(stream, p);
}

/// A norm of the rows of a forward pass, by its sizes.
template <class Elem>
RowNorm<Elem> row_norm(const Conv3dSize& s) {
  RowNorm<Elem> norm;
  norm.F = static_cast<int>(s.B * s.out[0]), norm.S = static_cast<int>(s.out[1] * s.out[2]);
  norm.C = static_cast<int>(s.O);
  return norm;
}

/// The shape of forward()'s product, which is what a tile is chosen by.
template <class Elem>
GatherGemm<Elem> forward_shape(const char* op, const Conv3dSize& s) {
  GatherGemm<Elem> p;
  set_axes(p, axes_of(op, s, false));
  p.source[0].chunks = static_cast<int>(chunks_of<Elem>(s.I));
  p.source[1].chunks = static_cast<int>(chunks_of<Elem>(s.I2));
  p.source_channels[0] = static_cast<int>(s.I), p.source_channels[1] = static_cast<int>(s.I2);
  p.out[0].chunks = static_cast<int>(chunks_of<Elem>(s.O));
  p.norm = row_norm<Elem>(s);
  return p;
}

// ---- adjoint: the data gradient, and the forward pass of a transposed convolution ----

template <class Elem>
PackWeights<Elem> adjoint_weights(const Conv3dSize& s, Rows<const Elem> w, bool first, bool second, Elem* to) {
  return {
      .from = w,
      .O = s.O,
      .taps = s.taps(),
      .I = s.I,
      .I2 = s.I2,
      .transposed = true,
      .use_first = first,
      .use_second = second,
      .to = to};
}

template <class Elem>
std::int64_t adjoint_workspace_bytes(const Conv3dSize& s) {
  return adjoint_weights<Elem>(s, {}, true, true, nullptr).to_bytes();
}

/// d_x and d_x2 (either may be absent) from d_out; bias and the rows of add_x, if any, are added to d_x, those of
/// add_x2 to d_x2. With `layer_norm` or `norm` d_x is what it makes of these rows.
template <class Backend, class Elem>
void adjoint(
    const char* op, const Stream& stream, const Conv3dSize& s, Rows<const Elem> d_out, Rows<const Elem> w,
    const float* bias, Rows<const Elem> add_x, Rows<const Elem> add_x2, Rows<Elem> d_x, Rows<Elem> d_x2,
    void* workspace, int tile = kChooseTile, const LayerNormGrad<Elem>& layer_norm = {},
    const RowNorm<Elem>& norm = {}) {
  if (s.I2 == 0) d_x2 = {};
  const PackWeights<Elem> pack = adjoint_weights(s, w, bool(d_x), bool(d_x2), static_cast<Elem*>(workspace));
  pack_weights<Backend>(stream, pack);
  GatherGemm<Elem> p;
  set_axes(p, axes_of(op, s, true));
  p.adjoint = true;
  p.source[0] = chunk_rows(op, "d_out", d_out, s.O);
  check_source(op, "d_out", p.source[0], s.out_positions());
  p.source_channels[0] = static_cast<int>(s.O);
  p.weights = pack.to;
  p.weight_row = static_cast<std::uint32_t>(pack.to_row_chunks());
  p.weight_tap[0] = static_cast<int>(chunks_of<Elem>(s.O));
  p.num_weight_rows = static_cast<int>(pack.to_rows());
  p.bias = bias, p.num_bias = bias ? static_cast<int>(s.I) : 0;
  if (d_x) p.residual = chunk_rows(op, "add_x", add_x, s.I);
  if (d_x2) p.residual2 = chunk_rows(op, "add_x2", add_x2, s.I2);
  p.out[0] = chunk_rows(op, "d_x", d_x, s.I);
  p.out[1] = chunk_rows(op, "d_x2", d_x2, s.I2);
  p.layer_norm = layer_norm;
  p.norm = norm;
  p.tile = tile;
  gather_gemm<Backend>(stream, p);
}

/// The shape of adjoint()'s product to d_x alone, which is what a tile is chosen by.
template <class Elem>
GatherGemm<Elem> adjoint_shape(const char* op, const Conv3dSize& s) {
  GatherGemm<Elem> p;
  set_axes(p, axes_of(op, s, true));
  p.adjoint = true;
  p.source[0].chunks = static_cast<int>(chunks_of<Elem>(s.O));
  p.source_channels[0] = static_cast<int>(s.O);
  p.out[0].chunks = static_cast<int>(chunks_of<Elem>(s.I));
  return p;
}

/// The gradient of a norm whose result is x, by its sizes: norm_blocks() of adjoint_shape() with this.
template <class Elem>
RowNorm<Elem> row_norm_grad(const Conv3dSize& s) {
  RowNorm<Elem> norm;
  norm.F = static_cast<int>(s.B * s.in[0]), norm.S = static_cast<int>(s.in[1] * s.in[2]);
  norm.C = static_cast<int>(s.I);
  norm.x.chunks = static_cast<int>(chunks_of<Elem>(s.I));
  return norm;
}

// ---- weight gradient ----

template <class Elem>
GatherWeightGrad<Elem> weight_grad(
    const char* op, const Conv3dSize& s, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2,
    Rows<float> d_w, float* workspace, float* d_bias = nullptr) {
  GatherWeightGrad<Elem> p;
  set_axes(p, axes_of(op, s, false));
  const ChunkRows<const Elem> sources[2] = {chunk_rows(op, "x", x, s.I), chunk_rows(op, "x2", x2, s.I2)};
  p.source[0] = sources[0];
  p.source[0].chunks = static_cast<int>(chunks_of<Elem>(s.I));  // also where only the size counts
  p.source[1] = sources[1];
  p.source[1].chunks = static_cast<int>(chunks_of<Elem>(s.I2));
  p.source_channels[0] = static_cast<int>(s.I), p.source_channels[1] = static_cast<int>(s.I2);
  p.rows = chunk_rows(op, "d_out", d_out, s.O);
  check_source(op, "x", sources[0], s.in_positions());
  check_source(op, "x2", sources[1], s.in_positions());
  check_source(op, "d_out", p.rows, s.out_positions());
  p.num_columns = static_cast<int>(s.O);
  p.d_w = d_w, p.d_bias = d_bias;
  p.workspace = workspace;
  return p;
}

/// d_w and d_bias, of which either may be absent: d_bias is the sum over d_out's rows.
template <class Backend, class Elem>
void weight_and_bias_grad(
    const char* op, const Stream& stream, const Conv3dSize& s, Rows<const Elem> d_out, Rows<const Elem> x,
    Rows<const Elem> x2, Rows<float> d_w, float* d_bias, void* workspace) {
  float* partial = static_cast<float*>(workspace);
  if (d_w)
    gather_weight_grad<Backend>(stream, weight_grad(op, s, d_out, x, x2, d_w, partial, d_bias));
  else if (d_bias)
    column_sums<Backend>(stream, s.out_positions(), s.O, d_out, d_bias, partial);
}

template <class Elem>
std::int64_t weight_grad_workspace_bytes(const char* op, const Conv3dSize& s) {
  return gather_weight_grad_workspace_bytes(weight_grad<Elem>(op, s, {}, {}, {}, {}, nullptr));
}

}  // namespace avid::kernels::conv_products
