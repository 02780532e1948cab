// tests/sim/launch_counter.h -- kernels whose work is known
#pragma once

#include <cstdint>

namespace avid::test {

/// out[i] = in[i] + table[i % 64], 128 threads a block, n a multiple of 128. table has 64 floats.
void run_add_table(const float* in, const float* table, float* out, std::int64_t n);

/// Each block adds `floats` values, a multiple of 128, `rounds` times: out[b] = rounds * sum of in[b * floats ...].
/// Between `rounds` and `floats` is a gap.
struct SumRounds {
  const float* in;
  float* out;
  std::uint8_t rounds;
  std::int64_t floats;
};
void run_sum_rounds(const SumRounds& args, int blocks);

/// `blocks` blocks of two warps; every warp issues `products` mma of bf16 16x8x16 and one of 16x8x8.
void run_products(float* out, int blocks, int products);

/// One warpgroup per block issues `products` wgmma 64x24x16. Compute capability 9.0 only.
void run_warpgroup_products(float* out, int blocks, int products);

/// Block b reads tensor b of 32 floats each, named by a table of addresses, and writes it back.
void run_each_its_own(float* const* tensors, int blocks);

}  // namespace avid::test
