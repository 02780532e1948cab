// eval/metrics/calibration.cpp -- reliability of class predictions
#include "eval/metrics/calibration.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/io/json.h"

namespace avid::eval {

Calibration::Calibration(int num_bins) {
  check<Error>(num_bins >= 1, "calibration: expected at least 1 bin, got {}", num_bins);
  bins_.resize(static_cast<std::size_t>(num_bins));
}

void Calibration::add(const Tensor& logits, const Tensor& actions) {
  check_rank(logits, 3, "calibration", "logits");
  check_shape(actions, {logits.dim(0), logits.dim(1)}, "calibration", "actions");
  check_dtype(actions, DType::i64, "calibration", "actions");
  const std::int64_t classes = logits.dim(2);
  const std::vector<double> values = logits.to_doubles();
  const std::vector<std::int64_t> truth = actions.to_values<std::int64_t>();
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const double* row = values.data() + i * static_cast<std::size_t>(classes);
    check<Error>(
        truth[i] >= 0 && truth[i] < classes, "calibration: actions: expected 0..{}, got {}", classes - 1, truth[i]);
    check<Error>(
        std::all_of(row, row + classes, [](double v) { return std::isfinite(v); }),
        "calibration: logits are not finite | check the classifier's weights");
    const double* best = std::max_element(row, row + classes);
    double sum = 0;  // of exp(logit - best): at least 1
    for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(row[c] - *best);
    const double confidence = 1 / sum, log_probability = row[truth[i]] - *best - std::log(sum);
    const auto bin = static_cast<std::size_t>(confidence * static_cast<double>(bins_.size()));
    Sums& sums = bins_[std::min(bin, bins_.size() - 1)];
    ++sums.count;
    sums.right += best - row == truth[i];
    sums.confidence += confidence;
    probability_ += std::exp(log_probability);
    log_loss_ -= log_probability;
    ++count_;
  }
}

double Calibration::mean(double sum) const {
  check<Error>(count_ > 0, "calibration: expected at least one prediction, got none");
  return sum / static_cast<double>(count_);
}

double Calibration::accuracy() const {
  double right = 0;
  for (const Sums& bin : bins_) right += static_cast<double>(bin.right);
  return mean(right);
}
double Calibration::confidence() const {
  double sum = 0;
  for (const Sums& bin : bins_) sum += bin.confidence;
  return mean(sum);
}
double Calibration::probability() const { return mean(probability_); }
double Calibration::log_loss() const { return mean(log_loss_); }

double Calibration::expected_calibration_error() const {
  double sum = 0;
  for (const Sums& bin : bins_) sum += std::abs(static_cast<double>(bin.right) - bin.confidence);
  return mean(sum);
}

std::vector<CalibrationBin> Calibration::bins() const {
  std::vector<CalibrationBin> out;
  const auto n = static_cast<double>(bins_.size());
  for (const Sums& bin : bins_) {
    const auto i = static_cast<double>(out.size());
    const double count = static_cast<double>(std::max<std::int64_t>(bin.count, 1));
    out.push_back({i / n, (i + 1) / n, bin.count, bin.confidence / count, static_cast<double>(bin.right) / count});
  }
  return out;
}

Json Calibration::json() const {
  Json out{{"count", count()},           {"accuracy", accuracy()},
           {"confidence", confidence()}, {"probability", probability()},
           {"log_loss", log_loss()},     {"ece", expected_calibration_error()},
           {"bins", Json::array()}};
  for (const CalibrationBin& bin : bins())
    out["bins"].push_back(
        {{"low", bin.low},
         {"high", bin.high},
         {"count", bin.count},
         {"confidence", bin.confidence},
         {"accuracy", bin.accuracy}});
  return out;
}

}  // namespace avid::eval
