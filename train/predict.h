// train/predict.h -- what a training update or sampling step would take on a GPU that is not here, line by line
//
// The step is that of bench_step, at its full size, on the device `sim`; nothing of it is computed. Each launch is
// noted with what it asks of a device, counted on a few of its blocks (kernels/sim/launch_counter.h), and timed by a
// model (predict_model.h). Needs kernels with race hooks: the program avid_traffic.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "train/bench_step.h"
#include "train/predict_model.h"

namespace avid::train {

/// Sums over launches of one kind.
struct PredictedLine {
  std::string part, what;   ///< "fwd", "conv 3x3"
  double useful_flops = 0;  ///< of the ops' products
  double issued_flops = 0;  ///< of tensor-core instructions
  double memory_bytes = 0, cache_bytes = 0;
  std::int64_t launches = 0;
  double seconds = 0, floor_seconds = 0;
  std::map<std::string, double> bound_seconds;  ///< by what the launches are bound by
  std::string bound() const;                    ///< by which most of the time
};

/// All launches of one kernel for one kind of op.
struct PredictedKernel {
  std::string kernel;
  PredictedLine line;
  LaunchTime sum;  ///< of all launches; resident of the last
  double most_blocks = 0, fewest_blocks = 0;
  double most_shared_bytes = 0;  ///< of a block, static and dynamic
};

struct Prediction {
  GpuModel gpu;
  std::string kind;
  std::int64_t clips = 0;
  std::vector<PredictedLine> lines;      ///< in the order in which they first ran
  std::vector<PredictedKernel> kernels;  ///< longest first
  PredictedLine total;
  double flops_per_step = 0;                 ///< as bench_step counts it
  std::vector<std::string> unknown_kernels;  ///< that kernels/resources.tsv lacks
  double share_of_gemm() const { return flops_per_step / (gpu.gemm_flops * total.seconds); }
};

/// `request` as for bench_step, with `config`; device, graph and counts of steps are set here. `say`: what is being
/// done, for the impatient.
/// Throws UsageError as bench_step does, and where the program has no race hooks.
Prediction predict_step(
    BenchRequest request, const GpuModel& gpu, const std::function<void(const std::string&)>& say = {});

}  // namespace avid::train
