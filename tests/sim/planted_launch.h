// tests/sim/planted_launch.h -- how the kernels of planted.h are launched
#pragma once

#include <type_traits>

#include "kernels/device/gpu.h"
#include "tests/sim/arch.h"
#include "tests/sim/planted.h"

namespace avid::test {

/// Launches kBlocks blocks on a device of compute capability kArch, with (in, out, more...) or (out, more...).
template <
    auto kKernel, unsigned kBlocks, unsigned kThreads, std::size_t kSharedBytes = 0, int kArch = 90, class... More>
void launch_planted(float* in, float* out, More... more) {
  const OnArch arch(kArch);
  const auto with = [](auto... args) {
    kernels::sim::launch(kKernel, kBlocks, kThreads, kSharedBytes, kernels::Stream{}, args...);
  };
  if constexpr (std::is_invocable_v<decltype(kKernel), float*, More...>) {
    with(out, more...);
  } else {
    with(in, out, more...);
  }
}

}  // namespace avid::test

// Name and function of a kernel in one block of some threads; with some dynamic shared memory, on some device.
#define ONE(kernel, ...) \
#kernel,               \
      [](float* in, float* out) { avid::test::launch_planted<avid::kernels::sim::kernel, 1, __VA_ARGS__>(in, out); }
#define TWO_BLOCKS(kernel) \
#kernel, [](float* in, float* out) { avid::test::launch_planted<avid::kernels::sim::kernel, 2, 32>(in, out); }
#define WITH_N(kernel, threads, n) \
#kernel, [](float* in, float* out) { avid::test::launch_planted<avid::kernels::sim::kernel, 1, threads>(in, out, n); }
