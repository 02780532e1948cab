// tests/ptx/misuse_test.cpp -- every planted misuse of the runtime is refused, with CUDA's error and a reason
//
// Each runs in a child process, because some break the device.
#include <cstring>
#include <thread>
#include <vector>

#include "kernels/ptx/runtime/settings.h"
#include "tests/in_child.h"
#include "tests/ptx/objects.h"
#include "tests/ptx/runtime_kernels.h"

namespace {

using namespace avid::test;

struct Misuse {
  const char* name;
  cudaError_t expected;
  const char* reason;  // part of the line on stderr
  cudaError_t (*run)();
};

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind, new_stream());
}
cudaError_t copy_2d(
    void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width, std::size_t height,
    cudaMemcpyKind kind) {
  return cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, new_stream());
}
cudaError_t fill(dim3 grid, dim3 block, std::size_t shared = 0) {
  return launch(kFillValues, grid, block, shared, new_stream(), on_device(64), 64, 1.0f);
}
/// The work, captured into a graph that is launched after `between`, and waited for.
cudaError_t replayed(void (*work)(cudaStream_t, float*), void (*between)(float*)) {
  float* block = on_device(64);
  const cudaStream_t stream = captured_stream();
  work(stream, block);
  const cudaGraphExec_t graph = instantiated(stream);
  between(block);
  prepare(cudaGraphLaunch(graph, stream));
  return cudaStreamSynchronize(stream);
}
/// The event, recorded in a stream that is being captured.
cudaEvent_t captured_event(cudaStream_t stream) {
  const cudaEvent_t event = new_event(0);
  prepare(cudaEventRecord(event, stream));
  return event;
}
cudaError_t ended(cudaStream_t stream) {
  cudaGraph_t graph = reinterpret_cast<cudaGraph_t>(1);
  const cudaError_t error = cudaStreamEndCapture(stream, &graph);
  return graph == nullptr ? error : cudaErrorUnknown;  // nobody gets a graph from an error
}

const Misuse kMemory[] = {
    {"free what is no block", cudaErrorInvalidValue, "no block of the device",
     [] {
       static float host[4];
       return cudaFree(host);
     }},
    {"free the middle of a block", cudaErrorInvalidValue, "no block", [] { return cudaFree(on_device(64) + 1); }},
    {"free twice", cudaErrorInvalidValue, "no block",
     [] {
       float* block = on_device(64);
       prepare(cudaFree(block));
       return cudaFree(block);
     }},
    {"free twice on a stream", cudaErrorInvalidValue, "no block",
     [] {
       float* block = on_device(64);
       prepare(cudaFreeAsync(block, new_stream()));
       return cudaFreeAsync(block, new_stream());
     }},
    {"free pinned memory as the device's", cudaErrorInvalidValue, "no block", [] { return cudaFree(pinned(4)); }},
    {"free the device's memory as pinned", cudaErrorInvalidValue, "no block of pinned",
     [] { return cudaFreeHost(on_device(4)); }},
    {"more than the device has", cudaErrorMemoryAllocation, "are free",
     [] {
       void* block = nullptr;
       return cudaMalloc(&block, std::size_t{1} << 45);
     }},
    {"more than is left", cudaErrorMemoryAllocation, "are free",
     [] {
       avid::kernels::ptx::settings().memory_bytes = 1 << 20;
       on_device(200'000);
       void* block = nullptr;
       return cudaMallocAsync(&block, 300'000, new_stream());
     }},
    {"register twice", cudaErrorHostMemoryAlreadyRegistered, "already",
     [] {
       static float host[64];
       prepare(cudaHostRegister(host, 128, 0));
       return cudaHostRegister(host + 31, 128, 0);
     }},
    {"register from before a registered range", cudaErrorHostMemoryAlreadyRegistered, "already",
     [] {
       static float host[64];
       prepare(cudaHostRegister(host + 8, 32, 0));
       return cudaHostRegister(host, 36, 0);
     }},
    {"a device that is not there", cudaErrorInvalidDevice, "one device", [] { return cudaSetDevice(1); }},
};

const Misuse kCopies[] = {
    {"copy past the target's end", cudaErrorInvalidValue, "the target is longer",
     [] { return copy(on_device(4), pinned(8), 20, cudaMemcpyHostToDevice); }},
    {"copy past the source's end", cudaErrorInvalidValue, "the source is longer",
     [] { return copy(pinned(8), on_device(4), 20, cudaMemcpyDeviceToHost); }},
    {"copy past a pinned end", cudaErrorInvalidValue, "the source is longer",
     [] { return copy(on_device(8), pinned(4), 20, cudaMemcpyHostToDevice); }},
    {"copy to the host's memory as the device's", cudaErrorInvalidValue, "the target is memory of the host",
     [] {
       static float host[4];
       return copy(host, on_device(4), 16, cudaMemcpyDeviceToDevice);
     }},
    {"copy from the device's memory as the host's", cudaErrorInvalidValue, "the source is memory of the device",
     [] { return copy(on_device(4), on_device(4), 16, cudaMemcpyHostToDevice); }},
    {"copy to freed memory", cudaErrorInvalidValue, "freed",
     [] {
       float* block = on_device(4);
       prepare(cudaFree(block));
       return copy(block, pinned(4), 16, cudaMemcpyHostToDevice);
     }},
    {"copy from freed pinned memory", cudaErrorInvalidValue, "freed",
     [] {
       float* block = pinned(4);
       prepare(cudaFreeHost(block));
       return copy(on_device(4), block, 16, cudaMemcpyHostToDevice);
     }},
    {"copy on the host", cudaErrorInvalidMemcpyDirection, "only copies",
     [] { return copy(pinned(4), pinned(4), 16, cudaMemcpyHostToHost); }},
    {"copy onto itself", cudaErrorInvalidValue, "overlap",
     [] {
       float* block = on_device(8);
       return copy(block + 1, block, 16, cudaMemcpyDeviceToDevice);
     }},
    {"copy columns onto themselves", cudaErrorInvalidValue, "overlap",
     [] {
       float* block = on_device(64);
       return copy_2d(block + 9, 32, block, 32, 8, 4, cudaMemcpyDeviceToDevice);
     }},
    {"a pitch below the width", cudaErrorInvalidPitchValue, "below the width",
     [] { return copy_2d(on_device(64), 12, pinned(64), 16, 16, 2, cudaMemcpyHostToDevice); }},
    {"a pitch of 2 GiB", cudaErrorInvalidPitchValue, "above",
     [] { return copy_2d(on_device(64), 16, pinned(64), std::size_t{1} << 31, 16, 1, cudaMemcpyHostToDevice); }},
    {"the last row past the end", cudaErrorInvalidValue, "the target is longer",
     [] { return copy_2d(on_device(11), 16, pinned(64), 16, 16, 3, cudaMemcpyHostToDevice); }},
    {"fill past the end", cudaErrorInvalidValue, "longer",
     [] { return cudaMemsetAsync(on_device(4), 0, 17, new_stream()); }},
    {"fill rows with a pitch below the width", cudaErrorInvalidPitchValue, "below",
     [] { return cudaMemset2DAsync(on_device(64), 8, 0, 16, 2, new_stream()); }},
    {"fill the host's memory", cudaErrorInvalidValue, "memory of the host",
     [] {
       static float host[4];
       return cudaMemsetAsync(host, 0, 16, new_stream());
     }},
    {"a stream that waits for the default stream", cudaErrorNotSupported, "not modelled",
     [] {
       cudaStream_t stream = nullptr;
       return cudaStreamCreateWithFlags(&stream, cudaStreamDefault);
     }},
};

const Misuse kLaunches[] = {
    {"an empty grid", cudaErrorInvalidConfiguration, "empty", [] { return fill(0, 32); }},
    {"an empty block", cudaErrorInvalidConfiguration, "empty", [] { return fill(1, dim3(32, 0)); }},
    {"1056 threads", cudaErrorInvalidConfiguration, "1024 threads", [] { return fill(1, dim3(32, 33)); }},
    {"65 threads in z", cudaErrorInvalidConfiguration, "1024 threads", [] { return fill(1, dim3(1, 1, 65)); }},
    {"a grid of 65536 in y", cudaErrorInvalidConfiguration, "65535", [] { return fill(dim3(1, 65536), 32); }},
    {"a grid of 65536 in z", cudaErrorInvalidConfiguration, "65535", [] { return fill(dim3(1, 1, 65536), 32); }},
    {"more threads than __launch_bounds__", cudaErrorLaunchOutOfResources, "promised 64",
     [] { return launch(kBounded, 1, 65, 0, new_stream(), on_device(128)); }},
    {"more shared memory than 48 KiB", cudaErrorInvalidValue, "49152 B were allowed",
     [] { return fill(1, 32, 49153); }},
    {"more than 48 KiB with the static array", cudaErrorInvalidValue, "48128 B were allowed",
     [] { return launch(kReversed, 1, 32, 48129, new_stream(), on_device(32)); }},
    {"more shared memory than asked for", cudaErrorInvalidValue, "60000 B were allowed",
     [] {
       prepare(cudaFuncSetAttribute(kFillValues, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000));
       return fill(1, 32, 60001);
     }},
    {"asking for 164 KiB on 8.0", cudaErrorInvalidValue, "166912 B beside",
     [] { return cudaFuncSetAttribute(kFillValues, cudaFuncAttributeMaxDynamicSharedMemorySize, 164 << 10); }},
    {"asking for 163 KiB beside 1 KiB", cudaErrorInvalidValue, "165888 B beside",
     [] { return cudaFuncSetAttribute(kReversed, cudaFuncAttributeMaxDynamicSharedMemorySize, 163 << 10); }},
    {"asking for 228 KiB on 9.0", cudaErrorInvalidValue, "232448 B beside",
     [] {
       avid::kernels::ptx::settings().arch = 90;
       return cudaFuncSetAttribute(kFillValues, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10);
     }},
    {"an address that is no kernel", cudaErrorInvalidDeviceFunction, "no object registered",
     [] {
       static const int nothing = 0;
       return launch(&nothing, 1, 32, 0, new_stream());
     }},
    {"no arguments", cudaErrorInvalidValue, "arguments are missing",
     [] {
       cudaLaunchConfig_t configuration{};
       configuration.gridDim = configuration.blockDim = dim3(1);
       configuration.stream = new_stream();
       return cudaLaunchKernelExC(&configuration, kFillValues, nullptr);
     }},
    {"code for 9.0a on 8.0", cudaErrorNoKernelImageForDevice, "PTX for 90a",
     [] { return launch(kFillValuesSm90a, 1, 32, 0, new_stream(), on_device(32), 32, 1.0f); }},
    {"a stream that is none", cudaErrorInvalidResourceHandle, "no stream",
     [] { return launch(kFillValues, 1, 32, 0, reinterpret_cast<cudaStream_t>(64), on_device(32), 32, 1.0f); }},
};

const Misuse kEvents[] = {
    {"an event that was destroyed", cudaErrorInvalidResourceHandle, "no event",
     [] {
       const cudaEvent_t event = new_event();
       prepare(cudaEventDestroy(event));
       return cudaEventRecord(event, new_stream());
     }},
    {"the time between events without timing", cudaErrorInvalidResourceHandle, "without timing",
     [] {
       const cudaStream_t stream = new_stream();
       const cudaEvent_t from = new_event(), to = new_event();
       prepare(cudaEventRecord(from, stream));
       prepare(cudaEventRecord(to, stream));
       float time = 0;
       return cudaEventElapsedTime(&time, from, to);
     }},
    {"the time since an event that never was", cudaErrorInvalidResourceHandle, "never recorded",
     [] {
       const cudaEvent_t from = new_event(0), to = new_event(0);
       prepare(cudaEventRecord(to, new_stream()));
       float time = 0;
       return cudaEventElapsedTime(&time, from, to);
     }},
    {"the time to an event that is not over", cudaErrorNotReady, "not over",
     [] {
       avid::kernels::ptx::settings().late = true;
       const cudaStream_t stream = new_stream();
       const cudaEvent_t from = new_event(0), to = new_event(0);
       prepare(cudaEventRecord(from, stream));
       prepare(cudaEventRecord(to, stream));
       prepare(cudaEventSynchronize(from));
       float time = 0;
       return cudaEventElapsedTime(&time, from, to);
     }},
};

const Misuse kCaptures[] = {
    {"waiting for a captured stream", cudaErrorStreamCaptureUnsupported, "lost",
     [] { return cudaStreamSynchronize(captured_stream()); }},
    {"waiting for a captured event", cudaErrorCapturedEvent, "lost",
     [] { return cudaEventSynchronize(captured_event(captured_stream())); }},
    {"waiting for an event of an old capture", cudaErrorCapturedEvent, "while that was captured",
     [] {
       const cudaStream_t stream = captured_stream();
       const cudaEvent_t event = captured_event(stream);
       instantiated(stream);
       return cudaEventSynchronize(event);
     }},
    {"a stream that waits for an event of an old capture", cudaErrorCapturedEvent, "over",
     [] {
       const cudaStream_t stream = captured_stream();
       const cudaEvent_t event = captured_event(stream);
       instantiated(stream);
       return cudaStreamWaitEvent(stream, event, 0);
     }},
    {"a capture that waits for work outside", cudaErrorStreamCaptureIsolation, "not recorded in that capture",
     [] {
       const cudaEvent_t event = new_event();
       prepare(cudaEventRecord(event, new_stream()));
       return cudaStreamWaitEvent(captured_stream(), event, 0);
     }},
    {"two captures become one", cudaErrorStreamCaptureMerge, "another capture",
     [] { return cudaStreamWaitEvent(captured_stream(), captured_event(captured_stream()), 0); }},
    {"work after a lost capture", cudaErrorStreamCaptureInvalidated, "lost before",
     [] {
       float* block = on_device(4);
       const cudaStream_t stream = captured_stream();
       cudaStreamSynchronize(stream);
       return cudaMemsetAsync(block, 0, 16, stream);
     }},
    {"the end of a lost capture", cudaErrorStreamCaptureInvalidated, "lost before",
     [] {
       const cudaStream_t stream = captured_stream();
       cudaStreamSynchronize(stream);
       return ended(stream);
     }},
    {"a branch that is not joined", cudaErrorStreamCaptureUnjoined, "joined",
     [] {
       float* block = on_device(4);
       const cudaStream_t stream = captured_stream(), branch = new_stream();
       prepare(cudaStreamWaitEvent(branch, captured_event(stream), 0));
       prepare(cudaMemsetAsync(block, 0, 16, branch));
       return ended(stream);
     }},
    {"the end in a branch", cudaErrorStreamCaptureUnmatched, "began elsewhere",
     [] {
       const cudaStream_t stream = captured_stream(), branch = new_stream();
       prepare(cudaStreamWaitEvent(branch, captured_event(stream), 0));
       return ended(branch);
     }},
    {"an end without a beginning", cudaErrorIllegalState, "not being captured", [] { return ended(new_stream()); }},
    {"a beginning in a capture", cudaErrorIllegalState, "already",
     [] { return cudaStreamBeginCapture(captured_stream(), cudaStreamCaptureModeRelaxed); }},
    {"a capture of the default stream", cudaErrorStreamCaptureUnsupported, "default stream",
     [] { return cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed); }},
    {"the end in another thread", cudaErrorStreamCaptureWrongThread, "another thread",
     [] {
       const cudaStream_t stream = captured_stream(cudaStreamCaptureModeThreadLocal);
       cudaError_t error = cudaSuccess;
       std::thread([&] { error = ended(stream); }).join();
       return error;
     }},
    {"memory in a strict capture", cudaErrorStreamCaptureUnsupported, "in this mode",
     [] {
       captured_stream(cudaStreamCaptureModeThreadLocal);
       void* block = nullptr;
       return cudaMalloc(&block, 16);
     }},
    {"pinned memory in a strict capture", cudaErrorStreamCaptureUnsupported, "in this mode",
     [] {
       captured_stream(cudaStreamCaptureModeThreadLocal);
       void* block = nullptr;
       return cudaMallocHost(&block, 16);
     }},
    {"memory in another thread's strict capture", cudaErrorStreamCaptureUnsupported, "in this mode",
     [] {
       captured_stream(cudaStreamCaptureModeGlobal);
       cudaError_t error = cudaSuccess;
       std::thread([&] {
         void* block = nullptr;
         error = cudaMalloc(&block, 16);
       }).join();
       return error;
     }},
    {"a pool's memory in a capture", cudaErrorNotSupported, "memory of their own",
     [] {
       void* block = nullptr;
       return cudaMallocAsync(&block, 16, captured_stream());
     }},
    {"freeing in a capture", cudaErrorInvalidValue, "none of its graph's",
     [] {
       float* block = on_device(4);
       return cudaFreeAsync(block, captured_stream());
     }},
    {"a graph in a capture", cudaErrorNotSupported, "graphs in graphs",
     [] { return cudaGraphLaunch(instantiated(captured_stream()), captured_stream()); }},
    {"a graph that was destroyed", cudaErrorInvalidResourceHandle, "no executable graph",
     [] {
       const cudaGraphExec_t graph = instantiated(captured_stream());
       prepare(cudaGraphExecDestroy(graph));
       return cudaGraphLaunch(graph, new_stream());
     }},
    {"a graph that copies from freed memory", cudaErrorIllegalAddress, "freed",
     [] {
       return replayed(
           [](cudaStream_t stream, float* block) {
             prepare(cudaMemcpyAsync(on_device(64), block, 256, cudaMemcpyDeviceToDevice, stream));
           },
           [](float* block) { prepare(cudaFree(block)); });
     }},
    {"a graph that fills freed memory", cudaErrorIllegalAddress, "freed",
     [] {
       return replayed(
           [](cudaStream_t stream, float* block) { prepare(cudaMemset2DAsync(block, 16, 0, 8, 4, stream)); },
           [](float* block) { prepare(cudaFree(block)); });
     }},
};

template <std::size_t N>
void check_all(const Misuse (&all)[N]) {
  for (const Misuse& misuse : all) {
    const std::string name = misuse.name;
    CAPTURE(name);
    const Outcome outcome = in_child([&] {
      try {
        return static_cast<int>(misuse.run());
      } catch (const Unprepared& unprepared) {
        return 2000 + static_cast<int>(unprepared.error);
      }
    });
    CAPTURE(outcome.text);
    CHECK(outcome.result == static_cast<int>(misuse.expected));
    CHECK(outcome.text.find("ptx machine: ") != std::string::npos);
    CHECK(outcome.text.find(misuse.reason) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("misuse/memory") { check_all(kMemory); }
TEST_CASE("misuse/copies") { check_all(kCopies); }
TEST_CASE("misuse/launches") { check_all(kLaunches); }
TEST_CASE("misuse/events") { check_all(kEvents); }
TEST_CASE("misuse/captures") { check_all(kCaptures); }

TEST_CASE("misuse/errors/the last one is told once, to the thread that made it") {
  const Outcome outcome = in_child([] {
    cudaFree(pinned(4));
    cudaSetDevice(1);
    bool other_knows = true;
    std::thread([&] { other_knows = cudaGetLastError() != cudaSuccess; }).join();
    if (other_knows || cudaGetLastError() != cudaErrorInvalidDevice) return 1;
    return static_cast<int>(cudaGetLastError());
  });
  CHECK(outcome.result == 0);
}

TEST_CASE("misuse/errors/have names and texts") {
  CHECK(std::string(cudaGetErrorName(cudaErrorStreamCaptureUnjoined)) == "cudaErrorStreamCaptureUnjoined");
  for (const auto* list : {&kMemory[0], &kCopies[0], &kLaunches[0], &kEvents[0], &kCaptures[0]})
    CHECK(std::string(cudaGetErrorString(list->expected)) != cudaGetErrorString(cudaErrorUnknown));
  CHECK(std::string(cudaGetErrorName(static_cast<cudaError_t>(12345))) == "cudaErrorUnknown");
}

TEST_CASE("misuse/host/who follows a device pointer dies, before there is work and when it was waited for") {
  for (const bool worked : {false, true}) {
    CAPTURE(worked);
    const Outcome outcome = in_child([&] {
      volatile float* block = on_device(4);
      const cudaStream_t stream = new_stream();
      if (worked) prepare(cudaMemsetAsync(const_cast<float*>(block), 0, 16, stream));
      if (worked) prepare(cudaStreamSynchronize(stream));
      block[0] = 1;
      return 0;
    });
    CHECK(outcome.signal == SIGSEGV);
  }
}
