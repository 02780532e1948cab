// tests/ptx/runtime_kernels.cu -- see runtime_kernels.h
#include "tests/ptx/runtime_kernels.h"

namespace avid::test {
namespace {

__global__ void fill_values(float* out, int n, float value) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = value;
}

__global__ void append(float* list, float value) {
  const int count = static_cast<int>(list[0]);
  list[count + 1] = value;
  list[0] = static_cast<float>(count + 1);
}

__global__ void reversed(float* values) {
  extern __shared__ float all[];
  __shared__ float first[256];
  const unsigned i = threadIdx.x;
  all[i] = values[i];
  if (i < 256) first[i] = 1;
  __syncthreads();
  values[i] = all[blockDim.x - 1 - i] + first[i % 256];
}

__global__ void __launch_bounds__(64) bounded(float* out) { out[threadIdx.x] = 1; }

__global__ void first_values(char shift, float* out, FirstValues first, short count) {
  for (int i = 0; i < count; ++i)
    out[i] = static_cast<float>(first.values[i] * first.factor) + static_cast<float>(shift);
}

}  // namespace

const void* const kFillValues = reinterpret_cast<const void*>(&fill_values);
const void* const kAppend = reinterpret_cast<const void*>(&append);
const void* const kReversed = reinterpret_cast<const void*>(&reversed);
const void* const kBounded = reinterpret_cast<const void*>(&bounded);
const void* const kFirstValues = reinterpret_cast<const void*>(&first_values);

void launch_fill_values(float* out, int n, float value, cudaStream_t stream) {
  fill_values<<<(n + 31) / 32, 32, 0, stream>>>(out, n, value);
}

}  // namespace avid::test
