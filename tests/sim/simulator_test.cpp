// tests/sim/simulator_test.cpp -- the device language does what CUDA's does: indices, shuffles, votes, shared memory,
// copies
#include <vector>

#include "kernels/device/gpu.h"
#include "tests/sim/orders.h"

namespace avid::kernels {
namespace AVID_GPU {

__global__ void reverse_kernel(const float* in, float* out) {
  AVID_SHARED(float, tile, [64]);
  tile[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = tile[63 - threadIdx.x];
}

__global__ void warp_sum_kernel(const float* in, float* out) {
  float v = in[threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  out[threadIdx.x] = v;
}

__global__ void copy_async_kernel(const float* in, float* out, int n) {
  SharedArena arena;
  float* a = arena.take<float>(256, "a");
  cp_async_16(a + threadIdx.x * 4, in + threadIdx.x * 4, static_cast<int>(threadIdx.x) * 4 < n);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = a[255 - (threadIdx.x * 4 + i)];
}

}  // namespace AVID_GPU
}  // namespace avid::kernels

using namespace avid::kernels;

TEST_CASE("simulator/shared/reversed through a tile in every order") {
  std::vector<float> in(192), out(192);
  for (int i = 0; i < 192; ++i) in[i] = static_cast<float>(i);
  avid::test::for_each_order([&] {
    out.assign(192, -1.0f);
    sim::launch(sim::reverse_kernel, 3, 64, 0, Stream{}, in.data(), out.data());
    for (int b = 0; b < 3; ++b)
      for (int i = 0; i < 64; ++i) CHECK(out[b * 64 + i] == static_cast<float>(b * 64 + 63 - i));
  });
}

TEST_CASE("simulator/shuffle/butterfly sum") {
  std::vector<float> in(32), out(32);
  for (int i = 0; i < 32; ++i) in[i] = static_cast<float>(i);
  avid::test::for_each_order([&] {
    sim::launch(sim::warp_sum_kernel, 1, 32, 0, Stream{}, in.data(), out.data());
    for (float v : out) CHECK(v == 496.0f);
  });
}

TEST_CASE("simulator/cp_async/valid copies and zeros") {
  alignas(16) float in[256], out[256];
  for (int i = 0; i < 256; ++i) in[i] = static_cast<float>(i + 1);
  avid::test::for_each_order([&] {
    sim::launch(sim::copy_async_kernel, 1, 64, 1024, Stream{}, in, out, 200);
    for (int i = 0; i < 256; ++i) CHECK(out[i] == (255 - i < 200 ? static_cast<float>(256 - i) : 0.0f));
  });
}
