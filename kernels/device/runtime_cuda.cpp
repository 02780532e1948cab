// kernels/device/runtime_cuda.cpp -- memory, copies and the stream of an NVIDIA GPU, through the CUDA runtime
//
// One stream per device carries everything, so that memory given back in stream order is safe to hand out again at once
// (cudaMallocAsync; the pool keeps what was freed). Copies from and to pageable host memory go through pinned buffers:
// the driver would stage them anyway, but would wait for the whole device to do it.
#include "kernels/device/runtime.h"

#if AVID_HAVE_CUDA

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "kernels/device/cuda_errors.h"
#include "kernels/device/cuda_state.h"
#include "kernels/device/graph_memory.h"
#include "kernels/device/launch_context.h"

namespace avid::kernels {

static_assert(
    cudaErrorMemoryAllocation == 2 && cudaErrorInsufficientDriver == 35 && cudaErrorDevicesUnavailable == 46 &&
        cudaErrorNoKernelImageForDevice == 209 && cudaErrorECCUncorrectable == 214 && cudaErrorIllegalAddress == 700 &&
        cudaErrorLaunchTimeout == 702 && cudaErrorHardwareStackError == 714 && cudaErrorLaunchFailure == 719 &&
        cudaErrorSystemNotReady == 802 && cudaErrorSystemDriverMismatch == 803,
    "the numbers of cuda_errors.cpp");

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // errors that are not sticky would be reported again by the next launch
  throw GpuError(std::string("cuda: ") + call + ": " + cudaGetErrorString(status) + cuda_advice(status));
}

namespace cuda {

cudaError_t allow_shared_memory(const void* kernel, std::size_t bytes) {
  static std::mutex mutex;
  static auto* allowed = new std::map<std::pair<int, const void*>, std::size_t>;  // by device; never destroyed
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  const std::lock_guard lock(mutex);
  std::size_t& most = (*allowed)[{device, kernel}];
  if (bytes <= most) return cudaSuccess;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error == cudaSuccess) most = bytes;
  return error;
}

void fail_launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, cudaError_t error) {
  const char* mangled = nullptr;
  if (cudaFuncGetName(&mangled, kernel) != cudaSuccess || mangled == nullptr) mangled = "?";
  cudaGetLastError();
  int status = 0;
  char* plain = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  const std::string name = plain != nullptr ? plain : mangled;
  std::free(plain);
  const auto text = [](dim3 d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  const std::string op = running_op(), tensors = tensors_of_running_op();
  std::string message = op.empty() ? "" : op + ": ";
  message += name + ": launch: " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + "), grid " +
             text(grid) + ", block " + text(block) + ", shared " + std::to_string(shared_bytes) + " B";
  if (!tensors.empty()) message += ", tensors " + tensors;
  int device = 0, most_shared = 0;
  if (cudaGetDevice(&device) == cudaSuccess)
    cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaGetLastError();
  if (most_shared > 0 && shared_bytes > static_cast<std::size_t>(most_shared)) {
    message += " | a block gets at most " + std::to_string(most_shared) +
               " B of shared memory on this device, which has less than compute capability 8.0 or 9.0 has";
    throw GpuError(message);
  }
  // Launches that are waited for report what the kernel itself did: it is this one then.
  const char* blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
  if (blocking == nullptr || *blocking == '0' || error == cudaErrorNoKernelImageForDevice)
    message += cuda_advice(error);
  else if (name.find("wgmma") != std::string::npos)
    message +=
        " | AVID_TMA=off leaves tensor copies out of the kernels on wgmma, AVID_WGMMA=off leaves these kernels out";
  throw GpuError(message);
}

}  // namespace cuda

namespace {

constexpr int kOldestMajor = 8;  // tensor cores for bf16, asynchronous copies: Ampere
constexpr std::size_t kStagingBytes = std::size_t{8} << 20;

std::mutex states_mutex;

CudaState* make_state(int index) {
  if (const std::string problem = device_problem<Cuda>(index); !problem.empty()) throw GpuError(problem);
  auto state = std::make_unique<CudaState>();
  state->index = index;
  check_cuda(cudaSetDevice(index), "cudaSetDevice");
  for (cudaStream_t* stream : {&state->stream, &state->copies})
    check_cuda(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  cudaMemPool_t pool = nullptr;
  check_cuda(cudaDeviceGetDefaultMemPool(&pool, index), "cudaDeviceGetDefaultMemPool");
  std::uint64_t keep = ~std::uint64_t{0};  // give nothing back to the driver: the next step needs the same blocks
  check_cuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "cudaMemPoolSetAttribute");
  for (CudaStaging& staging : state->up) {
    check_cuda(cudaMallocHost(reinterpret_cast<void**>(&staging.data), kStagingBytes), "cudaMallocHost");
    check_cuda(cudaEventCreateWithFlags(&staging.read, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  check_cuda(cudaMallocHost(reinterpret_cast<void**>(&state->down), kStagingBytes), "cudaMallocHost");
  return state.release();  // never destroyed: tensors in static objects may outlive any order we could choose
}

std::map<int, CudaState*>& all_states() {
  static auto* states = new std::map<int, CudaState*>;
  return *states;
}

CudaState& state_of(int index) {
  const std::lock_guard lock(states_mutex);
  CudaState*& state = all_states()[index];
  if (state == nullptr) state = make_state(index);
  return *state;
}

/// Rows between host and device in pieces that fit a staging buffer; `piece(host_rows, device, rows)` moves one.
template <class Piece>
void in_pieces(std::size_t row_bytes, std::int64_t num_rows, Piece&& piece) {
  const auto rows_per_piece = static_cast<std::int64_t>(std::max<std::size_t>(1, kStagingBytes / row_bytes));
  for (std::int64_t r = 0; r < num_rows; r += rows_per_piece) piece(r, std::min(rows_per_piece, num_rows - r));
}

void copy_up(
    CudaState& state, std::byte* to, std::size_t to_step, const std::byte* from, std::size_t from_step,
    std::size_t row_bytes, std::int64_t num_rows) {
  const std::lock_guard lock(state.mutex);
  in_pieces(row_bytes, num_rows, [&](std::int64_t first, std::int64_t rows) {
    CudaStaging& staging = state.up[state.next_up];
    state.next_up ^= 1;
    check_cuda(cudaEventSynchronize(staging.read), "cudaEventSynchronize");
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(
          staging.data + static_cast<std::size_t>(r) * row_bytes,
          from + static_cast<std::size_t>(first + r) * from_step, row_bytes);
    check_cuda(
        cudaMemcpy2DAsync(
            to + static_cast<std::size_t>(first) * to_step, to_step, staging.data, row_bytes, row_bytes,
            static_cast<std::size_t>(rows), cudaMemcpyHostToDevice, state.stream),
        "copy to the device");
    check_cuda(cudaEventRecord(staging.read, state.stream), "cudaEventRecord");
  });
}

void copy_down(
    CudaState& state, std::byte* to, std::size_t to_step, const std::byte* from, std::size_t from_step,
    std::size_t row_bytes, std::int64_t num_rows) {
  const std::lock_guard lock(state.mutex);
  in_pieces(row_bytes, num_rows, [&](std::int64_t first, std::int64_t rows) {
    check_cuda(
        cudaMemcpy2DAsync(
            state.down, row_bytes, from + static_cast<std::size_t>(first) * from_step, from_step, row_bytes,
            static_cast<std::size_t>(rows), cudaMemcpyDeviceToHost, state.stream),
        "copy from the device");
    check_cuda(cudaStreamSynchronize(state.stream), "copy from the device");
    for (std::int64_t r = 0; r < rows; ++r)
      std::memcpy(
          to + static_cast<std::size_t>(first + r) * to_step, state.down + static_cast<std::size_t>(r) * row_bytes,
          row_bytes);
  });
}

class CudaUpload final : public Upload {
 public:
  CudaUpload(CudaState& state, std::size_t bytes) : state_(state) {
    check_cuda(cudaMallocHost(reinterpret_cast<void**>(&values_), std::max<std::size_t>(bytes, 1)), "cudaMallocHost");
    for (cudaEvent_t* event : {&copied_, &used_})
      check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  ~CudaUpload() override {
    cudaEventSynchronize(copied_);
    cudaEventDestroy(copied_);
    cudaEventDestroy(used_);
    cudaFreeHost(values_);
  }
  // An event that was never recorded is over: the first calls wait for nothing.
  std::byte* buffer() override {
    check_cuda(cudaEventSynchronize(copied_), "cudaEventSynchronize");
    return values_;
  }
  void start(void* to, std::size_t bytes) override {
    check_cuda(cudaStreamWaitEvent(state_.copies, used_, 0), "cudaStreamWaitEvent");
    check_cuda(cudaMemcpyAsync(to, values_, bytes, cudaMemcpyHostToDevice, state_.copies), "copy to the device");
    check_cuda(cudaEventRecord(copied_, state_.copies), "cudaEventRecord");
  }
  void arrive() override { check_cuda(cudaStreamWaitEvent(state_.stream, copied_, 0), "cudaStreamWaitEvent"); }
  void last_use() override { check_cuda(cudaEventRecord(used_, state_.stream), "cudaEventRecord"); }

 private:
  CudaState& state_;
  std::byte* values_ = nullptr;
  cudaEvent_t copied_ = nullptr, used_ = nullptr;
};

}  // namespace

template <>
std::unique_ptr<Upload> make_upload<Cuda>(const Stream& stream, std::size_t bytes) {
  return std::make_unique<CudaUpload>(cuda_state_of(stream), bytes);
}

void trim_pool(const CudaState& state) {
  cudaMemPool_t pool = nullptr;
  check_cuda(cudaDeviceGetDefaultMemPool(&pool, state.index), "cudaDeviceGetDefaultMemPool");
  check_cuda(cudaMemPoolTrimTo(pool, 0), "cudaMemPoolTrimTo");
}

CudaState& cuda_state_of(const Stream& stream) {
  CudaState* found = nullptr;
  {
    const std::lock_guard lock(states_mutex);
    for (const auto& [index, state] : all_states())
      if (state != nullptr && state->stream == native(stream)) found = state;
  }
  if (found == nullptr) throw GpuError("cuda: a stream that no device has was used");
  int current = 0;
  check_cuda(cudaGetDevice(&current), "cudaGetDevice");
  if (current != found->index)  // a thread that only gives memory back has not chosen a device yet
    check_cuda(cudaSetDevice(found->index), "cudaSetDevice");
  return *found;
}

template <>
std::string device_problem<Cuda>(int device_index) {
  int driver = 0, runtime = 0, count = 0;
  if (const cudaError_t status = cudaDriverGetVersion(&driver); status != cudaSuccess) {
    cudaGetLastError();
    return std::string("cuda: NVIDIA's driver does not answer: ") + cudaGetErrorString(status);
  }
  if (driver == 0) return "cuda: no NVIDIA driver is installed on this machine";
  cudaRuntimeGetVersion(&runtime);
  const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  if (driver / 1000 < runtime / 1000)
    return "cuda: the driver supports CUDA " + version(driver) + ", this build needs " + version(runtime) +
           ": update the driver";
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0) {
    cudaGetLastError();
    return std::string("cuda: no device: ") +
           (status == cudaSuccess ? "the driver lists none" : cudaGetErrorString(status));
  }
  if (device_index >= count)
    return "cuda: expected a device below " + std::to_string(count) + ", got cuda:" + std::to_string(device_index);
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_index) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_index) != cudaSuccess)
    return "cuda: the device does not answer: " + std::string(cudaGetErrorString(cudaGetLastError()));
  if (major < kOldestMajor)
    return device_name<Cuda>(device_index) + " has compute capability " + std::to_string(major) + "." +
           std::to_string(minor) + ", the kernels need 8.0 (Ampere) or newer";
  if (const std::string problem = arch_problem(AVID_CUDA_ARCHS, major, minor); !problem.empty())
    return device_name<Cuda>(device_index) + " has " + problem;
  return {};
}

template <>
int device_count<Cuda>() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

template <>
std::string device_name<Cuda>(int device_index) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, device_index) != cudaSuccess) {
    cudaGetLastError();
    return "unknown device";
  }
  return properties.name;
}

template <>
Stream device_stream<Cuda>(int device_index) {
  CudaState& state = state_of(device_index);
  check_cuda(cudaSetDevice(device_index), "cudaSetDevice");  // of this thread
  return {state.stream};
}

template <>
void* device_allocate<Cuda>(const Stream& stream, std::size_t bytes) {
  if (CudaState& state = cuda_state_of(stream); state.recorded != nullptr) return recorded_allocate(state, bytes);
  void* block = nullptr;
  cudaError_t status = cudaMallocAsync(&block, std::max<std::size_t>(bytes, 1), native(stream));
  if (status == cudaErrorMemoryAllocation) {  // what the pool keeps may be in pieces: once more without them
    cudaGetLastError();
    check_cuda(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
    trim_pool(cuda_state_of(stream));
    status = cudaMallocAsync(&block, std::max<std::size_t>(bytes, 1), native(stream));
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check_cuda(status, "cudaMallocAsync");
  return block;
}

template <>
void device_free<Cuda>(const Stream& stream, void* block, std::size_t bytes) noexcept {
  try {
    CudaState& state = cuda_state_of(stream);
    if (state.recorded != nullptr) return recorded_free(state, block, bytes);
  } catch (const GpuError&) {  // a broken device: the next call that may throw reports it
    return;
  }
  if (GraphMemory::give_back(block)) return;
  // An error here is one of an earlier launch: the next call that may throw reports it.
  cudaFreeAsync(block, native(stream));
}

template <>
void device_copy<Cuda>(
    const Stream& stream, CopyKind kind, void* to, std::size_t to_step, const void* from, std::size_t from_step,
    std::size_t row_bytes, std::int64_t num_rows) {
  if (row_bytes == 0 || num_rows == 0) return;
  if (CudaState& state = cuda_state_of(stream); state.recorded != nullptr) {
    if (kind == CopyKind::to_host) throw GpuError("cuda: recorded work cannot copy to the host");
    if (kind == CopyKind::to_device) return recorded_copy_up(state, to, to_step, from, from_step, row_bytes, num_rows);
  }
  if (num_rows == 1 ||
      (to_step == row_bytes && from_step == row_bytes)) {  // one run; cut so that a piece fits a buffer
    const std::size_t all = row_bytes * static_cast<std::size_t>(num_rows);
    if (kind == CopyKind::on_device) {
      check_cuda(cudaMemcpyAsync(to, from, all, cudaMemcpyDeviceToDevice, native(stream)), "copy on the device");
      return;
    }
    auto* target = static_cast<std::byte*>(to);
    const auto* source = static_cast<const std::byte*>(from);
    CudaState& state = cuda_state_of(stream);
    const auto copy = kind == CopyKind::to_device ? copy_up : copy_down;
    const std::size_t whole = all / kStagingBytes, rest = all % kStagingBytes;
    if (whole > 0)
      copy(state, target, kStagingBytes, source, kStagingBytes, kStagingBytes, static_cast<std::int64_t>(whole));
    if (rest > 0) copy(state, target + whole * kStagingBytes, rest, source + whole * kStagingBytes, rest, rest, 1);
    return;
  }
  if (kind == CopyKind::on_device) {
    check_cuda(
        cudaMemcpy2DAsync(
            to, to_step, from, from_step, row_bytes, static_cast<std::size_t>(num_rows), cudaMemcpyDeviceToDevice,
            native(stream)),
        "copy on the device");
    return;
  }
  if (row_bytes > kStagingBytes) {  // rows longer than a buffer: one by one
    for (std::int64_t r = 0; r < num_rows; ++r)
      device_copy<Cuda>(
          stream, kind, static_cast<std::byte*>(to) + static_cast<std::size_t>(r) * to_step, row_bytes,
          static_cast<const std::byte*>(from) + static_cast<std::size_t>(r) * from_step, row_bytes, row_bytes, 1);
    return;
  }
  const auto copy = kind == CopyKind::to_device ? copy_up : copy_down;
  copy(
      cuda_state_of(stream), static_cast<std::byte*>(to), to_step, static_cast<const std::byte*>(from), from_step,
      row_bytes, num_rows);
}

template <>
void device_zero<Cuda>(const Stream& stream, void* to, std::size_t step, std::size_t row_bytes, std::int64_t num_rows) {
  if (row_bytes == 0 || num_rows == 0) return;
  if (num_rows == 1 || step == row_bytes)  // one run, which may be longer than the longest pitch that CUDA takes
    check_cuda(
        cudaMemsetAsync(to, 0, row_bytes * static_cast<std::size_t>(num_rows), native(stream)), "cudaMemsetAsync");
  else
    check_cuda(
        cudaMemset2DAsync(to, step, 0, row_bytes, static_cast<std::size_t>(num_rows), native(stream)),
        "cudaMemset2DAsync");
}

template <>
void device_synchronise<Cuda>(const Stream& stream) {
  if (cuda_state_of(stream).recorded != nullptr) throw GpuError("cuda: recorded work cannot wait for the device");
  check_cuda(cudaStreamSynchronize(native(stream)), "waiting for the device");
}

template <>
DeviceMemory device_memory<Cuda>(int device_index) {
  device_stream<Cuda>(device_index);
  DeviceMemory memory;
  check_cuda(cudaMemGetInfo(&memory.free, &memory.total), "cudaMemGetInfo");
  return memory;
}

}  // namespace avid::kernels

#endif  // AVID_HAVE_CUDA
