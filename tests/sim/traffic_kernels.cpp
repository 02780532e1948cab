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

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {

void run_strided(const float* in, float* out, int stride) {
  kernels::sim::launch(kernels::sim::strided_kernel, 1, 32, 0, kernels::Stream{}, in, out, stride);
}

}  // namespace avid::test
