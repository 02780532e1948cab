// eval/metrics/action_error.cpp -- Action Error Ratio from predictions
#include "eval/metrics/action_error.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "tensor/error.h"

namespace avid::eval {
namespace {

double mean_of(const std::vector<double>& values) {
  check<Error>(!values.empty(), "aer: expected at least one clip, got none");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

void ActionScores::append(const ActionScores& other) {
  accuracy.insert(accuracy.end(), other.accuracy.begin(), other.accuracy.end());
  probability.insert(probability.end(), other.probability.begin(), other.probability.end());
}
double ActionScores::mean_accuracy() const { return mean_of(accuracy); }
double ActionScores::mean_probability() const { return mean_of(probability); }

ActionScores score_actions(const Tensor& logits, const Tensor& actions) {
  check_rank(logits, 3, "aer", "logits");
  check_shape(actions, {logits.dim(0), logits.dim(1)}, "aer", "actions");
  check_dtype(actions, DType::i64, "aer", "actions");
  const std::int64_t num_clips = logits.dim(0), steps = logits.dim(1), classes = logits.dim(2);
  const std::vector<double> values = logits.to_doubles();
  const std::vector<std::int64_t> truth = actions.to_values<std::int64_t>();
  ActionScores scores{std::vector<double>(at(num_clips), 0.0), std::vector<double>(at(num_clips), 0.0)};
  for (std::int64_t i = 0; i < num_clips * steps; ++i) {
    const double* row = values.data() + i * classes;
    const std::int64_t action = truth[at(i)];
    check<Error>(
        action >= 0 && action < classes, "aer: actions: expected 0..{}, got {} | use the classifier of this data set",
        classes - 1, action);
    check<Error>(
        std::all_of(row, row + classes, [](double v) { return std::isfinite(v); }),
        "aer: logits of clip {} are not finite | check the classifier's weights", i / steps);
    const double* best = std::max_element(row, row + classes);
    double sum = 0;
    for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(row[c] - *best);
    scores.accuracy[at(i / steps)] += best - row == action ? 1.0 : 0.0;
    scores.probability[at(i / steps)] += std::exp(row[action] - *best) / sum;
  }
  for (auto* list : {&scores.accuracy, &scores.probability})
    for (double& v : *list) v /= static_cast<double>(steps);
  return scores;
}

std::string why_aer_is_blind(const ActionScores& real, const Tensor& actions, const BootstrapOptions& options) {
  std::map<std::int64_t, std::int64_t> times;
  std::int64_t commonest = 0;
  for (const std::int64_t a : actions.to_values<std::int64_t>()) commonest = std::max(commonest, ++times[a]);
  const double guess = static_cast<double>(commonest) / static_cast<double>(actions.numel());
  const Interval accuracy = bootstrap_mean(real.accuracy, options);
  if (accuracy.low > guess) return {};
  return fmt::format(
      "{}: on real clips the classifier is right in {:.3f} [{:.3f}, {:.3f}] of the steps, always naming the commonest "
      "action in {:.3f} | train the classifier for longer, or score more clips",
      kAerSaysNothing, accuracy.mean, accuracy.low, accuracy.high, guess);
}

double action_error_ratio(double accuracy_real, double accuracy_generated) {
  return accuracy_real / (accuracy_generated + 1e-9);
}

}  // namespace avid::eval
