// tests/ptx/work_test.cpp -- what is queued is done: copies, kernels, graphs, in early and in late order
#include <array>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/ptx/runtime/settings.h"
#include "tests/in_child.h"
#include "tests/ptx/objects.h"
#include "tests/ptx/runtime_kernels.h"

namespace {

using namespace avid::test;
using avid::kernels::ptx::settings;

/// In a process of its own, and in both orders; `piece` returns whether all is well.
void check_in_both_orders(bool (*piece)()) {
  for (const bool late : {false, true}) {
    CAPTURE(late);
    const Outcome outcome = in_child([&] {
      settings().late = late;
      try {
        return piece() ? 7 : 1;
      } catch (const Unprepared& unprepared) {
        return 1000 + static_cast<int>(unprepared.error);
      }
    });
    CAPTURE(outcome.text);
    CHECK(outcome.result == 7);
    CHECK(outcome.text == "");
  }
}

/// The first values of a block, copied on the stream and waited for.
std::vector<float> values_of(const float* block, std::size_t count, cudaStream_t stream) {
  std::vector<float> values(count);
  prepare(cudaMemcpyAsync(values.data(), block, count * sizeof(float), cudaMemcpyDeviceToHost, stream));
  prepare(cudaStreamSynchronize(stream));
  return values;
}

std::vector<float> count_to(std::size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

}  // namespace

TEST_CASE("work/memory/is NaN until somebody writes it") {
  check_in_both_orders([] {
    const std::vector<float> values = values_of(on_device(5), 5, new_stream());
    return std::all_of(values.begin(), values.end(), [](float v) { return v != v; });
  });
}

TEST_CASE("work/copies/move the rows they name and nothing between") {
  check_in_both_orders([] {
    const cudaStream_t stream = new_stream();
    const std::vector<float> source = count_to(12);  // three rows of four
    float *block = on_device(15), *other = on_device(15);
    prepare(cudaMemset2DAsync(block, 20, 0, 20, 3, stream));
    prepare(cudaMemcpy2DAsync(block + 1, 20, source.data(), 16, 12, 3, cudaMemcpyHostToDevice, stream));
    prepare(cudaMemcpyAsync(other, block, 60, cudaMemcpyDeviceToDevice, stream));
    return values_of(other, 15, stream) == std::vector<float>{0, 1, 2, 3, 0, 0, 5, 6, 7, 0, 0, 9, 10, 11, 0};
  });
}

TEST_CASE("work/copies/columns move beside themselves") {
  check_in_both_orders([] {
    const cudaStream_t stream = new_stream();
    const std::vector<float> source = count_to(8);
    float* block = on_device(8);
    prepare(cudaMemcpyAsync(block, source.data(), 32, cudaMemcpyHostToDevice, stream));
    prepare(cudaMemcpy2DAsync(block + 2, 16, block, 16, 8, 2, cudaMemcpyDeviceToDevice, stream));
    return values_of(block, 8, stream) == std::vector<float>{1, 2, 1, 2, 5, 6, 5, 6};
  });
}

TEST_CASE("work/copies/pageable memory may change when the call returns, pinned memory may not") {
  for (const bool late : {false, true}) {
    CAPTURE(late);
    const Outcome outcome = in_child([&] {
      settings().late = late;
      const cudaStream_t stream = new_stream();
      float *block = on_device(2), *waits = pinned(1);
      float leaves = 1;
      *waits = 1;
      prepare(cudaMemcpyAsync(block, &leaves, 4, cudaMemcpyHostToDevice, stream));
      prepare(cudaMemcpyAsync(block + 1, waits, 4, cudaMemcpyHostToDevice, stream));
      leaves = *waits = 2;
      const std::vector<float> values = values_of(block, 2, stream);
      return static_cast<int>(10 * values[0] + values[1]);
    });
    CHECK(outcome.result == (late ? 12 : 11));
  }
}

TEST_CASE("work/events/a stream that waits for one sees what was done before it, one that does not need not") {
  for (const bool waits : {true, false}) {
    for (const bool late : {false, true}) {
      CAPTURE(waits);
      CAPTURE(late);
      const Outcome outcome = in_child([&] {
        settings().late = late;
        const cudaStream_t first = new_stream(), second = new_stream();
        const cudaEvent_t done = new_event();
        float *block = on_device(1), *value = pinned(1);
        prepare(cudaMemsetAsync(block, 0, 4, first));
        prepare(cudaStreamSynchronize(first));
        *value = 5;
        prepare(cudaMemcpyAsync(block, value, 4, cudaMemcpyHostToDevice, first));
        prepare(cudaEventRecord(done, first));
        if (waits) prepare(cudaStreamWaitEvent(second, done, 0));
        return static_cast<int>(values_of(block, 1, second)[0]);
      });
      CHECK(outcome.result == (waits || !late ? 5 : 0));
    }
  }
}

TEST_CASE("work/events/the time between two is that between two") {
  check_in_both_orders([] {
    const cudaStream_t stream = new_stream();
    const cudaEvent_t from = new_event(0), to = new_event(0);
    float* block = on_device(1 << 22);
    float time = -1;
    prepare(cudaEventRecord(from, stream));
    prepare(cudaMemsetAsync(block, 0, 1 << 24, stream));
    prepare(cudaEventRecord(to, stream));
    prepare(cudaEventSynchronize(to));
    prepare(cudaEventElapsedTime(&time, from, to));
    return time > 0.01f && time < 60000.0f;  // 16 MiB are written between them
  });
}

TEST_CASE("work/launches/arguments of every alignment arrive") {
  check_in_both_orders([] {
    const cudaStream_t stream = new_stream();
    float* out = on_device(3);
    const FirstValues first = {{1, 2, 3}, 0.5};
    prepare(launch(kFirstValues, 1, 1, 0, stream, char{10}, out, first, short{3}));
    return values_of(out, 3, stream) == std::vector<float>{10.5f, 11, 11.5f};
  });
}

TEST_CASE("work/launches/the default stream, waited for at once") {
  for (const bool late : {false, true}) {
    CAPTURE(late);
    const Outcome outcome = in_child([&] {
      settings().late = late;
      settings().launch_blocking = true;
      float* out = pinned(3);
      launch_fill_values(out, 3, 2, nullptr);
      return static_cast<int>(out[0] + out[1] + out[2]);
    });
    CHECK(outcome.result == 6);
  }
}

TEST_CASE("work/launches/nvcc's own way") {
  check_in_both_orders([] {
    const cudaStream_t stream = new_stream();
    float* out = on_device(70);
    launch_fill_values(out, 70, 2, stream);
    return cudaGetLastError() == cudaSuccess && values_of(out, 70, stream) == std::vector<float>(70, 2);
  });
}

TEST_CASE("work/launches/dynamic and static shared memory lie beside each other") {
  check_in_both_orders([] {
    const cudaStream_t stream = new_stream();
    float* block = on_device(64);
    const std::vector<float> source = count_to(64);
    prepare(cudaFuncSetAttribute(kReversed, cudaFuncAttributeMaxDynamicSharedMemorySize, 162 << 10));
    prepare(cudaMemcpyAsync(block, source.data(), 256, cudaMemcpyHostToDevice, stream));
    prepare(launch(kReversed, 1, 64, 162 << 10, stream, block));
    const std::vector<float> values = values_of(block, 64, stream);
    for (std::size_t i = 0; i < 64; ++i)
      if (values[i] != static_cast<float>(65 - i)) return false;
    return true;
  });
}

TEST_CASE("work/launches/code for 9.0a runs on 9.0, and code for 8.0 too") {
  const Outcome outcome = in_child([] {
    settings().arch = 90;
    const cudaStream_t stream = new_stream();
    float* out = on_device(2);
    prepare(launch(kFillValues, 1, 32, 0, stream, out, 1, 3.0f));
    prepare(launch(kFillValuesSm90a, 1, 32, 0, stream, out + 1, 1, 4.0f));
    const std::vector<float> values = values_of(out, 2, stream);
    return static_cast<int>(10 * values[0] + values[1]);
  });
  CAPTURE(outcome.text);
  CHECK(outcome.result == 34);
}

TEST_CASE("work/launches/a kernel that fails breaks the device, at the launch or behind it") {
  for (const bool blocking : {false, true}) {
    CAPTURE(blocking);
    const Outcome outcome = in_child([&] {
      settings().launch_blocking = blocking;
      const cudaStream_t stream = new_stream();
      static float host[32];
      const cudaError_t at_launch = launch(kFillValues, 1, 32, 0, stream, host, 32, 1.0f);
      if (at_launch != (blocking ? cudaErrorLaunchFailure : cudaSuccess)) return 1;
      void* block = nullptr;
      if (cudaStreamSynchronize(stream) != cudaErrorLaunchFailure) return 2;
      if (cudaMalloc(&block, 4) != cudaErrorLaunchFailure) return 3;
      for (int i = 0; i < 2; ++i)  // not to be forgotten
        if (cudaGetLastError() != cudaErrorLaunchFailure) return 4;
      return host[0] == 0 ? 7 : 5;
    });
    CAPTURE(outcome.text);
    CHECK(outcome.result == 7);
    CHECK(outcome.text.find("fill_values") != std::string::npos);
  }
}

TEST_CASE("work/graphs/nothing happens while work is captured, and all of it at every launch, with arguments as then") {
  check_in_both_orders([] {
    float *list = on_device(8), *value = pinned(1);
    const cudaStream_t stream = new_stream();
    prepare(cudaMemsetAsync(list, 0, 32, stream));
    *value = 5;
    prepare(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    float argument = 1;
    prepare(launch(kAppend, 1, 1, 0, stream, list, argument));
    argument = 2;
    prepare(launch(kAppend, 1, 1, 0, stream, list, argument));
    prepare(cudaMemcpyAsync(list + 7, value, 4, cudaMemcpyHostToDevice, stream));
    cudaStreamCaptureStatus status{};
    prepare(cudaStreamIsCapturing(stream, &status));
    if (status != cudaStreamCaptureStatusActive) return false;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    std::size_t count = 0;
    prepare(cudaStreamEndCapture(stream, &graph));
    prepare(cudaGraphGetNodes(graph, nullptr, &count));
    prepare(cudaGraphInstantiateWithFlags(&executable, graph, 0));
    prepare(cudaGraphDestroy(graph));
    prepare(cudaGraphUpload(executable, stream));
    if (count != 3 || values_of(list, 1, stream)[0] != 0) return false;
    prepare(cudaGraphLaunch(executable, stream));
    prepare(cudaStreamSynchronize(stream));
    *value = 6;  // copied at every launch
    prepare(cudaGraphLaunch(executable, stream));
    prepare(cudaGraphExecDestroy(executable));  // the launch is under way
    const std::vector<float> values = values_of(list, 8, stream);
    return std::vector<float>(values.begin(), values.begin() + 5) == std::vector<float>{4, 1, 2, 1, 2} &&
           values[7] == 6;
  });
}

TEST_CASE("work/graphs/a branch that is joined belongs to it") {
  check_in_both_orders([] {
    float* list = on_device(8);
    const cudaStream_t stream = new_stream(), branch = new_stream();
    const cudaEvent_t begun = new_event(), ended = new_event();
    prepare(cudaMemsetAsync(list, 0, 32, stream));
    prepare(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    prepare(cudaEventRecord(begun, stream));
    prepare(cudaStreamWaitEvent(branch, begun, 0));
    prepare(launch(kAppend, 1, 1, 0, branch, list, 3.0f));
    prepare(cudaEventRecord(ended, branch));
    prepare(cudaStreamWaitEvent(stream, ended, 0));
    prepare(launch(kAppend, 1, 1, 0, stream, list, 4.0f));
    const cudaGraphExec_t graph = instantiated(stream);
    cudaStreamCaptureStatus status{};
    prepare(cudaStreamIsCapturing(branch, &status));
    if (status != cudaStreamCaptureStatusNone) return false;
    prepare(cudaGraphLaunch(graph, branch));
    return values_of(list, 3, branch) == std::vector<float>{2, 3, 4};
  });
}

TEST_CASE("work/memory/what is freed in stream order is there until the stream comes to it") {
  check_in_both_orders([] {
    const cudaStream_t stream = new_stream();
    void* block = nullptr;
    std::size_t before = 0, after = 0, total = 0;
    prepare(cudaMemGetInfo(&before, &total));
    prepare(cudaMallocAsync(&block, 4096, stream));
    float* out = pinned(1);
    prepare(launch(kFillValues, 1, 32, 0, stream, static_cast<float*>(block), 32, 9.0f));
    prepare(cudaMemcpyAsync(out, block, 4, cudaMemcpyDeviceToHost, stream));
    prepare(cudaFreeAsync(block, stream));
    prepare(cudaStreamSynchronize(stream));
    prepare(cudaMemGetInfo(&after, &total));
    return *out == 9 && before == after && before < total + 1;
  });
}
