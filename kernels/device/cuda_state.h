// kernels/device/cuda_state.h -- what one GPU needs for its whole life; for runtime_cuda.cpp and recorded_cuda.cpp only
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <mutex>

#include "kernels/device/runtime.h"

namespace avid::kernels {

/// Throws GpuError "cuda: <call>: <the runtime's text> | <what to do>" unless all went well.
void check_cuda(cudaError_t status, const char* call);

namespace cuda {
/// As in gpu_cuda.h, which only nvcc can read.
[[noreturn]] void fail_launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, cudaError_t error);
}  // namespace cuda

inline cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle); }

/// A pinned host buffer and the moment when the device has read it.
struct CudaStaging {
  std::byte* data = nullptr;
  cudaEvent_t read = nullptr;
};

struct CudaWork;  // recorded_cuda.cpp

/// What one device needs, made at its first use and kept to the end of the process.
struct CudaState {
  int index = 0;
  cudaStream_t stream = nullptr;
  cudaStream_t copies = nullptr;  // of Upload
  std::mutex mutex;               // of the buffers
  CudaStaging up[2];              // one is filled while the other is being read
  std::byte* down = nullptr;
  int next_up = 0;
  CudaWork* recorded = nullptr;  // while work is being recorded
};

/// Gives the driver back what its pool keeps and no block uses.
void trim_pool(const CudaState& state);

/// The state that a stream belongs to. Its device becomes the current one of this thread.
CudaState& cuda_state_of(const Stream& stream);

// What the runtime's calls do while work is being recorded (recorded_cuda.cpp).
void* recorded_allocate(CudaState& state, std::size_t bytes);
void recorded_free(CudaState& state, void* block, std::size_t bytes) noexcept;
/// Rows of host memory, as they are now.
void recorded_copy_up(
    CudaState& state, void* to, std::size_t to_step, const void* from, std::size_t from_step, std::size_t row_bytes,
    std::int64_t num_rows);

}  // namespace avid::kernels
