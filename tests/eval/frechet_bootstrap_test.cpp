// tests/eval/frechet_bootstrap_test.cpp -- resampled Frechet distances against rows gathered one by one
#include "eval/metrics/frechet_bootstrap.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/rng.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

/// The rows of the drawn clips, copied.
Tensor gathered(const Tensor& x, std::int64_t rows_per_clip, const std::vector<std::int64_t>& clips) {
  Tensor out = Tensor::empty({static_cast<std::int64_t>(clips.size()) * rows_per_clip, x.dim(1)}, x.dtype());
  for (std::size_t i = 0; i < clips.size(); ++i)
    for (std::int64_t row = 0; row < rows_per_clip; ++row) {
      const std::int64_t to = static_cast<std::int64_t>(i) * rows_per_clip + row, from = clips[i] * rows_per_clip + row;
      out.slice(to, to + 1).copy_from(x.slice(from, from + 1));
    }
  return out;
}

std::vector<std::int64_t> drawn(std::uint64_t seed, std::uint64_t resample, std::uint32_t clips) {
  const RngKey key{seed, RngPurpose::bootstrap, resample};
  std::vector<std::int64_t> out;
  for (std::uint32_t i = 0; i < clips; ++i) out.push_back(random_below(key, i, clips));
  return out;
}

double percentile(std::vector<double> v, double p) {
  std::sort(v.begin(), v.end());
  const double at = p * (static_cast<double>(v.size()) - 1);
  const auto i = static_cast<std::size_t>(std::floor(at));
  return i + 1 < v.size() ? v[i] + (at - std::floor(at)) * (v[i + 1] - v[i]) : v[i];
}

double mean(const std::vector<double>& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
}

Tensor features(std::int64_t rows, std::int64_t columns, std::uint64_t seed, double scale) {
  return test::random_tensor({rows, columns}, DType::f32, seed, scale);
}

}  // namespace

TEST_CASE("frechet_bootstrap/counts/as_if_the_rows_stood_there_so_often") {
  const std::vector<std::int64_t> counts{2, 0, 1, 3, 0, 0, 1, 1};
  std::vector<std::int64_t> rows;
  for (std::size_t i = 0; i < counts.size(); ++i) rows.insert(rows.end(), static_cast<std::size_t>(counts[i]), i);
  for (const std::int64_t columns : {2, 3, 20})  // more rows than features, and fewer
    for (const Covariance covariance : {Covariance::biased, Covariance::unbiased}) {
      CAPTURE(columns);
      const Tensor x = features(8, columns, 1, 1), y = features(8, columns, 2, 1.5);
      const double direct = frechet_distance(gathered(x, 1, rows), gathered(y, 1, rows), covariance);
      CHECK(frechet_distance(x, y, covariance, counts) == doctest::Approx(direct).epsilon(1e-11));
      CHECK(direct > 0.1);
    }
  const Tensor x = features(8, 3, 1, 1);
  CHECK_THROWS_AS(frechet_distance(x, x, Covariance::biased, std::vector<std::int64_t>{1, 1}), ShapeError);
  CHECK_THROWS_AS(
      frechet_distance(x, x, Covariance::unbiased, std::vector<std::int64_t>{1, 0, 0, 0, 0, 0, 0, 0}), ShapeError);
}

TEST_CASE("frechet_bootstrap/resamples/every_one_recomputed_and_the_interval_by_hand") {
  constexpr std::int64_t kClips = 7, kRows = 3;
  const BootstrapOptions options{.seed = 5, .resamples = 60, .level = 0.9};
  for (const std::int64_t columns : {4, 40}) {
    CAPTURE(columns);
    const Tensor x = features(kClips * kRows, columns, 1, 1), y = features(kClips * kRows, columns, 2, 2);
    const FrechetResamples got = resample_frechet(x, y, kRows, Covariance::unbiased, options);
    CHECK(got.value == frechet_distance(x, y, Covariance::unbiased));
    REQUIRE(got.resamples.size() == 60);
    for (std::size_t r = 0; r < got.resamples.size(); ++r) {
      const auto clips = drawn(5, r, kClips);
      const double direct =
          frechet_distance(gathered(x, kRows, clips), gathered(y, kRows, clips), Covariance::unbiased);
      CHECK(got.resamples[r] == doctest::Approx(direct).epsilon(1e-9));
    }
    const Interval interval = frechet_interval(got, options.level);
    const double shift = got.value - mean(got.resamples);
    CHECK(interval.mean == got.value);
    CHECK(interval.low == doctest::Approx(std::max(0.0, percentile(got.resamples, 0.05) + shift)));
    CHECK(interval.high == doctest::Approx(percentile(got.resamples, 0.95) + shift));
    CHECK(interval.low < got.value);
    CHECK(interval.high > got.value);
  }
}

TEST_CASE("frechet_bootstrap/difference/paired_draws_cancel") {
  const BootstrapOptions options{.seed = 1, .resamples = 80};
  const Tensor real = features(30, 6, 1, 1), a = features(30, 6, 2, 1.6);
  Tensor b = features(30, 6, 2, 1.6);  // the same clips, all a little further off
  for (std::int64_t i = 0; i < b.dim(0); ++i)
    for (std::int64_t j = 0; j < 6; ++j) b.slice(i, i + 1).data<float>()[j] *= 1.05F;
  const FrechetResamples x = resample_frechet(real, a, 1, Covariance::biased, options),
                         y = resample_frechet(real, b, 1, Covariance::biased, options);
  const Interval difference = frechet_difference(y, x);
  std::vector<double> by_hand;
  for (std::size_t r = 0; r < x.resamples.size(); ++r) by_hand.push_back(y.resamples[r] - x.resamples[r]);
  CHECK(difference.mean == doctest::Approx(y.value - x.value));
  CHECK(difference.high - difference.low == doctest::Approx(percentile(by_hand, 0.975) - percentile(by_hand, 0.025)));
  CHECK(difference.excludes_zero());
  // Each interval alone is far wider than the difference's.
  const Interval alone = frechet_interval(x);
  CHECK(difference.high - difference.low < 0.5 * (alone.high - alone.low));
  const Interval none = frechet_difference(x, x);
  CHECK(none.low == 0);
  CHECK(none.high == 0);
}

TEST_CASE("frechet_bootstrap/width/shrinks_with_the_root_of_the_clips") {
  const auto width = [](std::int64_t clips) {
    const FrechetResamples d = resample_frechet(
        features(clips, 3, 1, 1), features(clips, 3, 2, 2), 1, Covariance::unbiased, {.resamples = 200});
    const Interval i = frechet_interval(d);
    return i.high - i.low;
  };
  const double ratio = width(50) / width(800);  // 4 in the limit
  CHECK(ratio > 2.5);
  CHECK(ratio < 6);
}

TEST_CASE("frechet_bootstrap/threads/the_same_bits") {
  const Tensor x = features(40, 30, 1, 1), y = features(40, 30, 2, 2);
  const BootstrapOptions options{.resamples = 20};
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = resample_frechet(x, y, 4, Covariance::biased, options).resamples;
  omp_set_num_threads(5);
  const auto five = resample_frechet(x, y, 4, Covariance::biased, options).resamples;
  omp_set_num_threads(before);
  CHECK(one == five);
}

TEST_CASE("frechet_bootstrap/errors_and_none") {
  const Tensor x = features(12, 3, 1, 1);
  CHECK_THROWS_AS(resample_frechet(x, features(9, 3, 2, 1), 3, Covariance::biased, {}), ShapeError);
  CHECK_THROWS_AS(resample_frechet(x, x, 5, Covariance::biased, {}), ShapeError);
  CHECK_THROWS_AS(resample_frechet(x, x, 3, Covariance::biased, {.resamples = -1}), ConfigError);
  // One row has no unbiased covariance.
  CHECK_THROWS_AS(
      resample_frechet(features(1, 3, 1, 1), features(1, 3, 2, 1), 1, Covariance::unbiased, {}), ShapeError);
  const FrechetResamples none = resample_frechet(x, features(9, 3, 2, 1), 1, Covariance::biased, {.resamples = 0});
  CHECK(frechet_interval(none).low == none.value);
  CHECK(frechet_interval(none).high == none.value);
  CHECK(frechet_resample_flop(8192, 2048) > 50 * frechet_resample_flop(768, 2048));
}

}  // namespace avid::eval
