// tests/gpu/main.cpp -- the kernel tests of tests/sim on a GPU: every kernel, on its own, against the CPU's results
//
// AVID_TEST_DEVICE names the device (default cuda:0). Without one the program says "skipped: ..." and ends with
// success. Kernels work on the host's memory here, which is slow and needs no copies: these tests are about results.
// Every launch is waited for, so that the first kernel that fails is the one that is named.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "kernels/device/runtime.h"
#include "kernels/device/wgmma_switch.h"
#include "kernels/gather_gemm.h"
#include "tests/doctest.h"
#include "tests/gpu/shared_memory.h"
#include "tests/sim/orders.h"
#include "tests/sim/wait.h"

namespace avid::test {

const char* sim_suite() { return "gpu"; }

void wait_for_fills() {
  if (const cudaError_t error = cudaStreamSynchronize(nullptr); error != cudaSuccess)
    throw kernels::GpuError(std::string("tests: waiting for the device: ") + cudaGetErrorString(error));
}

namespace {

int run(int argc, char** argv) {
  const char* name = std::getenv("AVID_TEST_DEVICE");
  const int device = name != nullptr && std::strncmp(name, "cuda:", 5) == 0 ? std::atoi(name + 5) : 0;
  if (const std::string problem = kernels::device_problem<kernels::Cuda>(device); !problem.empty()) {
    std::printf("skipped: device: %s\n", problem.c_str());
    return 0;
  }
  kernels::device_stream<kernels::Cuda>(device);
  std::printf("device cuda:%d (%s)\n", device, kernels::device_name<kernels::Cuda>(device).c_str());
  const bool has_wgmma = kernels::have_wgmma<kernels::Cuda>();
  if (!has_wgmma) std::printf("left out: tests of wgmma (no compute capability 9.0, or AVID_WGMMA=off)\n");
  begin_shared_memory();
  return run_on_shared_stack([&] {
    kernels::device_stream<kernels::Cuda>(device);  // of this thread
    doctest::Context context;
    context.applyCommandLine(argc, argv);
    context.addFilter("test-case-exclude", "*/offsets_*");  // gigabytes that only the host sees
    if (!has_wgmma) context.addFilter("source-file-exclude", "*wgmma_test.cpp,*/warpgroup_test.cpp");
    if (!has_wgmma || !kernels::tma_allowed()) context.addFilter("source-file-exclude", "*/tensor_copy_test.cpp");
    return context.run();
  });
}

}  // namespace
}  // namespace avid::test

int main(int argc, char** argv) {
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
  try {
    return avid::test::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "test_gpu: %s\n", error.what());
    return 1;
  }
}
