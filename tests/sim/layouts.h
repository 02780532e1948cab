// tests/sim/layouts.h -- one warp runs one instruction on given registers
#pragma once

#include <cstdint>

namespace avid::test {

enum class MmaShape { bf16_k16, bf16_k8, tf32_k8 };
struct MmaRegisters {
  std::uint32_t a[32][4], b[32][2];
  float c[32][4], d[32][4];
};
void run_mma(MmaShape shape, MmaRegisters& r);
/// Loads `count` matrices whose elements are numbered 64 matrix + 8 row + column.
void run_ldmatrix(int count, bool transposed, std::uint32_t (&registers)[32][4]);
void run_movmatrix(std::uint32_t (&registers)[32]);
std::uint32_t run_to_tf32(float v);

}  // namespace avid::test
