// tests/ptx/runtime_kernels.h -- kernels to launch, and to launch wrongly, compiled by nvcc
#pragma once

#include <cuda_runtime_api.h>

namespace avid::test {

// Addresses of the host's halves, for cudaLaunchKernelExC.

/// fill_values(float* out, int n, float value): out[i] = value for i < n.
extern const void* const kFillValues;
/// append(float* list, float value): list[0] counts, the value goes behind the last one. One thread.
extern const void* const kAppend;
/// reversed(float* values): a block's values through dynamic shared memory, with 1 KiB that is static.
extern const void* const kReversed;
/// bounded(float* out): __launch_bounds__(64).
extern const void* const kBounded;
/// first_values(FirstValues): a structure by value, behind arguments of other alignments.
extern const void* const kFirstValues;
/// fill_values for compute capability 9.0a alone.
extern const void* const kFillValuesSm90a;

struct FirstValues {
  float values[3];
  double factor;
};

/// fill_values<<<(n + 31) / 32, 32, 0, stream>>>: nvcc's own way to launch.
void launch_fill_values(float* out, int n, float value, cudaStream_t stream);

}  // namespace avid::test
