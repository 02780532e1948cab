// tests/sim/launch_counter_kernels.cpp -- see launch_counter.h
#include "tests/sim/launch_counter.h"

#include "kernels/device/gpu.h"
#include "kernels/device/warpgroup.h"

namespace avid::kernels {
namespace AVID_GPU {

__global__ void add_table_kernel(const float* in, const float* table, float* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * 128 + threadIdx.x;
  out[i] = in[i] + table[i % 64];
}

__global__ void sum_rounds_kernel(test::SumRounds p) {
  const float* mine = p.in + blockIdx.x * p.floats;
  float sum = 0;
  for (int round = 0; round < p.rounds; ++round)
    for (std::int64_t i = threadIdx.x; i < p.floats; i += 128) sum += mine[i];
  for (int bits = 1; bits < 32; bits *= 2) sum += __shfl_xor_sync(~0u, sum, bits);
  AVID_SHARED(float, sums, [4]);
  sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) p.out[blockIdx.x] = sums[0] + sums[1] + sums[2] + sums[3];
}

__global__ void products_kernel(float* out, int products) {
  const std::uint32_t a[4] = {}, b[2] = {}, a8[2] = {}, b8[1] = {};
  float c[4] = {1, 2, 3, 4};
  for (int i = 0; i < products; ++i) mma_bf16_16x8x16(c, a, b, c);
  mma_bf16_16x8x8(c, a8, b8, c);
  out[blockIdx.x * 64 + threadIdx.x] = c[0];
}

__global__ void warpgroup_products_kernel(float* out, int products) {
  SharedArena arena;
  auto* tiles = arena.take_aligned<std::uint32_t>(4096, 1024, "tiles");
  for (int i = static_cast<int>(threadIdx.x); i < 4096; i += 128) tiles[i] = 0;
  fence_proxy_async();
  __syncthreads();
  float d[12] = {};
  const std::uint64_t tile = swizzled_tile(shared_address(tiles));
  wgmma_fence();
  for (int i = 0; i < products; ++i) wgmma_bf16<24>(d, tile, tile);
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_settle(d);
  out[blockIdx.x * 128 + threadIdx.x] = d[0];
}

__global__ void each_its_own_kernel(float* const* tensors) {
  float* mine = tensors[blockIdx.x];
  mine[threadIdx.x] = mine[threadIdx.x] + 1;
}

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {

using namespace kernels;

void run_add_table(const float* in, const float* table, float* out, std::int64_t n) {
  sim::launch(sim::add_table_kernel, static_cast<unsigned>(n / 128), 128, 0, Stream{}, in, table, out);
}

void run_sum_rounds(const SumRounds& args, int blocks) {
  sim::launch(sim::sum_rounds_kernel, static_cast<unsigned>(blocks), 128, 0, Stream{}, args);
}

void run_products(float* out, int blocks, int products) {
  sim::launch(sim::products_kernel, static_cast<unsigned>(blocks), 64, 0, Stream{}, out, products);
}

void run_warpgroup_products(float* out, int blocks, int products) {
  sim::launch(
      sim::warpgroup_products_kernel, static_cast<unsigned>(blocks), 128, 4096 * 4 + 1024, Stream{}, out, products);
}

void run_each_its_own(float* const* tensors, int blocks) {
  sim::launch(sim::each_its_own_kernel, static_cast<unsigned>(blocks), 32, 0, Stream{}, tensors);
}

}  // namespace avid::test
