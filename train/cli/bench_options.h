// train/cli/bench_options.h -- what avid bench and avid profile share: their options, and the step they time
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "train/bench_step.h"
#include "train/cli/command.h"
#include "train/cli/route_options.h"
#include "train/profile.h"

namespace avid::cli {

struct BenchOptions {
  train::BenchRequest request;
  std::string dtype = "f32", device = "cpu", graph;  ///< graph: empty where it was not given
  int threads = 0;
  bool json = false;
  std::string predict;        ///< the GPU to predict for; empty: the step is timed
  bool with_kernels = false;  ///< of a prediction
  bool no_libraries = false;  ///< bench kernels without opponents
  std::shared_ptr<RouteOptions> routes = std::make_shared<RouteOptions>();
};

/// Options of the step that is measured: kind, weights, clips, --dtype, --json.
void add_step_inputs(Command* command, const std::shared_ptr<BenchOptions>& options);
void add_threads(Command* command, const std::shared_ptr<BenchOptions>& options);
/// The same with --steps, --warmup, --device, --graph and --threads.
void add_step_options(Command* command, const std::shared_ptr<BenchOptions>& options);

/// A step that was timed, beside what the machine reaches.
struct TimedStep {
  train::BenchResult result;
  std::optional<train::DevicePeaks> peaks;
  std::vector<train::OpRow> rows;  ///< empty unless ops were collected
  train::ProfileTitle title;
};

/// Runs it. UsageError for options that do not fit.
TimedStep time_step(BenchOptions& options);

/// One JSON value, or a line about the step and, when ops were collected, a table of them.
void print_step(const BenchOptions& options, const TimedStep& step);

}  // namespace avid::cli
