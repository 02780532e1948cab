// kernels/sim/launch.cpp -- a grid over the OS threads
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>

#include "kernels/device/gpu_sim.h"
#include "kernels/device/launch_context.h"
#include "kernels/device/sim_recorder.h"
#include "kernels/device/sim_settings.h"
#include "kernels/sim/engine.h"
#include "kernels/sim/global_races.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {
namespace {

/// Unless told otherwise: a block of 1024 fibers is 2048 mappings, and Linux allows a process 65530.
constexpr int kMostThreads = 16;

/// How long a grid runs on its caller's thread before others are called in. Most launches are over by then, and calling
/// them costs more: they spin for the next call, which on a busy machine takes the time of somebody's work.
constexpr std::chrono::microseconds kAlone{300};

[[noreturn]] void refuse(const Launch& l, const std::string& why) {
  const auto text = [](sim::dim3 d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  throw SimError(
      ErrorKind::bad_launch, function_name(l.kernel) + ": launch: " + why + " | grid " + text(l.grid) + ", block " +
                                 text(l.block) + ", shared " + std::to_string(l.shared_bytes) + " B");
}

/// What a GPU refuses; one line as the launch on a GPU gives it.
void check_launch(const Launch& l) {
  const std::uint64_t threads = std::uint64_t{l.block.x} * l.block.y * l.block.z;
  if (threads == 0 || threads > 1024 || l.block.z > 64) refuse(l, "a block has 1 to 1024 threads, 64 in z");
  if (l.grid.x == 0 || l.grid.y == 0 || l.grid.z == 0) refuse(l, "empty grid; callers skip empty work");
  if (l.grid.x > 2147483647u || l.grid.y > 65535 || l.grid.z > 65535)
    refuse(l, "a grid has at most 2^31 - 1, 65535, 65535 blocks");
  if (const std::size_t limit = SharedMemory::limit_bytes(); l.shared_bytes > limit)
    refuse(l, "more shared memory than sm_" + std::to_string(options().arch) + " has, " + std::to_string(limit) + " B");
}

/// A GPU that loads kernels lazily would load one that never ran in the middle of the recording.
void check_recorded(const Launch& l) {
  if (!has_run(l.kernel)) refuse(l, "recorded before it ever ran; run the same work once without recording");
}

/// The i-th block to run. A random run visits them in strides.
std::uint64_t block_at(std::uint64_t i, std::uint64_t total, const Options& o) {
  if (o.order == Order::forward) return i;
  if (o.order == Order::reverse) return total - 1 - i;
  std::uint64_t stride = (o.seed * 0x9e3779b97f4a7c15ull >> 33) % total;
  while (std::gcd(stride, total) != 1) ++stride;
  return (i * (stride % total) + o.seed) % total;
}

/// The same launch for later, with a copy of its arguments.
std::function<void()> kept(const Launch& l) {
  constexpr std::size_t kAlign = 64;
  const std::shared_ptr<void> arguments(
      std::aligned_alloc(kAlign, (l.context_bytes + kAlign - 1) / kAlign * kAlign), std::free);
  std::memcpy(arguments.get(), l.context, l.context_bytes);
  return [=] { run_grid(l.kernel, l.grid, l.block, l.shared_bytes, l.call, arguments.get(), l.context_bytes); };
}

}  // namespace

Options& options() {
  static Options o = options_from_environment();
  return o;
}

void run_grid(
    const void* kernel, sim::dim3 grid, sim::dim3 block, std::size_t shared_bytes, void (*call)(void*), void* context,
    std::size_t context_bytes) {
  Launch launch{kernel, call, context, context_bytes, grid, block, shared_bytes};
  check_launch(launch);
  note_launch();
  if (recorder != nullptr && !recorder->pretends) {
    check_recorded(launch);
    recorder->steps.push_back(kept(launch));
    return;
  }
  note_run(kernel);
  if (recorder != nullptr) {
    if (recorder->notes != nullptr) recorder->notes->launched(launch);
    return;
  }
  std::optional<GlobalLaunch> watched;
  if (have_race_hooks() && options().detect_races) launch.number = watched.emplace().number();
  const std::uint64_t total = std::uint64_t{grid.x} * grid.y * grid.z;
  std::exception_ptr first;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> next{0};
  std::mutex mutex;
  const auto work = [&](std::chrono::steady_clock::duration most) {
    Engine& mine = own_engine();
    try {
      mine.begin_launch(launch);
      const auto start = std::chrono::steady_clock::now();
      while (!stop.load(std::memory_order_relaxed)) {
        const std::uint64_t i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= total) break;
        mine.run_block(block_at(i, total, options()));
        if (std::chrono::steady_clock::now() - start > most) break;
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
      stop = true;
    }
  };
  const auto wanted = static_cast<std::uint64_t>(
      options().os_threads > 0 ? options().os_threads : std::min(omp_get_max_threads(), kMostThreads));
  constexpr auto kForever = std::chrono::steady_clock::duration::max();
  const bool can_share = wanted > 1 && !omp_in_parallel();
  work(can_share ? kAlone : kForever);
  if (const std::uint64_t begun = next; !stop && begun < total) {
    const int num_threads = static_cast<int>(std::min(wanted, total - begun));
#pragma omp parallel num_threads(num_threads)
    work(kForever);
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace avid::kernels::simulator
