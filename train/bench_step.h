// train/bench_step.h -- timing of whole training updates and sampling steps at given sizes
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kernels/op_timer.h"
#include "tensor/tensor.h"

namespace avid::train {

struct BenchRequest {
  std::string kind = "avid";              ///< avid: adapter update; base: base update; sample: base + adapter forward
  std::filesystem::path base, adapter;    ///< weights; adapter is not needed for "base"
  std::filesystem::path input;            ///< x0, noise, x_t, t, cond, actions in the layout of `avid forward`
  std::int64_t steps = 5, warmup = 2;
  bool per_op = false;                    ///< collect where the time goes
  Device device = {};                     ///< where the networks compute
  DType activations = DType::f32;         ///< f32 or bf16
};

struct BenchResult {
  std::vector<double> seconds;            ///< one per step
  double loss = 0;                        ///< of the first step, for comparison with another implementation
  double flops_per_step = 0;              ///< multiply-adds x 2; backward counted as two forwards
  std::size_t peak_pool_bytes = 0;        ///< tensors
  double peak_process_mib = 0;            ///< resident set of the process
  std::map<std::string, kernels::OpTime> ops;
  std::map<std::string, std::int64_t> slow_paths;
};

/// Runs `warmup` + `steps` steps on one fixed batch. Throws UsageError for an unknown kind, FileError / ShapeError for files
/// that do not fit together.
BenchResult bench_step(const BenchRequest& request);

/// FLOP/s of oneDNN's f32 product of n x n matrices on all threads, the best of several tries: the machine's yardstick, measured
/// by code that is not ours.
double measure_gemm_flops_per_second(std::int64_t n = 1536);

}  // namespace avid::train
