// kernels/vendor/cuda_stopwatch.cpp -- events around single runs
//
// Measured  never run on a GPU yet
#include "kernels/vendor/cuda_stopwatch.h"

#if AVID_HAVE_CUDA

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>

#include "kernels/device/runtime.h"

namespace avid::kernels::vendor {
namespace {

constexpr std::size_t kFlushBytes = std::size_t{128} << 20;  // more than the second-level cache of any GPU so far
constexpr int kRuns = 5;

void check_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess) throw GpuError(std::string("auto: ") + call + ": " + cudaGetErrorString(status));
}

struct Event {
  cudaEvent_t event = nullptr;
  Event() { check_cuda(cudaEventCreate(&event), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

/// A block to overwrite, given back at the end of the scope; null when memory is short: then the cache stays warm.
struct Scratch {
  const Stream& stream;
  void* block;
  explicit Scratch(const Stream& s) : stream(s), block(device_allocate<Cuda>(s, kFlushBytes)) {}
  ~Scratch() {
    if (block != nullptr) device_free<Cuda>(stream, block, kFlushBytes);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void overwrite() const {
    if (block != nullptr) device_zero<Cuda>(stream, block, kFlushBytes, kFlushBytes, 1);
  }
};

}  // namespace

Stopwatch cuda_stopwatch(const Stream& stream) {
  return [stream](const std::function<void()>& f) -> std::optional<double> {
    const auto native = static_cast<cudaStream_t>(stream.handle);
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(native, &capture), "cudaStreamIsCapturing");
    if (capture != cudaStreamCaptureStatusNone) return {};
    f();
    f();
    const Scratch scratch(stream);
    const Event begin, end;
    std::array<float, kRuns> times{};
    for (float& time : times) {
      scratch.overwrite();
      check_cuda(cudaEventRecord(begin.event, native), "cudaEventRecord");
      f();
      check_cuda(cudaEventRecord(end.event, native), "cudaEventRecord");
      check_cuda(cudaEventSynchronize(end.event), "cudaEventSynchronize");
      check_cuda(cudaEventElapsedTime(&time, begin.event, end.event), "cudaEventElapsedTime");
    }
    std::sort(times.begin(), times.end());
    return times[kRuns / 2];
  };
}

std::size_t fastest_of(std::size_t count, const Stopwatch& watch, const std::function<void(std::size_t)>& run) {
  std::size_t best = 0;
  double least = 0;
  for (std::size_t i = 0; count > 1 && i < count; ++i) {
    const std::optional<double> time = watch([&] { run(i); });
    if (!time) return 0;
    if (i == 0 || *time < least) best = i, least = *time;
  }
  return best;
}

}  // namespace avid::kernels::vendor

#endif  // AVID_HAVE_CUDA
