// kernels/tile_f32.cpp -- register tiles of f32 products (what they compute: kernels/tile_f32.h)
//
// A tile of R rows by V blocks needs, per step of the reduction, V vector loads of weights and R broadcasts for R*V
// fused multiply-adds. With 16 x 1, 12 x 2 or 8 x 3 sums the adds outnumber the loads, hide their own latency (8 in
// flight on two 4-cycle units) and leave registers for the operands: 24 + 3 + 1 of 32 with AVX-512, 12 + 3 + 1 of 16
// with AVX2.
#include "kernels/tile_f32.h"

#include <cstring>
#include <utility>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
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
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes) - 1u), p);
#else
  float full[kLanes] = {};
  std::memcpy(full, p, static_cast<std::size_t>(lanes) * sizeof(float));
  return load(full);
#endif
}

inline void store_part(float* p, Vec v, int lanes) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << lanes) - 1u), (__m512)v);
#else
  float full[kLanes];
  store(full, v);
  std::memcpy(p, full, static_cast<std::size_t>(lanes) * sizeof(float));
#endif
}

/// The two halves of a register that serves two rows at once: see kHalfLanes. Without AVX-512 there are no such tiles.
inline Vec load_twice(const float* p) {
#if defined(__AVX512DQ__)
  return (Vec)_mm512_maskz_broadcast_f32x8(
      0xffff, _mm256_loadu_ps(p));  // the unmasked form trips -Wmaybe-uninitialized
#else
  return load(p);
#endif
}
inline Vec halves(Vec lower, Vec upper) {
#if defined(__AVX512DQ__)
  return (Vec)_mm512_mask_blend_ps(0xff00, (__m512)lower, (__m512)upper);
#else
  return lower + upper;
#endif
}

/// Sums of a tile: full blocks per row, and for a half block one register per pair of rows, (lower, upper) = (2q, 2q +
/// 1).
template <int kRows, int kBlocks, bool kHalf>
struct Sums {
  static constexpr int kFull = kHalf ? kBlocks - 1 : kBlocks;
  Vec full[kRows][kFull > 0 ? kFull : 1];
  Vec pair[kHalf ? (kRows + 1) / 2 : 1];

  /// Row r gains value(r) * (the lanes at w), for all rows.
  template <class Value>
  void add(const float* w, Value&& value) {
    Vec wv[kFull > 0 ? kFull : 1], w_half{}, previous{};
    for (int b = 0; b < kFull; ++b) wv[b] = load(w + b * kLanes);
    if constexpr (kHalf) w_half = load_twice(w + kFull * kLanes);
#pragma GCC unroll 16  // all rows: only then the sums live in registers
    for (int r = 0; r < kRows; ++r) {
      const float scalar = value(r);
      for (int b = 0; b < kFull; ++b) full[r][b] += scalar * wv[b];
      if constexpr (kHalf) {
        const Vec broadcast = scalar - Vec{};
        if (r % 2 == 1) pair[r / 2] += halves(previous, broadcast) * w_half;
        if (r % 2 == 0 && r == kRows - 1) pair[r / 2] += broadcast * w_half;
        previous = broadcast;
      }
    }
  }
};

template <int kRows, int kBlocks, bool kHalf>
void product_tile_fixed(const Run* runs, int num_runs, const float* w, const TileOutput& output) {
  using TileSums = Sums<kRows, kBlocks, kHalf>;
  constexpr int kFull = TileSums::kFull, kHalfAt = kFull * kLanes;
  TileSums sums;
  const auto lanes_of = [&](int b) { return b == kBlocks - 1 ? output.lanes_last : kLanes; };
  const auto residual_at = [&](int p, int b) {
    return output.residual ? load_part(output.residual + p * output.residual_step + b * kLanes, lanes_of(b)) : Vec{};
  };
  for (int b = 0; b < kFull; ++b) {
    const Vec start = output.bias ? load(output.bias + b * kLanes) : Vec{};
    for (int p = 0; p < kRows; ++p) sums.full[p][b] = start + residual_at(p, b);
  }
  if constexpr (kHalf) {
    const Vec start = output.bias ? load_twice(output.bias + kHalfAt) : Vec{};
    for (int p = 0; p < kRows; p += 2) {
      Vec upper{};
      if (p + 1 < kRows) upper = residual_at(p + 1, kFull);
      float both[2 * kLanes] = {};
      store(both, residual_at(p, kFull));
      store(both + kHalfLanes, upper);
      sums.pair[p / 2] = start + load(both);
    }
  }
  for (int r = 0; r < num_runs; ++r) {
    const Index step = runs[r].step;
    // Two pointers: with one, the distances of 16 positions do not fit in the integer registers.
    const float* a = runs[r].a;
    const float* upper = a + 8 * step;
    for (Index j = 0; j < runs[r].length; ++j, ++a, ++upper, w += kBlocks * kLanes) {
      sums.add(w, [&](int p) { return p < 8 ? a[p * step] : upper[(p - 8) * step]; });
    }
  }
  for (int p = 0; p < kRows; ++p) {
    float* out = output.out + p * output.out_step;
    for (int b = 0; b < kFull; ++b) store_part(out + b * kLanes, sums.full[p][b], lanes_of(b));
  }
  if constexpr (kHalf) {
    for (int p = 0; p < kRows; ++p) {
      float both[kLanes];
      store(both, sums.pair[p / 2]);
      store_part(
          output.out + p * output.out_step + kHalfAt, load_part(both + p % 2 * kHalfLanes, kHalfLanes),
          output.lanes_last);
    }
  }
}

template <int kRows, int kBlocks, bool kHalf>
void outer_tile_fixed(const OuterOperands& in, float* dst, Index dst_step) {
  using TileSums = Sums<kRows, kBlocks, kHalf>;
  constexpr int kFull = TileSums::kFull;
  TileSums sums{};
  for (Index y = 0; y < in.rows; ++y) {
    const float* a = in.a + y * in.a_row;
    const float* g = in.g + y * in.g_row;
    for (Index x = 0; x < in.cols; ++x, a += in.a_step, g += in.g_step) sums.add(g, [&](int j) { return a[j]; });
  }
  for (int j = 0; j < kRows; ++j)
    for (int b = 0; b < kFull; ++b) {
      float* to = dst + j * dst_step + b * kLanes;
      store(to, load(to) + sums.full[j][b]);
    }
  if constexpr (kHalf) {
    for (int j = 0; j < kRows; ++j) {
      float both[kLanes];
      store(both, sums.pair[j / 2]);
      float* to = dst + j * dst_step + kFull * kLanes;
      store_part(to, load_part(to, kHalfLanes) + load_part(both + j % 2 * kHalfLanes, kHalfLanes), kHalfLanes);
    }
  }
}

// One function per tile size: the sizes must be constants for the sums to stay in registers.
using ProductTile = void (*)(const Run*, int, const float*, const TileOutput&);
using OuterTile = void (*)(const OuterOperands&, float*, Index);

template <int kBlocks, bool kHalf, int... kRows>
ProductTile pick_product(int rows, std::integer_sequence<int, kRows...>) {
  static constexpr ProductTile table[] = {product_tile_fixed<kRows + 1, kBlocks, kHalf>...};
  return table[rows - 1];
}
template <int kBlocks, bool kHalf, int... kRows>
OuterTile pick_outer(int rows, std::integer_sequence<int, kRows...>) {
  static constexpr OuterTile table[] = {outer_tile_fixed<kRows + 1, kBlocks, kHalf>...};
  return table[rows - 1];
}

/// Calls f.operator()<blocks, half>(all row counts) for a tile's number of blocks and kind of last block.
template <class F>
auto dispatch_tile(int num_blocks, int lanes_last, F&& f) {
  const auto with_blocks = [&]<int kBlocks>() {
    if constexpr (kHalfLanes > 0) {
      if (lanes_last <= kHalfLanes) {
        return f.template operator()<kBlocks, true>(std::make_integer_sequence<int, kMaxHalfTileRows[kBlocks]>());
      }
    }
    return f.template operator()<kBlocks, false>(std::make_integer_sequence<int, kMaxTileRows[kBlocks]>());
  };
  return num_blocks == 1   ? with_blocks.template operator()<1>()
         : num_blocks == 2 ? with_blocks.template operator()<2>()
                           : with_blocks.template operator()<3>();
}

}  // namespace

void product_tile(
    int num_positions, int num_blocks, const Run* runs, int num_runs, const float* w, const TileOutput& output) {
  const ProductTile tile = dispatch_tile(num_blocks, output.lanes_last, [&]<int kBlocks, bool kHalf>(auto rows) {
    return pick_product<kBlocks, kHalf>(num_positions, rows);
  });
  tile(runs, num_runs, w, output);
}

void outer_tile(
    int num_channels, int num_blocks, int lanes_last, const OuterOperands& operands, float* dst,
    std::int64_t dst_step) {
  const OuterTile tile = dispatch_tile(num_blocks, lanes_last, [&]<int kBlocks, bool kHalf>(auto rows) {
    return pick_outer<kBlocks, kHalf>(num_channels, rows);
  });
  tile(operands, dst, dst_step);
}

}  // namespace avid::kernels
