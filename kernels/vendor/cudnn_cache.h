// kernels/vendor/cudnn_cache.h -- plans found once per problem and device, and which of them is taken; for CUDA builds
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "kernels/vendor/cuda_stopwatch.h"
#include "kernels/vendor/cudnn_plan.h"

namespace avid::kernels::vendor {

/// With "auto" the fastest of so many plans is taken, otherwise the first.
inline constexpr std::size_t kTimedPlans = 6;

/// The ways to compute a problem.
struct CudnnWays {
  std::vector<CudnnPlan> plans;
  std::size_t taken = 0;
  bool timed = false;

  std::int64_t workspace_bytes() const {
    std::int64_t most = 0;
    for (const CudnnPlan& plan : plans) most = std::max(most, plan.workspace_bytes());
    return most;
  }
};

inline int current_cuda_device() {
  int device = 0;
  cudaGetDevice(&device);
  return device;
}

/// Those of the current device, found at the first call with a problem. The reference stays valid.
template <class Problem>
CudnnWays& ways_for(Family family, const Problem& problem) {
  static std::map<std::pair<int, Problem>, CudnnWays> found;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  CudnnWays& ways = found[{current_cuda_device(), problem}];
  const std::size_t wanted = route(family) == Route::automatic ? kTimedPlans : 1;
  if (ways.plans.size() < wanted && !ways.timed) ways.plans = cudnn_plans(problem, wanted);
  return ways;
}

/// Runs a problem on its tensors (CudnnPlan::run); under "auto" the first run times the ways.
template <class Problem>
void run_problem(
    const Stream& stream, Family family, const Problem& problem, std::initializer_list<const void*> tensors,
    void* workspace) {
  CudnnWays& ways = ways_for(family, problem);
  const auto run = [&](std::size_t i) { ways.plans[i].run(stream, tensors, workspace); };
  if (!ways.timed && route(family) == Route::automatic) {
    ways.taken = fastest_of(ways.plans.size(), cuda_stopwatch(stream), run);
    ways.timed = true;
  }
  run(ways.taken);
}

}  // namespace avid::kernels::vendor
