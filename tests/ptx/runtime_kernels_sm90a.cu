// tests/ptx/runtime_kernels_sm90a.cu -- see runtime_kernels.h
#include "tests/ptx/runtime_kernels.h"

namespace avid::test {
namespace {

__global__ void fill_values(float* out, int n, float value) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = value;
}

}  // namespace

const void* const kFillValuesSm90a = reinterpret_cast<const void*>(&fill_values);

}  // namespace avid::test
