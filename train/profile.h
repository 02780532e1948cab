// train/profile.h -- what a profile says of a step: a row per op, the machine's roofs, a trace, a picture
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "train/bench_step.h"

namespace avid::train {

/// What this device reached in the same run, with nothing else to do: the two roofs.
struct DevicePeaks {
  double flops_per_s = 0;  ///< a large matrix product in the type of the activations
  double bytes_per_s = 0;  ///< a large copy, bytes read plus bytes written
  std::string gemm_by;     ///< whose product: "oneDNN f32", "cuBLASLt bf16", "our linear, bf16"

  /// The most FLOP/s that an op with so many FLOPs per byte can reach.
  double roof(double flops_per_byte) const;
};

/// Measures them on `device`. Nothing on the simulator, whose times say nothing about any hardware.
std::optional<DevicePeaks> measure_peaks(Device device, DType activations);

/// One op, sums of one step.
struct OpRow {
  std::string name;
  double calls = 0, seconds = 0, flops = 0, bytes = 0, launches = 0;
  double share = 0;  ///< of the step's time
  double roof_share =
      0;  ///< time that the roofs allow / time taken; 0 where there are no roofs, or nothing was counted

  double flops_per_s() const { return seconds > 0 ? flops / seconds : 0; }
  double bytes_per_s() const { return seconds > 0 ? bytes / seconds : 0; }
  double intensity() const { return bytes > 0 ? flops / bytes : 0; }
};

/// Rows of result.ops, the longest first; seconds per step are sums over ops, "outside ops" is not among them.
std::vector<OpRow> op_rows(const BenchResult& result, const std::optional<DevicePeaks>& peaks);

/// What a trace or a picture is of.
struct ProfileTitle {
  std::string kind;    ///< "avid"
  std::string device;  ///< "cuda:0 (NVIDIA ...)", "cpu, 2 threads", "sim"
  std::string dtype;
  bool times_mean_something = true;  ///< false on the simulator
};

/// The Trace Event Format that chrome://tracing and Perfetto read: a track per thread or stream, on it the steps, in
/// them modules, in them ops. Microseconds. Each op carries its module, FLOPs, bytes, rates and the time without inner
/// ops.
std::string chrome_trace(const ProfileTitle& title, const BenchResult& result);

/// A complete <svg>: every op as a point, FLOP per byte against FLOP/s, both in decades, under the two roofs; beside it
/// the ops by time with their share of the roof. Without peaks (the simulator): FLOP per byte against FLOP per step, no
/// times.
std::string roofline_svg(
    const ProfileTitle& title, const std::vector<OpRow>& rows, const std::optional<DevicePeaks>& peaks);

/// 1.23e12, "FLOP/s" -> "1.23 TFLOP/s"; three digits.
std::string with_prefix(double value, const std::string& unit);

}  // namespace avid::train
