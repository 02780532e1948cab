// tests/sim/traffic_kernels.cpp -- see traffic.h
#include "tests/sim/traffic.h"

#include "kernels/device/gpu.h"

namespace avid::kernels {
namespace AVID_GPU {

__global__ void strided_kernel(const float* in, float* out, int stride) {
  AVID_SHARED(float, s, [32 * 33]);
  s[threadIdx.x * stride] = in[threadIdx.x * stride];
  __syncwarp();
  out[threadIdx.x] = s[threadIdx.x * stride];
}

__global__ void copies_with_gaps_kernel(const float* in) {
  AVID_SHARED(float, s, [64 * 4]);
  for (int chunk = threadIdx.x; chunk < 64; chunk += 32) cp_async_16(s + chunk * 4, in + chunk * 4, chunk % 10 != 0);
  cp_async_commit();
  cp_async_wait<0>();
}

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {

void run_strided(const float* in, float* out, int stride) {
  kernels::sim::launch(kernels::sim::strided_kernel, 1, 32, 0, kernels::Stream{}, in, out, stride);
}

void run_copies_with_gaps(const float* in) {
  kernels::sim::launch(kernels::sim::copies_with_gaps_kernel, 1, 32, 0, kernels::Stream{}, in);
}

}  // namespace avid::test
