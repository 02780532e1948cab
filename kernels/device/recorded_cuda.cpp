// kernels/device/recorded_cuda.cpp -- recorded work of an NVIDIA GPU: a CUDA graph, captured from the stream
//
// The capture is "relaxed": while it runs, memory may be got in the ordinary way, which is not recorded. Blocks of the
// recorded work come from GraphMemory, and not from the driver's own graph allocations, because tensors that the work
// leaves behind (gradients, losses) are then ordinary memory, and because the simulator tests the same code.
//
// CUDA loads a kernel at its first launch (CUDA_MODULE_LOADING=LAZY, the default since 12.2), and before 12.3 it cannot
// while a stream is captured. So nothing is captured that did not run before: the first update and the first sampling
// step are not recorded (train/learner.cpp, diffusion/sampler.cpp), and the simulator refuses to record a kernel that
// never ran, which holds the tests of updates and samplers to it.
// Never run on a GPU yet.
#include "kernels/device/runtime.h"

#if AVID_HAVE_CUDA

#include <cstring>
#include <utility>
#include <vector>

#include "kernels/device/cuda_state.h"
#include "kernels/device/graph_memory.h"

namespace avid::kernels {

namespace {

void* reserve_slab(std::size_t bytes) {
  void* slab = nullptr;
  if (cudaMalloc(&slab, bytes) == cudaSuccess) return slab;
  cudaGetLastError();
  return nullptr;
}

void release_slab(void* slab, std::size_t) noexcept { cudaFree(slab); }

}  // namespace

struct CudaWork final : RecordedWork {
  Stream stream;
  GraphMemory::Owner memory;
  std::vector<std::pair<void*, std::size_t>> held;  // freed while recording: the graph may use them
  std::vector<void*> host_values;                   // pinned; what copies to the device read
  cudaGraphExec_t graph = nullptr;
  std::size_t num_nodes = 0;

  ~CudaWork() override {
    if (graph != nullptr) {
      cudaStreamSynchronize(native(stream));  // the last repetition may be under way
      cudaGraphExecDestroy(graph);
    }
    for (void* values : host_values) cudaFreeHost(values);
    for (const auto& [block, bytes] : held) device_free<Cuda>(stream, block, bytes);
  }
  std::int64_t num_steps() const override { return static_cast<std::int64_t>(num_nodes); }
  std::size_t memory_bytes() const override { return memory->reserved_bytes(); }
};

void* recorded_allocate(CudaState& state, std::size_t bytes) { return state.recorded->memory->take(bytes); }

void recorded_free(CudaState& state, void* block, std::size_t bytes) noexcept {
  if (state.recorded->memory->holds(block))
    GraphMemory::give_back(block);
  else
    state.recorded->held.emplace_back(block, bytes);
}

void recorded_copy_up(
    CudaState& state, void* to, std::size_t to_step, const void* from, std::size_t from_step, std::size_t row_bytes,
    std::int64_t num_rows) {
  void* values = nullptr;
  check_cuda(cudaMallocHost(&values, row_bytes * static_cast<std::size_t>(num_rows)), "cudaMallocHost");
  state.recorded->host_values.push_back(values);
  for (std::int64_t r = 0; r < num_rows; ++r)
    std::memcpy(
        static_cast<std::byte*>(values) + static_cast<std::size_t>(r) * row_bytes,
        static_cast<const std::byte*>(from) + static_cast<std::size_t>(r) * from_step, row_bytes);
  check_cuda(
      cudaMemcpy2DAsync(
          to, to_step, values, row_bytes, row_bytes, static_cast<std::size_t>(num_rows), cudaMemcpyHostToDevice,
          state.stream),
      "recording a copy to the device");
}

template <>
void record_begin<Cuda>(const Stream& stream, const MemoryPlan& plan) {
  CudaState& state = cuda_state_of(stream);
  if (state.recorded != nullptr) throw GpuError("cuda: a recording is under way already");
  check_cuda(cudaStreamSynchronize(state.stream), "cudaStreamSynchronize");
  trim_pool(state);  // what it keeps from the update before would lie beside the graph's own memory
  auto work = std::make_unique<CudaWork>();
  work->stream = stream;
  work->memory = GraphMemory::make({reserve_slab, release_slab}, plan);
  check_cuda(cudaStreamBeginCapture(state.stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  state.recorded = work.release();
}

template <>
std::unique_ptr<RecordedWork> record_end<Cuda>(const Stream& stream) {
  CudaState& state = cuda_state_of(stream);
  std::unique_ptr<CudaWork> work(std::exchange(state.recorded, nullptr));
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(state.stream, &graph), "cudaStreamEndCapture");
  cudaError_t status = cudaGraphGetNodes(graph, nullptr, &work->num_nodes);
  if (status == cudaSuccess) status = cudaGraphInstantiateWithFlags(&work->graph, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(status, "cudaGraphInstantiate");
  check_cuda(cudaGraphUpload(work->graph, state.stream), "cudaGraphUpload");
  return work;
}

template <>
void record_cancel<Cuda>(const Stream& stream) noexcept {
  try {
    CudaState& state = cuda_state_of(stream);
    const std::unique_ptr<CudaWork> dropped(std::exchange(state.recorded, nullptr));
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(state.stream, &graph) == cudaSuccess && graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
  } catch (const GpuError&) {  // a broken device reports itself with the next call
  }
}

template <>
void replay<Cuda>(const Stream& stream, RecordedWork& work) {
  if (cuda_state_of(stream).recorded != nullptr)
    throw GpuError("cuda: recorded work cannot be repeated while recording");
  check_cuda(cudaGraphLaunch(static_cast<CudaWork&>(work).graph, native(stream)), "cudaGraphLaunch");
}

}  // namespace avid::kernels

#endif  // AVID_HAVE_CUDA
