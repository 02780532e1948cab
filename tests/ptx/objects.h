// tests/ptx/objects.h -- what tests of the machine's runtime need of it, made in a line
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace avid::test {

/// Ends a piece of a test (in_child.h) whose preparation failed.
struct Unprepared {
  cudaError_t error;
};
inline void prepare(cudaError_t error) {
  if (error != cudaSuccess) throw Unprepared{error};
}

inline cudaStream_t new_stream() {
  cudaStream_t stream = nullptr;
  prepare(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}
inline cudaEvent_t new_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t event = nullptr;
  prepare(cudaEventCreateWithFlags(&event, flags));
  return event;
}
inline float* on_device(std::size_t floats) {
  void* block = nullptr;
  prepare(cudaMalloc(&block, floats * sizeof(float)));
  return static_cast<float*>(block);
}
inline float* pinned(std::size_t floats) {
  void* block = nullptr;
  prepare(cudaMallocHost(&block, floats * sizeof(float)));
  return static_cast<float*>(block);
}
/// A stream that is being captured.
inline cudaStream_t captured_stream(cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed) {
  const cudaStream_t stream = new_stream();
  prepare(cudaStreamBeginCapture(stream, mode));
  return stream;
}
inline cudaGraphExec_t instantiated(cudaStream_t captured) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  prepare(cudaStreamEndCapture(captured, &graph));
  prepare(cudaGraphInstantiateWithFlags(&executable, graph, 0));
  prepare(cudaGraphDestroy(graph));
  return executable;
}

/// Launches a kernel with these arguments.
template <class... A>
cudaError_t launch(
    const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, A... args) {
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = grid;
  configuration.blockDim = block;
  configuration.dynamicSmemBytes = shared_bytes;
  configuration.stream = stream;
  void* addresses[] = {&args..., nullptr};
  return cudaLaunchKernelExC(&configuration, kernel, addresses);
}

}  // namespace avid::test
