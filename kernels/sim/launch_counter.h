// kernels/sim/launch_counter.h -- what every launch of a program asks of a device, from a few of its blocks
//
//   LaunchCounter counter;
//   pretend_and_note(&counter);       // launches are noted and not done, device memory is zeros
//   ... one step, to warm up ...
//   counter.begin();
//   ... the step ...
//   counter.end();
//   pretend_and_note(nullptr);
//   counter.launches()
//
// Of every launch a few blocks, spread over the grid, are run and counted; times the number of blocks that is the
// launch. Launches of the same kernel on the same sizes are counted once. Only in builds with race hooks.
//
// The same program gives the same counts, to the last bit, wherever the system put its memory: what is counted, and
// what a first-level cache is said to hold, depends on which block of device memory an address lies in and where in it,
// never on the address. Which words of the arguments are addresses is seen from their values, so launch() clears the
// gaps between the arguments, where older calls leave addresses of theirs (gpu_sim.h).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/device/sim_recorder.h"
#include "kernels/op_name.h"
#include "kernels/sim/block_work.h"
#include "kernels/sim/vector_types.h"

namespace avid::kernels::simulator {

/// Totals of a launch.
struct LaunchWork {
  double mma = 0, tf32 = 0, wgmma = 0;  ///< multiply-adds as issued (block_work.h)
  double mma_instructions = 0, passes = 0, loads = 0;
  double cache_read = 0, cache_written = 0;    ///< bytes between the multiprocessors and the second-level cache
  double memory_read = 0, memory_written = 0;  ///< of that, each piece of memory at most once: what DRAM has to move
  std::uint64_t sampled_blocks = 0, blocks = 1;
  bool operator==(const LaunchWork&) const = default;
};

struct NotedLaunch {
  std::string kernel;  ///< "gather_gemm_kernel<bf16, GemmTile<128, 104, ...> >", or "copy", "fill"
  std::string op, module;
  OpVariant variant;
  sim::dim3 grid{1, 1, 1}, block{1, 1, 1};
  std::size_t shared_bytes = 0;  ///< static and dynamic
  LaunchWork work;
};

class LaunchCounter final : public LaunchNotes {
 public:
  /// `said`: called with the name of every kernel that is about to be sampled.
  explicit LaunchCounter(std::function<void(const std::string& kernel)> said = {}) : said_(std::move(said)) {}

  /// Launches before this and after end() are dropped.
  void begin() { begun_ = true; }
  void end() { begun_ = false; }
  const std::vector<NotedLaunch>& launches() const { return launches_; }

  void launched(const Launch& launch) override;
  void copied(std::size_t bytes) override;
  void filled(std::size_t bytes) override;

 private:
  struct Counted {
    LaunchWork work;
    std::size_t shared_bytes = 0;
  };
  NotedLaunch& note(const std::string& kernel);
  const std::string& name_of(const void* kernel);

  std::function<void(const std::string&)> said_;
  bool begun_ = false;
  std::vector<NotedLaunch> launches_;
  std::map<std::vector<std::uint64_t>, Counted> counted_;
  std::map<const void*, std::string> names_;
};

/// What the blocks of a launch do, together, estimated from samples of them (of all where there are few).
LaunchWork count_blocks(const Launch& launch, std::size_t* static_shared_bytes);

}  // namespace avid::kernels::simulator
