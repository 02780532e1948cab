// tests/eval/calibration_test.cpp -- reliability of class predictions against values by hand
#include "eval/metrics/calibration.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

/// Logits of two classes whose softmax gives class 0 this probability.
Tensor logits_of(const std::vector<double>& probabilities, std::int64_t clips) {
  std::vector<float> values;
  for (const double p : probabilities) {
    values.push_back(static_cast<float>(std::log(p / (1 - p))));
    values.push_back(0);
  }
  return Tensor::from_values(values, {clips, static_cast<std::int64_t>(probabilities.size()) / clips, 2});
}

Tensor ids(const std::vector<std::int64_t>& values, std::int64_t clips) {
  return Tensor::from_values(values, {clips, static_cast<std::int64_t>(values.size()) / clips});
}

}  // namespace

TEST_CASE("calibration/values/by_hand") {
  // Confidences 0.92, 0.85 (class 1), 0.63, 0.55, each in a bin of its own; right: yes, no, yes, no.
  Calibration c(10);
  c.add(logits_of({0.92, 0.15}, 1), ids({0, 0}, 1));
  c.add(logits_of({0.63, 0.55}, 1), ids({0, 1}, 1));
  CHECK(c.count() == 4);
  CHECK(c.accuracy() == doctest::Approx(0.5));
  CHECK(c.confidence() == doctest::Approx((0.92 + 0.85 + 0.63 + 0.55) / 4).epsilon(1e-6));
  CHECK(c.probability() == doctest::Approx((0.92 + 0.15 + 0.63 + 0.45) / 4).epsilon(1e-6));
  const double log_loss = -(std::log(0.92) + std::log(0.15) + std::log(0.63) + std::log(0.45)) / 4;
  CHECK(c.log_loss() == doctest::Approx(log_loss).epsilon(1e-6));
  CHECK(c.expected_calibration_error() == doctest::Approx((0.08 + 0.85 + 0.37 + 0.55) / 4).epsilon(1e-6));
}

TEST_CASE("calibration/bins/predictions_of_one_bin_are_averaged_before_they_are_compared") {
  // Ten predictions of 0.75 in one bin, 7 right: |0.7 - 0.75|, not the mean of each one's error.
  Calibration c(5);
  c.add(logits_of(std::vector<double>(10, 0.75), 2), ids({0, 0, 0, 0, 0, 0, 0, 1, 1, 1}, 2));
  CHECK(c.expected_calibration_error() == doctest::Approx(0.05).epsilon(1e-6));
  const std::vector<CalibrationBin> bins = c.bins();
  REQUIRE(bins.size() == 5);
  CHECK(bins[3].low == doctest::Approx(0.6));
  CHECK(bins[3].high == doctest::Approx(0.8));
  CHECK(bins[3].count == 10);
  CHECK(bins[3].confidence == doctest::Approx(0.75).epsilon(1e-6));
  CHECK(bins[3].accuracy == doctest::Approx(0.7));
  for (const int i : {0, 1, 2, 4}) CHECK(bins[static_cast<std::size_t>(i)].count == 0);
  // Certainty belongs to the last bin, however many classes; the first of equal classes is the prediction.
  Calibration sure(3);
  sure.add(Tensor::from_values(std::vector<float>{0, 1000, 0, 5, 5, 5}, {1, 2, 3}), ids({1, 0}, 1));
  CHECK(sure.bins()[2].count == 1);
  CHECK(sure.bins()[1].count == 1);  // 1/3 is where the second bin begins
  CHECK(sure.accuracy() == 1);
  CHECK(sure.log_loss() == doctest::Approx(std::log(3.0) / 2));
}

TEST_CASE("calibration/record/and_mistakes") {
  Calibration c;
  CHECK_THROWS_WITH_AS(c.accuracy(), doctest::Contains("at least one prediction"), Error);
  c.add(logits_of({0.7}, 1), ids({0}, 1));
  const auto json = c.json();
  CHECK(json["count"] == 1);
  CHECK(json["bins"].size() == 15);
  CHECK(json["ece"].get<double>() == doctest::Approx(0.3).epsilon(1e-6));
  CHECK_THROWS_AS(c.add(logits_of({0.7}, 1), ids({2}, 1)), Error);
  CHECK_THROWS_AS(c.add(logits_of({0.7}, 1), ids({0, 1}, 1)), ShapeError);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH_AS(
      c.add(Tensor::from_values(std::vector<float>{nan, 0}, {1, 1, 2}), ids({0}, 1)), doctest::Contains("not finite"),
      Error);
}

}  // namespace avid::eval
