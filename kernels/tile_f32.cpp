// kernels/tile_f32.cpp -- register tiles of f32 products (what they compute: kernels/tile_f32.h)
//
// A tile of R rows by V blocks needs, per step of the reduction, V vector loads of weights and R broadcasts for R*V fused
// multiply-adds. With 16 x 1, 12 x 2 or 8 x 3 sums the adds outnumber the loads, hide their own latency (8 in flight on two
// 4-cycle units) and leave registers for the operands: 24 + 3 + 1 of 32 with AVX-512, 12 + 3 + 1 of 16 with AVX2.
#include "kernels/tile_f32.h"

#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace avid::kernels {
namespace {

using Index = std::int64_t;
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

/// The first `lanes` elements; zero in the other lanes. Never touches memory behind them.
inline Vec load_part(const float* p, int lanes) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes) - 1u), p);
#else
  float full[kLanes] = {};
  std::memcpy(full, p, static_cast<std::size_t>(lanes) * sizeof(float));
  return load(full);
#endif
}

inline void store_part(float* p, Vec v, int lanes) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << lanes) - 1u), (__m512)v);
#else
  float full[kLanes];
  store(full, v);
  std::memcpy(p, full, static_cast<std::size_t>(lanes) * sizeof(float));
#endif
}

template <int kRows, int kBlocks>
void product_tile_fixed(const Run* runs, int num_runs, const float* w, const TileOutput& output) {
  Vec sum[kRows][kBlocks];
  for (int b = 0; b < kBlocks; ++b) {
    const int lanes = b == kBlocks - 1 ? output.lanes_last : kLanes;
    const Vec start = output.bias ? load(output.bias + b * kLanes) : Vec{};
    for (int p = 0; p < kRows; ++p) {
      sum[p][b] = output.residual ? start + load_part(output.residual + p * output.residual_step + b * kLanes, lanes) : start;
    }
  }
  for (int r = 0; r < num_runs; ++r) {
    const Index step = runs[r].step;
    // Two pointers: with one, the distances of 16 positions do not fit in the integer registers.
    const float* a = runs[r].a;
    const float* upper = a + 8 * step;
    for (Index j = 0; j < runs[r].length; ++j, ++a, ++upper, w += kBlocks * kLanes) {
      Vec wv[kBlocks];
      for (int b = 0; b < kBlocks; ++b) wv[b] = load(w + b * kLanes);
      for (int p = 0; p < kRows; ++p) {
        const float value = p < 8 ? a[p * step] : upper[(p - 8) * step];
        for (int b = 0; b < kBlocks; ++b) sum[p][b] += value * wv[b];
      }
    }
  }
  for (int p = 0; p < kRows; ++p) {
    float* out = output.out + p * output.out_step;
    for (int b = 0; b < kBlocks - 1; ++b) store(out + b * kLanes, sum[p][b]);
    store_part(out + (kBlocks - 1) * kLanes, sum[p][kBlocks - 1], output.lanes_last);
  }
}

template <int kRows, int kBlocks> void outer_tile_fixed(const OuterOperands& in, float* dst, Index dst_step) {
  Vec sum[kRows][kBlocks];
  for (int j = 0; j < kRows; ++j)
    for (int b = 0; b < kBlocks; ++b) sum[j][b] = Vec{};
  for (Index y = 0; y < in.rows; ++y) {
    const float* a = in.a + y * in.a_row;
    const float* g = in.g + y * in.g_row;
    for (Index x = 0; x < in.cols; ++x, a += in.a_step, g += in.g_step) {
      Vec gv[kBlocks];
      for (int b = 0; b < kBlocks; ++b) gv[b] = load(g + b * kLanes);
      for (int j = 0; j < kRows; ++j)
        for (int b = 0; b < kBlocks; ++b) sum[j][b] += a[j] * gv[b];
    }
  }
  for (int j = 0; j < kRows; ++j)
    for (int b = 0; b < kBlocks; ++b) store(dst + j * dst_step + b * kLanes, load(dst + j * dst_step + b * kLanes) + sum[j][b]);
}

// One function per tile size: the sizes must be constants for the sums to stay in registers.
using ProductTile = void (*)(const Run*, int, const float*, const TileOutput&);
using OuterTile = void (*)(const OuterOperands&, float*, Index);

template <int kBlocks, int... kRows> ProductTile pick_product(int rows, std::integer_sequence<int, kRows...>) {
  static constexpr ProductTile table[] = {product_tile_fixed<kRows + 1, kBlocks>...};
  return table[rows - 1];
}
template <int kBlocks, int... kRows> OuterTile pick_outer(int rows, std::integer_sequence<int, kRows...>) {
  static constexpr OuterTile table[] = {outer_tile_fixed<kRows + 1, kBlocks>...};
  return table[rows - 1];
}
template <int kBlocks> using RowsOf = std::make_integer_sequence<int, kMaxTileRows[kBlocks]>;

}  // namespace

void product_tile(int num_positions, int num_blocks, const Run* runs, int num_runs, const float* w, const TileOutput& output) {
  const ProductTile tile = num_blocks == 1   ? pick_product<1>(num_positions, RowsOf<1>())
                           : num_blocks == 2 ? pick_product<2>(num_positions, RowsOf<2>())
                                             : pick_product<3>(num_positions, RowsOf<3>());
  tile(runs, num_runs, w, output);
}

void outer_tile(int num_channels, int num_blocks, const OuterOperands& operands, float* dst, std::int64_t dst_step) {
  const OuterTile tile = num_blocks == 1   ? pick_outer<1>(num_channels, RowsOf<1>())
                         : num_blocks == 2 ? pick_outer<2>(num_channels, RowsOf<2>())
                                           : pick_outer<3>(num_channels, RowsOf<3>());
  tile(operands, dst, dst_step);
}

}  // namespace avid::kernels
