// eval/metrics/frechet_bootstrap.h -- how far a Frechet distance depends on the clips that happened to be drawn
//
// A distance between sets is no mean over clips, so each resample is a distance of its own. Both sets are resampled
// together (clip i of each goes on from the same conditioning frames), and every method under the same draws, so that
// differences between methods are paired.
//
// A resample repeats clips and so has fewer different ones: its distance is larger on average, by much when there are
// fewer clips than features. What the resamples tell is the spread, so their percentiles are moved until their mean
// stands on the distance of the clips themselves. Differences are treated alike; most of that bias cancels in them.
#pragma once

#include <cstdint>
#include <vector>

#include "eval/metrics/bootstrap.h"
#include "eval/metrics/frechet.h"

namespace avid::eval {

/// A distance, and the distances of resamples 0, 1, ... of the clips.
struct FrechetResamples {
  double value = 0;
  std::vector<double> resamples;
};

/// Resample r draws as many clips as there are (Philox, purpose bootstrap, stream r: the draws of bootstrap_mean).
///
/// Shapes   x, y [N * rows_per_clip, D]: rows of clip n are n * rows_per_clip + (0 .. rows_per_clip - 1).
/// Errors   those of frechet_distance; ShapeError unless both have the same whole number of clips; ConfigError.
/// Exact    depends on features, seed and resamples only, not on the number of threads.
/// Cost     frechet_resample_flop each; resamples run side by side on all threads.
FrechetResamples resample_frechet(
    const Tensor& x, const Tensor& y, std::int64_t rows_per_clip, Covariance covariance,
    const BootstrapOptions& options);

/// value, and the percentiles of the resamples moved by (value - their mean). A distance's lower end is not below 0.
Interval frechet_interval(const FrechetResamples& distance, double level = 0.95);
/// a - b under the same draws, the same way. ShapeError unless both have as many resamples.
Interval frechet_difference(const FrechetResamples& a, const FrechetResamples& b, double level = 0.95);

/// Floating-point operations of one resample of `samples` rows of `features` numbers, about: 63 % of the rows are
/// different ones, which go through QR (when more than features), a product, and singular values, all in f64.
double frechet_resample_flop(std::int64_t samples, std::int64_t features);

}  // namespace avid::eval
