// eval/metrics/bootstrap.cpp -- confidence intervals by resampling clips
#include "eval/metrics/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/error.h"
#include "tensor/rng.h"

namespace avid::eval {
namespace {

/// The p-quantile of sorted values, linear between neighbours.
double quantile(const std::vector<double>& sorted, double p) {
  const double position = p * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - std::floor(position)) * (sorted[above] - sorted[below]);
}

void check_options(std::size_t num_values, const BootstrapOptions& options) {
  check<Error>(num_values > 0, "bootstrap: expected at least one clip, got none");
  check<ConfigError>(
      options.resamples >= 1 && options.level > 0 && options.level < 1,
      "bootstrap: expected resamples >= 1 and 0 < level < 1, got {} and {}", options.resamples, options.level);
}

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

Interval percentile_interval(double value, std::vector<double> resampled, double level) {
  std::sort(resampled.begin(), resampled.end());
  const double tail = (1 - level) / 2;
  return {.mean = value, .low = quantile(resampled, tail), .high = quantile(resampled, 1 - tail)};
}

Interval bootstrap_mean(std::span<const double> values, const BootstrapOptions& options) {
  check_options(values.size(), options);
  const auto n = static_cast<std::uint32_t>(values.size());
  std::vector<double> means(static_cast<std::size_t>(options.resamples));
  for (std::size_t r = 0; r < means.size(); ++r) {
    const RngKey key{options.seed, RngPurpose::bootstrap, r};
    double sum = 0;
    for (std::uint32_t i = 0; i < n; ++i) sum += values[random_below(key, i, n)];
    means[r] = sum / n;
  }
  return percentile_interval(mean_of(values), std::move(means), options.level);
}

Interval bootstrap_ratio(
    std::span<const double> a, std::span<const double> b, double guard, const BootstrapOptions& options) {
  check<ShapeError>(
      a.size() == b.size(), "bootstrap: expected scores of the same clips, got {} and {}", a.size(), b.size());
  check_options(a.size(), options);
  const auto n = static_cast<std::uint32_t>(a.size());
  std::vector<double> ratios(static_cast<std::size_t>(options.resamples));
  for (std::size_t r = 0; r < ratios.size(); ++r) {
    const RngKey key{options.seed, RngPurpose::bootstrap, r};
    double above = 0, below = 0;
    for (std::uint32_t i = 0; i < n; ++i) {
      const auto clip = random_below(key, i, n);
      above += a[clip];
      below += b[clip];
    }
    ratios[r] = above / n / (below / n + guard);
  }
  return percentile_interval(mean_of(a) / (mean_of(b) + guard), std::move(ratios), options.level);
}

Interval bootstrap_difference(std::span<const double> a, std::span<const double> b, const BootstrapOptions& options) {
  check<ShapeError>(
      a.size() == b.size(), "bootstrap: expected scores of the same clips, got {} and {}", a.size(), b.size());
  std::vector<double> difference(a.size());
  std::transform(a.begin(), a.end(), b.begin(), difference.begin(), std::minus<>());
  return bootstrap_mean(difference, options);
}

}  // namespace avid::eval
