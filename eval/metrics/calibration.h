// eval/metrics/calibration.h -- can a classifier's probabilities be trusted? Reliability over bins of its confidence
#pragma once

#include <cstdint>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tensor/tensor.h"

namespace avid::eval {

/// Predictions whose largest probability lies in [low, high); the last bin has its upper end too.
struct CalibrationBin {
  double low = 0, high = 1;
  std::int64_t count = 0;
  double confidence = 0;  ///< mean largest probability; 0 in an empty bin
  double accuracy = 0;    ///< share of right predictions; 0 in an empty bin
};

/// Collects class predictions batch by batch.
///
///   confidence = max_a softmax(logits)[a];   a prediction is right when its arg max is the true action
///   expected calibration error = sum over bins of count / N * |accuracy - confidence|
///
/// Source   Guo et al. 2017, equation 3. Deviations: bins are closed below instead of above.
class Calibration {
 public:
  explicit Calibration(int num_bins = 15);

  /// Every (clip, step) pair is one prediction. logits [N,T,A] f32 or f64; actions [N,T] i64 in 0..A-1.
  /// Errors   ShapeError, DTypeError; Error for an action outside of 0..A-1 or logits that are not finite.
  void add(const Tensor& logits, const Tensor& actions);

  std::int64_t count() const { return count_; }
  // Means over all predictions; Error when there are none.
  double accuracy() const;
  double confidence() const;
  double probability() const;  ///< of the true action
  double log_loss() const;     ///< -log of it
  double expected_calibration_error() const;
  std::vector<CalibrationBin> bins() const;
  /// All of the above: "count", "accuracy", "confidence", "probability", "log_loss", "ece", "bins": [...].
  nlohmann::ordered_json json() const;

 private:
  double mean(double sum) const;
  struct Sums {
    std::int64_t count = 0, right = 0;
    double confidence = 0;
  };
  std::vector<Sums> bins_;
  std::int64_t count_ = 0;
  double probability_ = 0, log_loss_ = 0;
};

}  // namespace avid::eval
