// kernels/small_gemm_cpu.cpp -- register-blocked matrix products of cache-sized f32 blocks
//
// Blocking   gemm_columns: 6 rows x 4 registers = 24 accumulators of the 32 AVX-512 registers, 4 loads of B and 6
//            broadcasts of A for 24 multiply-adds (two of each per cycle: bound by the multiply-adds). With AVX2
//            6 x 2 = 12 of 16. B is walked in panels of 4 registers so that a panel stays in L1 while A streams.
//            gemm_over_columns: 6 x 4 dot products; the lanes are summed once per tile.
//            gemm_per_lane: 4 x 4 registers, 8 loads for 16 multiply-adds.
// Measured   one Zen 5 core, CPU time, GFLOP/s (oneDNN sgemm of the same product; 768^3 with oneDNN: 223)
//            gemm_columns       192x512x24: 237 (219)   24x512x192: 240 (239)   96x1024x24: 240 (210)
//            gemm_over_columns  192x24 over 512: 178 (154)   24x64 over 512: 187 (101)   192x96 over 512: 190 (207)
//            gemm_per_lane      8x8x64: 147   64x8x8: 126
#include "kernels/small_gemm.h"

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/simd.h"

namespace avid::kernels {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileRegisters = kLanes == 16 ? 4 : 2;
constexpr int kDotRows = kLanes == 16 ? 6 : 3;
constexpr int kDotCols = 4;
constexpr int kLaneTile = kLanes == 16 ? 4 : 3;

template <int kRows, int kRegisters>
void columns_tile(
    std::int64_t K, const float* a, std::int64_t a_row, std::int64_t a_col, const float* b, std::int64_t b_row,
    float* c, std::int64_t c_row, bool add) {
  Vec acc[kRows][kRegisters] = {};
  for (std::int64_t k = 0; k < K; ++k) {
    Vec column[kRegisters];
#pragma GCC unroll 8
    for (int n = 0; n < kRegisters; ++n) column[n] = load_vec(b + k * b_row + n * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const float factor = a[m * a_row + k * a_col];
#pragma GCC unroll 8
      for (int n = 0; n < kRegisters; ++n) acc[m][n] += factor * column[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kRegisters; ++n) {
      float* to = c + m * c_row + n * kLanes;
      store_vec(to, add ? load_vec(to) + acc[m][n] : acc[m][n]);
    }
  }
}

template <int kRows, int kCols>
void dot_tile(
    std::int64_t K, const float* a, std::int64_t a_row, const float* b, std::int64_t b_row, float* c,
    std::int64_t c_row) {
  Vec acc[kRows][4] = {};  // unused columns stay zero and vanish
  for (std::int64_t k = 0; k < K; k += kLanes) {
    Vec right[kCols];
#pragma GCC unroll 8
    for (int n = 0; n < kCols; ++n) right[n] = load_vec(b + n * b_row + k);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const Vec left = load_vec(a + m * a_row + k);
#pragma GCC unroll 8
      for (int n = 0; n < kCols; ++n) acc[m][n] += left * right[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    const Vec4 sums = sum_lanes(acc[m][0], acc[m][1], acc[m][2], acc[m][3]);
#pragma GCC unroll 8
    for (int n = 0; n < kCols; ++n) c[m * c_row + n] += sums[n];
  }
}

template <int kRows, int kCols>
void lane_tile(
    std::int64_t K, const float* a, std::int64_t a_row, std::int64_t a_col, const float* b, std::int64_t b_row,
    std::int64_t b_col, float* c, std::int64_t c_row, std::int64_t c_col) {
  Vec acc[kRows][kCols] = {};
  for (std::int64_t k = 0; k < K; ++k) {
    Vec right[kCols];
#pragma GCC unroll 8
    for (int n = 0; n < kCols; ++n) right[n] = load_vec(b + k * b_row + n * b_col);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const Vec left = load_vec(a + m * a_row + k * a_col);
#pragma GCC unroll 8
      for (int n = 0; n < kCols; ++n) acc[m][n] += left * right[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kCols; ++n) store_vec(c + m * c_row + n * c_col, acc[m][n]);
  }
}

// Tables of the tiles of every smaller size, indexed [rows - 1][columns - 1]: edges need no masked loops.
template <int kRows, int... kN>
constexpr auto columns_row(std::integer_sequence<int, kN...>) {
  return std::array{&columns_tile<kRows, kN + 1>...};
}
template <int... kM>
constexpr auto columns_tiles(std::integer_sequence<int, kM...>) {
  return std::array{columns_row<kM + 1>(std::make_integer_sequence<int, kTileRegisters>())...};
}
template <int kRows, int... kN>
constexpr auto dot_row(std::integer_sequence<int, kN...>) {
  return std::array{&dot_tile<kRows, kN + 1>...};
}
template <int... kM>
constexpr auto dot_tiles(std::integer_sequence<int, kM...>) {
  return std::array{dot_row<kM + 1>(std::make_integer_sequence<int, kDotCols>())...};
}
template <int kRows, int... kN>
constexpr auto lane_row(std::integer_sequence<int, kN...>) {
  return std::array{&lane_tile<kRows, kN + 1>...};
}
template <int... kM>
constexpr auto lane_tiles(std::integer_sequence<int, kM...>) {
  return std::array{lane_row<kM + 1>(std::make_integer_sequence<int, kLaneTile>())...};
}
constexpr auto kColumnsTiles = columns_tiles(std::make_integer_sequence<int, kTileRows>());
constexpr auto kDotTiles = dot_tiles(std::make_integer_sequence<int, kDotRows>());
constexpr auto kLaneTiles = lane_tiles(std::make_integer_sequence<int, kLaneTile>());

std::size_t tile_index(std::int64_t left, int most) {
  return static_cast<std::size_t>(std::min<std::int64_t>(left, most) - 1);
}

}  // namespace

void gemm_columns(
    std::int64_t M, std::int64_t N, std::int64_t K, const float* a, std::int64_t a_row, std::int64_t a_col,
    const float* b, std::int64_t b_row, float* c, std::int64_t c_row, bool add) {
  for (std::int64_t n = 0; n < N; n += kTileRegisters * kLanes) {
    const std::size_t registers = tile_index((N - n) / kLanes, kTileRegisters);
    for (std::int64_t m = 0; m < M; m += kTileRows) {
      kColumnsTiles[tile_index(M - m, kTileRows)][registers](
          K, a + m * a_row, a_row, a_col, b + n, b_row, c + m * c_row + n, c_row, add);
    }
  }
}

void gemm_over_columns(
    std::int64_t M, std::int64_t N, std::int64_t K, const float* a, std::int64_t a_row, const float* b,
    std::int64_t b_row, float* c, std::int64_t c_row) {
  for (std::int64_t m = 0; m < M; m += kDotRows) {
    for (std::int64_t n = 0; n < N; n += kDotCols) {
      kDotTiles[tile_index(M - m, kDotRows)][tile_index(N - n, kDotCols)](
          K, a + m * a_row, a_row, b + n * b_row, b_row, c + m * c_row + n, c_row);
    }
  }
}

void gemm_per_lane(
    std::int64_t M, std::int64_t N, std::int64_t K, const float* a, std::int64_t a_row, std::int64_t a_col,
    const float* b, std::int64_t b_row, std::int64_t b_col, float* c, std::int64_t c_row, std::int64_t c_col) {
  for (std::int64_t n = 0; n < N; n += kLaneTile) {
    for (std::int64_t m = 0; m < M; m += kLaneTile) {
      kLaneTiles[tile_index(M - m, kLaneTile)][tile_index(N - n, kLaneTile)](
          K, a + m * a_row, a_row, a_col, b + n * b_col, b_row, b_col, c + m * c_row + n * c_col, c_row, c_col);
    }
  }
}

}  // namespace avid::kernels
