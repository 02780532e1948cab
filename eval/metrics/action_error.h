// eval/metrics/action_error.h -- Action Error Ratio: can a frozen predictor still read the actions off generated clips?
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eval/metrics/bootstrap.h"
#include "tensor/tensor.h"

namespace avid::eval {

/// One number per clip, so that sets may be scored in batches and resampled over clips.
struct ActionScores {
  std::vector<double> accuracy;     ///< share of steps whose arg-max class is the true action
  std::vector<double> probability;  ///< mean softmax probability of the true action

  void append(const ActionScores& other);
  double mean_accuracy() const;
  double mean_probability() const;
};

/// Scores class predictions; of equal logits the first class counts.
/// Shapes   logits [N,T,A] f32 or f64; actions [N,T] i64 in 0..A-1.
/// Errors   ShapeError, DTypeError; Error for an action outside of 0..A-1 or logits that are not finite.
ActionScores score_actions(const Tensor& logits, const Tensor& actions);

/// Why AER says nothing with this predictor, in one line, or empty if it may say something: on real clips it must be
/// right more often than who always names the commonest action, by the interval over clips. The line begins with
/// kAerSaysNothing, by which readers of scores know it again.
/// Shapes   real: of the real clips; actions [N,T] i64, those they were scored against.
inline constexpr std::string_view kAerSaysNothing = "aer: says nothing here";
std::string why_aer_is_blind(const ActionScores& real, const Tensor& actions, const BootstrapOptions& options = {});

/// Lower is better, 1: as predictable as real video. Both sides are scored against the actions that the generated
/// clips were conditioned on. Source: Rigter et al. 2024; the released code logs the inverse of the first.
double action_error_ratio(double accuracy_real, double accuracy_generated);  ///< real / (generated + 1e-9)

}  // namespace avid::eval
