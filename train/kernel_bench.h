// train/kernel_bench.h -- what avid bench kernels says: ours beside the libraries', convolutions and attention
// at every size, passes over memory beside a copy
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/op_watch.h"
#include "kernels/spread.h"
#include "kernels/vendor/route.h"
#include "tensor/io/json.h"
#include "train/bench_step.h"
#include "train/profile.h"

namespace avid::train {

/// An op without products at one size, over all of its calls in the timed steps.
struct MemoryRow {
  std::string op;             ///< "rms_norm_film_silu_bwd"
  std::string module;         ///< one that calls it so
  std::int64_t elements = 0;  ///< of its largest operand
  double bytes = 0;           ///< read and written by a call, work space left out
  double calls = 0;           ///< per step
  kernels::Spread seconds;    ///< of a call

  double bytes_per_s() const { return seconds.median > 0 ? bytes / seconds.median : 0; }
  /// Of the rate of a large copy, which is 1 for a kernel that loses nothing.
  double copy_share(const DevicePeaks& peaks) const { return bytes_per_s() / peaks.bytes_per_s; }
};

/// A row per op and size, those that take longest in a step first. Products, and ops that hold others, are left out.
/// `steps`: in how many the calls were made.
std::vector<MemoryRow> memory_rows(const std::vector<kernels::WatchedCall>& calls, std::int64_t steps);

/// A convolution or attention at one size, over all of its calls in the timed steps.
struct ProductRow {
  std::string op;                             ///< "temporal_attention_bwd"
  std::string module;                         ///< one that calls it so
  std::map<std::string, std::int64_t> sizes;  ///< "channels": 100 ...; docs/formats.md
  double flops = 0;                           ///< of a call
  double calls = 0;                           ///< per step
  kernels::Spread seconds;                    ///< of a call

  double flops_per_s() const { return seconds.median > 0 ? flops / seconds.median : 0; }
};

/// The same for ops that say their sizes (note_sizes).
std::vector<ProductRow> product_rows(const std::vector<kernels::WatchedCall>& calls, std::int64_t steps);

/// Runs the request's step, each call of an op timed with a cache that holds nothing of its operands. `collect` and
/// `graph` of the request are replaced. Not on the simulator.
std::vector<kernels::WatchedCall> time_ops(BenchRequest request);

/// What was measured on one device in one run.
struct KernelBench {
  std::string device, dtype, kind;
  std::vector<kernels::vendor::Choice> opponents = {};  ///< in any order; empty where there is no library: the CPU
  double opponent_steps = 1;                            ///< steps that made their calls
  std::vector<ProductRow> products = {};
  std::vector<MemoryRow> memory = {};
  std::optional<DevicePeaks> peaks = {};
};

/// Three tables and what they add up to.
std::string kernel_table(const KernelBench& bench);
/// Described in docs/formats.md.
Json kernel_json(const KernelBench& bench);

}  // namespace avid::train
