// kernels/vendor/cuda_stopwatch.cpp -- events around single runs, and around ops as they come
//
// Measured  never run on a GPU yet
#include "kernels/vendor/cuda_stopwatch.h"

#if AVID_HAVE_CUDA

#include <cuda_runtime_api.h>

#include "kernels/device/runtime.h"
#include "kernels/elementwise.h"

namespace avid::kernels::vendor {
namespace {

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

/// Zeros to read, given back at the end of the scope; none when memory is short: then the cache stays warm.
class CacheFlush {
 public:
  explicit CacheFlush(const Stream& stream) : stream_(stream), block_(device_allocate<Cuda>(stream, bytes_)) {
    if (block_ != nullptr) device_zero<Cuda>(stream, block_, bytes_, bytes_, 1);
  }
  ~CacheFlush() {
    if (block_ != nullptr) device_free<Cuda>(stream_, block_, bytes_);
  }
  CacheFlush(const CacheFlush&) = delete;
  CacheFlush& operator=(const CacheFlush&) = delete;
  void run() const {
    if (block_ == nullptr) return;
    auto* found = static_cast<std::int32_t*>(block_);  // stays zero, as the numbers behind it are finite
    find_non_finite<Cuda, float>(
        stream_, static_cast<const float*>(block_), static_cast<std::int64_t>(bytes_ / sizeof(float)), found);
  }

 private:
  std::size_t bytes_ = flush_bytes();
  Stream stream_;
  void* block_;
};

class CudaOpClock final : public OpClock {
 public:
  explicit CudaOpClock(const Stream& stream) : stream_(static_cast<cudaStream_t>(stream.handle)), flush_(stream) {}
  void begin() override {
    flush_.run();
    check_cuda(cudaEventRecord(begin_.event, stream_), "cudaEventRecord");
  }
  double end() override {
    check_cuda(cudaEventRecord(end_.event, stream_), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(end_.event), "cudaEventSynchronize");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin_.event, end_.event), "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaStream_t stream_;
  CacheFlush flush_;
  Event begin_, end_;
};

}  // namespace

std::size_t flush_bytes() {
  int device = 0, cache_bytes = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize, device), "cudaDeviceGetAttribute");
  return flush_bytes(static_cast<std::size_t>(cache_bytes));
}

std::unique_ptr<OpClock> cuda_op_clock(const Stream& stream) { return std::make_unique<CudaOpClock>(stream); }

Stopwatch cuda_stopwatch(const Stream& stream) {
  return [stream](const std::function<void()>& f) -> std::optional<Spread> {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream.handle), &capture), "cudaStreamIsCapturing");
    if (capture != cudaStreamCaptureStatusNone) return {};
    f();
    f();
    CudaOpClock clock(stream);
    std::vector<double> milliseconds;
    for (int i = 0; i < kRuns; ++i) {
      clock.begin();
      f();
      milliseconds.push_back(1e3 * clock.end());
    }
    return spread_of(std::move(milliseconds));
  };
}

std::size_t fastest_of(std::size_t count, const Stopwatch& watch, const std::function<void(std::size_t)>& run) {
  std::size_t best = 0;
  double least = 0;
  for (std::size_t i = 0; count > 1 && i < count; ++i) {
    const std::optional<Spread> time = watch([&] { run(i); });
    if (!time) return 0;
    if (i == 0 || time->median < least) best = i, least = time->median;
  }
  return best;
}

}  // namespace avid::kernels::vendor

#endif  // AVID_HAVE_CUDA
