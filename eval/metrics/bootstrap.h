// eval/metrics/bootstrap.h -- confidence intervals by resampling clips
//
// Frames of one clip depend on each other, clips do not: values given here are one per clip.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace avid::eval {

struct Interval {
  double mean = 0, low = 0, high = 0;
  /// The whole interval lies on one side of zero.
  bool excludes_zero() const { return low > 0 || high < 0; }
};

struct BootstrapOptions {
  std::uint64_t seed = 0;
  std::int64_t resamples = 2000;
  double level = 0.95;
};

/// The mean of `values` and the percentile interval of the means of resamples drawn with replacement.
/// Exact    depends on values, seed and resamples only (Philox, purpose bootstrap).
/// Errors   Error when `values` is empty; one value gives an interval of width 0.
Interval bootstrap_mean(std::span<const double> values, const BootstrapOptions& options = {});

/// The same of a[i] - b[i]; a and b are scores of the same clips in the same order. ShapeError when sizes differ.
Interval bootstrap_difference(
    std::span<const double> a, std::span<const double> b, const BootstrapOptions& options = {});

/// mean(a) / (mean(b) + guard) with the interval of the same ratio over resamples, drawn together: a[i] and b[i] belong
/// to one clip. ShapeError when sizes differ.
Interval bootstrap_ratio(
    std::span<const double> a, std::span<const double> b, double guard, const BootstrapOptions& options = {});

/// `value` with the percentiles that hold `level` of the resampled values, linear between neighbours; at least one.
Interval percentile_interval(double value, std::vector<double> resampled, double level);

}  // namespace avid::eval
