// train/bench_step.h -- timing of whole training updates and sampling steps at given sizes
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/op_timer.h"
#include "tensor/device_graph.h"
#include "tensor/tensor.h"

namespace avid::train {

/// What to run: weights and clips from files, or, with `config`, made up at the sizes of a training configuration.
struct BenchRequest {
  std::string kind = "avid";            ///< avid: adapter update; base: base update; sample: base + adapter forward
  std::filesystem::path base, adapter;  ///< weights; adapter is not needed for "base"
  std::filesystem::path input;          ///< x0, noise, x_t, t, cond, actions in the layout of `avid forward`
  std::filesystem::path config;         ///< a training configuration; then base and adapter are not read
  std::filesystem::path base_config;    ///< for a config whose model stands on a frozen base: sizes of that
  std::int64_t clips = 0;               ///< of a made-up batch; 0: train.batch
  std::int64_t steps = 5, warmup = 2;
  /// Steps on a device recorded and repeated, as training and sampling do it. Unset: train.graph of `config`, or
  /// automatic.
  std::optional<UseGraph> graph = {};
  kernels::Collect collect = kernels::Collect::nothing;  ///< where the time goes: sums per op, or every call
  /// Called with true when the first timed step begins, with false when all of it was computed or queued.
  std::function<void(bool begins)> around_first_timed = {};
  Device device = {};              ///< where the networks compute
  DType activations = DType::f32;  ///< f32 or bf16
};

struct BenchResult {
  std::vector<double> seconds;  ///< one per step
  std::int64_t clips = 0;       ///< in a batch
  double loss = 0;              ///< of the first step, for comparison with another implementation
  /// The same steps recorded and repeated. They are `seconds` themselves unless ops were collected: then the device was
  /// waited for after each. Empty where nothing was recorded.
  std::vector<double> repeated_seconds;
  std::int64_t graph_steps = 0;                ///< launches, copies and fills of the recorded step
  std::string graph_note;                      ///< why nothing was recorded
  std::int64_t num_run = 0;                    ///< steps in all, warm-up and the one for the loss included
  double flops_per_step = 0;                   ///< multiply-adds x 2; backward counted as two forwards
  std::size_t peak_pool_bytes = 0;             ///< tensors
  double peak_process_mib = 0;                 ///< resident set of the process
  std::map<std::string, kernels::OpTime> ops;  ///< with Collect::sums and events
  std::vector<kernels::OpEvent> events;        ///< with Collect::events
  std::vector<double> step_starts;             ///< on the clock of the events, one per step
  std::map<std::string, std::int64_t> slow_paths;
};

/// Runs `warmup` + `steps` steps on one fixed batch: updates as Learner does them, or steps of a DDIM sampler. On a
/// device that records, the warm-up is at least the step that runs as it is and the one that is recorded. With
/// `config`, `kind` says only whether to update or to sample.
/// Throws UsageError for an unknown kind, FileError / ShapeError for files that do not fit together, ConfigError for
/// graph = on where nothing can be recorded.
BenchResult bench_step(const BenchRequest& request);

/// FLOP/s of oneDNN's f32 product of n x n matrices on all threads, the best of several tries: the machine's yardstick,
/// measured by code that is not ours.
double measure_gemm_flops_per_second(std::int64_t n = 1536);

}  // namespace avid::train
