// eval/metrics/frechet_bootstrap.cpp -- resampling clips of two feature sets together
#include "eval/metrics/frechet_bootstrap.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <numeric>

#include "tensor/error.h"
#include "tensor/rng.h"

namespace avid::eval {
namespace {

/// The percentiles of `resamples` moved so that their mean is `value`.
Interval centred_interval(double value, const std::vector<double>& resamples, double level) {
  if (resamples.empty()) return {value, value, value};
  const Interval spread = percentile_interval(value, resamples, level);
  const double mean = std::accumulate(resamples.begin(), resamples.end(), 0.0) / static_cast<double>(resamples.size());
  return {value, spread.low + (value - mean), spread.high + (value - mean)};
}

}  // namespace

FrechetResamples resample_frechet(
    const Tensor& x, const Tensor& y, std::int64_t rows_per_clip, Covariance covariance,
    const BootstrapOptions& options) {
  check<ConfigError>(options.resamples >= 0, "bootstrap: expected resamples >= 0, got {}", options.resamples);
  FrechetResamples out{frechet_distance(x, y, covariance), {}};
  if (options.resamples == 0) return out;
  check<ShapeError>(
      rows_per_clip >= 1 && x.dim(0) == y.dim(0) && x.dim(0) % rows_per_clip == 0,
      "bootstrap: expected the same clips of {} rows in both sets, got {} and {} rows", rows_per_clip, x.dim(0),
      y.dim(0));
  const auto clips = static_cast<std::uint32_t>(x.dim(0) / rows_per_clip);
  out.resamples.resize(static_cast<std::size_t>(options.resamples));
  std::exception_ptr problem;  // none may leave the parallel loop
#pragma omp parallel for schedule(dynamic)
  for (std::size_t r = 0; r < out.resamples.size(); ++r) {
    try {
      const RngKey key{options.seed, RngPurpose::bootstrap, r};
      std::vector<std::int64_t> counts(static_cast<std::size_t>(x.dim(0)), 0);
      for (std::uint32_t i = 0; i < clips; ++i) {
        const auto first = static_cast<std::int64_t>(random_below(key, i, clips)) * rows_per_clip;
        for (std::int64_t row = first; row < first + rows_per_clip; ++row) ++counts[static_cast<std::size_t>(row)];
      }
      out.resamples[r] = frechet_distance(x, y, covariance, counts);
    } catch (...) {
#pragma omp critical
      problem = std::current_exception();
    }
  }
  if (problem) std::rethrow_exception(problem);
  return out;
}

Interval frechet_interval(const FrechetResamples& distance, double level) {
  Interval interval = centred_interval(distance.value, distance.resamples, level);
  interval.low = std::max(interval.low, 0.0);
  return interval;
}

Interval frechet_difference(const FrechetResamples& a, const FrechetResamples& b, double level) {
  check<ShapeError>(
      a.resamples.size() == b.resamples.size(),
      "bootstrap: expected as many resamples of both distances, got {} and {}", a.resamples.size(), b.resamples.size());
  std::vector<double> difference(a.resamples.size());
  std::transform(a.resamples.begin(), a.resamples.end(), b.resamples.begin(), difference.begin(), std::minus<>());
  return centred_interval(a.value - b.value, difference, level);
}

double frechet_resample_flop(std::int64_t samples, std::int64_t features) {
  const double rows = 0.632 * static_cast<double>(samples), d = static_cast<double>(features);
  const double side = std::min(rows, d);
  const double qr = rows > d ? 2 * (2 * d * d * (rows - d / 3)) : 0;  // of both sets
  return qr + 2 * side * side * d + 8.0 / 3 * side * side * side;
}

}  // namespace avid::eval
