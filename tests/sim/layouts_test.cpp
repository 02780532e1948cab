// tests/sim/layouts_test.cpp -- tensor-core fragments against the strides that NVIDIA publishes, slot by slot
//
// The oracle is another description than the simulator's: CUTLASS gives each operand of an SM80 instruction as
// (shape):(stride) of lane and value, an index into the column-major tile. One element is set at a time.
#include "tests/sim/layouts.h"

#include <cmath>
#include <cstring>

#include "tests/sim/orders.h"

namespace {

using namespace avid;
using namespace avid::test;

/// index = (lane % 4) * lane_low + (lane / 4) * lane_high + sum of value digits * stride; row = index % rows.
struct Layout {
  int lane_low, lane_high;
  int shape[3], stride[3];
  int rows;
};
struct Position {
  int row, column;
};
Position position(const Layout& l, int lane, int value) {
  int index = lane % 4 * l.lane_low + lane / 4 * l.lane_high;
  for (int i = 0; i < 3; ++i) {
    index += value % l.shape[i] * l.stride[i];
    value /= l.shape[i];
  }
  return {index % l.rows, index / l.rows};
}

const Layout kA16x16{32, 1, {2, 2, 2}, {16, 8, 128}, 16};  // m16 k16, two-byte elements
const Layout kA16x8{32, 1, {2, 2, 1}, {16, 8, 0}, 16};     // m16 k8, two-byte elements
const Layout kB8x16{16, 1, {2, 2, 1}, {8, 64, 0}, 8};      // n8 k16
const Layout kB8x8{16, 1, {2, 1, 1}, {8, 0, 0}, 8};        // n8 k8, two-byte elements
const Layout kA16x8tf32{16, 1, {2, 2, 1}, {8, 64, 0}, 16};
const Layout kB8x8tf32{8, 1, {2, 1, 1}, {32, 0, 0}, 8};
const Layout kC16x8{32, 1, {2, 2, 1}, {16, 8, 0}, 16};

void put(std::uint32_t* registers, int value, float x, bool two_byte) {
  if (!two_byte) {
    registers[value] = std::bit_cast<std::uint32_t>(x);
    return;
  }
  const std::uint16_t bits = bf16(x).bits;
  std::memcpy(reinterpret_cast<char*>(registers) + 2 * value, &bits, 2);
}

struct Matrix {
  float at[16][8];
};
Matrix result(const MmaRegisters& r) {
  Matrix d;
  for (int lane = 0; lane < 32; ++lane)
    for (int v = 0; v < 4; ++v) {
      const Position p = position(kC16x8, lane, v);
      d.at[p.row][p.column] = r.d[lane][v];
    }
  return d;
}

void check_mma(MmaShape shape, const Layout& a, int num_a, const Layout& b, int num_b, bool two_byte) {
  int mismatches = 0;
  for (int lane = 0; lane < 32; ++lane)
    for (int v = 0; v < num_a; ++v) {  // A is one at one place, B[k][n] = 8 k + n + 1: D shows the row and the k
      MmaRegisters r{};
      put(r.a[lane], v, 1.0f, two_byte);
      for (int q = 0; q < 32; ++q)
        for (int u = 0; u < num_b; ++u) {
          const Position p = position(b, q, u);  // row n, column k
          put(r.b[q], u, static_cast<float>(8 * p.column + p.row + 1), two_byte);
        }
      run_mma(shape, r);
      const Matrix d = result(r);
      const Position p = position(a, lane, v);
      for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j)
          mismatches += !(d.at[i][j] == (i == p.row ? static_cast<float>(8 * p.column + j + 1) : 0.0f));
    }
  for (int lane = 0; lane < 32; ++lane)
    for (int v = 0; v < 4; ++v) {  // C passes through
      MmaRegisters r{};
      r.c[lane][v] = 3.0f;
      run_mma(shape, r);
      for (int q = 0; q < 32; ++q)
        for (int u = 0; u < 4; ++u) mismatches += !(r.d[q][u] == (q == lane && u == v ? 3.0f : 0.0f));
    }
  CHECK(mismatches == 0);
}

/// Element (row, column) of matrix m has the number 64 m + 8 row + column.
void check_ldmatrix(int count, bool transposed) {
  std::uint32_t registers[32][4];
  run_ldmatrix(count, transposed, registers);
  int mismatches = 0;
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < count; ++m)
      for (int half = 0; half < 2; ++half) {
        const int along = lane % 4 * 2 + half, across = lane / 4;
        const int row = transposed ? along : across, column = transposed ? across : along;
        mismatches +=
            (registers[lane][m] >> (16 * half) & 0xffffu) != static_cast<std::uint32_t>(64 * m + 8 * row + column);
      }
  CHECK(mismatches == 0);
}

}  // namespace

TEST_CASE("layouts/mma/bf16 16x8x16") { check_mma(MmaShape::bf16_k16, kA16x16, 8, kB8x16, 4, true); }
TEST_CASE("layouts/mma/bf16 16x8x8") { check_mma(MmaShape::bf16_k8, kA16x8, 4, kB8x8, 2, true); }
TEST_CASE("layouts/mma/tf32 16x8x8") { check_mma(MmaShape::tf32_k8, kA16x8tf32, 4, kB8x8tf32, 2, false); }

TEST_CASE("layouts/ldmatrix/one, two and four matrices, plain and transposed") {
  for (const int count : {1, 2, 4})
    for (const bool transposed : {false, true}) {
      CAPTURE(count);
      CAPTURE(transposed);
      for_each_order([&] { check_ldmatrix(count, transposed); });
    }
}

TEST_CASE("layouts/movmatrix/transposes eight by eight") {
  std::uint32_t registers[32];
  for (int lane = 0; lane < 32; ++lane)  // element (row, column) = 8 row + column
    registers[lane] = static_cast<std::uint32_t>(lane / 4 * 8 + lane % 4 * 2) |
                      static_cast<std::uint32_t>(lane / 4 * 8 + lane % 4 * 2 + 1) << 16;
  run_movmatrix(registers);
  for (int lane = 0; lane < 32; ++lane)
    for (int half = 0; half < 2; ++half)
      CHECK(
          (registers[lane] >> (16 * half) & 0xffffu) ==
          static_cast<std::uint32_t>((lane % 4 * 2 + half) * 8 + lane / 4));
}

TEST_CASE("layouts/to_tf32/keeps ten bits and rounds ties away") {
  CHECK(run_to_tf32(1.0f) == 0x3f800000u);
  CHECK(run_to_tf32(std::bit_cast<float>(0x3f801000u)) == 0x3f802000u);  // half way: away from zero
  CHECK(run_to_tf32(std::bit_cast<float>(0xbf801000u)) == 0xbf802000u);
  CHECK(run_to_tf32(std::bit_cast<float>(0x3f800fffu)) == 0x3f800000u);
  CHECK(run_to_tf32(INFINITY) == 0x7f800000u);
}
