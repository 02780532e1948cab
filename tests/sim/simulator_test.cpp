// tests/sim/simulator_test.cpp -- the device language does what CUDA's does: indices, shuffles, votes, shared memory,
// copies
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "kernels/device/gpu.h"
#include "kernels/device/sim_settings.h"
#include "tests/sim/orders.h"

namespace avid::kernels {
namespace AVID_GPU {

__global__ void reverse_kernel(const float* in, float* out) {
  AVID_SHARED(float, tile, [64]);
  tile[threadIdx.x] = in[blockIdx.x * 64 + threadIdx.x];
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = tile[63 - threadIdx.x];
}

__global__ void warp_sum_kernel(const float* in, float* out) {
  float v = in[threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  out[threadIdx.x] = v;
}

__global__ void copy_async_kernel(const float* in, float* out, int n) {
  SharedArena arena;
  float* a = arena.take<float>(256, "a");
  cp_async_16(a + threadIdx.x * 4, in + threadIdx.x * 4, static_cast<int>(threadIdx.x) * 4 < n);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = a[255 - (threadIdx.x * 4 + i)];
}

}  // namespace AVID_GPU
}  // namespace avid::kernels

using namespace avid::kernels;

TEST_CASE("simulator/shared/reversed through a tile in every order") {
  std::vector<float> in(192), out(192);
  for (int i = 0; i < 192; ++i) in[i] = static_cast<float>(i);
  avid::test::for_each_order([&] {
    out.assign(192, -1.0f);
    sim::launch(sim::reverse_kernel, 3, 64, 0, Stream{}, in.data(), out.data());
    for (int b = 0; b < 3; ++b)
      for (int i = 0; i < 64; ++i) CHECK(out[b * 64 + i] == static_cast<float>(b * 64 + 63 - i));
  });
}

TEST_CASE("simulator/shuffle/butterfly sum") {
  std::vector<float> in(32), out(32);
  for (int i = 0; i < 32; ++i) in[i] = static_cast<float>(i);
  avid::test::for_each_order([&] {
    sim::launch(sim::warp_sum_kernel, 1, 32, 0, Stream{}, in.data(), out.data());
    for (float v : out) CHECK(v == 496.0f);
  });
}

TEST_CASE("simulator/cp_async/valid copies and zeros") {
  alignas(16) float in[256], out[256];
  for (int i = 0; i < 256; ++i) in[i] = static_cast<float>(i + 1);
  avid::test::for_each_order([&] {
    sim::launch(sim::copy_async_kernel, 1, 64, 1024, Stream{}, in, out, 200);
    for (int i = 0; i < 256; ++i) CHECK(out[i] == (255 - i < 200 ? static_cast<float>(256 - i) : 0.0f));
  });
}

namespace {

/// f() with a variable set.
template <class F>
auto with_setting(const char* name, const char* value, F&& f) {
  struct Unset {
    const char* name;
    ~Unset() { unsetenv(name); }
  } unset{name};
  setenv(name, value, 1);
  return f();
}

}  // namespace

TEST_CASE("simulator/settings/what the environment says") {
  using namespace simulator;
  const auto options = [](const char* name, const char* value) {
    return with_setting(name, value, options_from_environment);
  };
  CHECK(options("AVID_SIM_ORDER", "forward").order == Order::forward);
  CHECK(options("AVID_SIM_ORDER", "reverse").order == Order::reverse);
  CHECK(options("AVID_SIM_ORDER", "random").order == Order::random);
  CHECK(options("AVID_SIM_SEED", "0").seed == 0);
  CHECK(options("AVID_SIM_SEED", "18446744073709551615").seed == std::numeric_limits<std::uint64_t>::max());
  CHECK(options("AVID_SIM_ARCH", "80").arch == 80);
  CHECK(options("AVID_SIM_ARCH", "90").arch == 90);
  CHECK(options("AVID_SIM_THREADS", "256").os_threads == 256);
  for (const char* name : {"AVID_SIM_ORDER", "AVID_SIM_SEED", "AVID_SIM_ARCH", "AVID_SIM_THREADS"}) {
    const Options o = options(name, ""), usual;
    CHECK((o.order == usual.order && o.seed == usual.seed && o.arch == usual.arch));
    CHECK(o.os_threads == usual.os_threads);
  }
  const auto memory = [](const char* value) {
    return with_setting("AVID_SIM_MEMORY_MIB", value, memory_from_environment);
  };
  CHECK(memory("64") == std::size_t{64} << 20);
  CHECK(memory("0.5") == std::size_t{1} << 19);
  CHECK(memory("1e3") == std::size_t{1000} << 20);
  CHECK(memory("") == std::numeric_limits<std::size_t>::max());
}

TEST_CASE("simulator/settings/nonsense is one line that says what was expected and what was found") {
  struct Setting {
    const char *name, *expected;
    std::vector<const char*> nonsense;
  };
  const std::vector<Setting> settings{
      {"AVID_SIM_ORDER", "expected forward, reverse or random, got", {"Forward", "forwards", "rev", "0", " random"}},
      {"AVID_SIM_SEED",
       "expected a whole number from 0 to 18446744073709551615, got",
       {"-1", "1.5", "1e3", "x", "7 ", "0x10", "18446744073709551616"}},
      {"AVID_SIM_ARCH", "expected 80 or 90, got", {"8", "80a", "sm_90", "100", "-80", "90.0"}},
      {"AVID_SIM_THREADS",
       "expected a whole number from 1 to 256, got",
       {"0", "-2", "two", "2x", "257", "1.0", "99999999999"}},
      {"AVID_SIM_MEMORY_MIB",
       "expected MiB above 0, up to 1e9, such as 64 or 0.5, got",
       {"0", "-1", "nan", "inf", "64MiB", "x", "1e10", "1e999", "1,5"}}};
  for (const Setting& s : settings)
    for (const char* value : s.nonsense) {
      const std::string text = with_setting(s.name, value, [] {
        try {
          simulator::options_from_environment();
          simulator::memory_from_environment();
        } catch (const GpuError& error) {
          return std::string(error.what());
        }
        return std::string("no error");
      });
      CHECK(text == std::string(s.name) + ": " + s.expected + " '" + value + "'");
    }
}
