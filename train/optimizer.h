// train/optimizer.h -- Adam over a module's parameters
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nn/module.h"
#include "tensor/io/tensor_file.h"
#include "tensor/ops/adam.h"

namespace avid::train {

struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
};

/// Adam without weight decay (Kingma and Ba 2015, Algorithm 1):
///   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
///   p = p - lr / (1 - beta1^n) * m / (sqrt(v / (1 - beta2^n)) + eps)        n = steps taken, this one included
/// A parameter without a gradient counts as one with gradient zero.
class Adam {
 public:
  Adam(std::vector<nn::NamedParameter> parameters, const AdamOptions& options);

  /// Global L2 norm of all gradients, summed in f64 in the order of the parameters.
  double grad_norm() const;
  /// Scales all gradients down to a norm of at most max_norm and takes one step; changes nothing when some gradient is
  /// not finite. prepare(), step() and outcome() in one: the host waits for a device once, at the end, to know the
  /// outcome.
  AdamOutcome update(double lr, double max_norm);

  /// The numbers of the next step: rate, and the decays with which averages move. On a device they are sent there.
  void prepare(double lr, std::span<const double> decays);
  /// Queues the step, and before it the averages' moves (one average per parameter, or none). `losses`, if there are
  /// any, must be finite too. On a device it reads only what lies there: it may be recorded and repeated. The bf16
  /// copies of weights that were used (Var::value_in) are written in the same pass.
  void step(double max_norm, std::span<Tensor> averages, const Tensor& losses);
  /// How the last step went; waits for it.
  AdamOutcome outcome();
  /// Before recorded work with a step() is repeated: makes the copies that it does not make itself. They are those of
  /// other values since the averages were in the weights' place.
  void refresh_copies() const;
  /// After it: the values have changed, and the copies that step() writes with them.
  void note_repeated();
  /// Where the state of every parameter lies: work recorded with step() is good as long as this stays the same.
  std::vector<const void*> addresses(std::span<Tensor> averages) const;

  std::int64_t num_steps() const { return num_steps_; }
  const std::vector<nn::NamedParameter>& parameters() const { return parameters_; }
  /// "m.<name>" and "v.<name>" of every parameter, in our layout.
  NamedTensors export_moments() const;
  /// The inverse. Throws ShapeError, before anything changes, when a name or shape does not fit; `source` is named in
  /// it.
  void import_moments(const NamedTensors& moments, std::int64_t num_steps, const std::string& source);

 private:
  void copies_are_current();

  std::vector<nn::NamedParameter> parameters_;
  AdamOptions options_;
  std::vector<Tensor> m_, v_;
  std::vector<bool> writes_copy_;  // whether the last step() did, per parameter
  std::int64_t num_steps_ = 0;
  double lr_ = 0;
  std::vector<double> decays_;
  Tensor numbers_;  // of adam_update(), on a device
  Tensor state_;    // of adam_update(); undefined until the first update
};

}  // namespace avid::train
