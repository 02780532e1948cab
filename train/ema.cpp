// train/ema.cpp -- see ema.h
#include "train/ema.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tensor/error.h"

namespace avid::train {
namespace {

// shadow += (1 - decay) (weights - shadow) over whole pitched rows: the gaps are zero in both and stay zero.
// In f64 with one rounding: over a run the average takes thousands of small steps.
void move_towards(Tensor& shadow, const Tensor& weights, double decay) {
  check_shape(weights, shadow.shape(), "ema", "weights");
  dispatch_f32_f64(shadow.dtype(), "ema", [&]<class Elem>() {
    Elem* s = shadow.data<Elem>();
    const Elem* w = weights.data<Elem>();
    const double share = 1.0 - decay;
    const std::int64_t n = shadow.rows() * shadow.pitch();
    for (std::int64_t i = 0; i < n; ++i) s[i] = static_cast<Elem>(s[i] + share * (static_cast<double>(w[i]) - s[i]));
  });
  shadow.bump_version();
}

}  // namespace

double ema_decay(const EmaOptions& options, std::int64_t s) {
  if (s <= options.update_after) return 0;
  return std::min(options.max_decay, 1 - std::pow(static_cast<double>(1 + s - options.update_after), -options.power));
}

Ema::Ema(std::vector<nn::NamedParameter> parameters, const EmaOptions& options)
    : parameters_(std::move(parameters)), options_(options), counter_(options.start_counter),
      initialised_(options.start_counter > options.update_after) {
  for (const nn::NamedParameter& p : parameters_) shadow_.push_back(p.var().value().clone());
}

double Ema::before_backward() {
  const std::int64_t s = counter_++;
  if (s % options_.update_every != 0) return 1;
  double decay = ema_decay(options_, s);
  if (s > options_.update_after && !initialised_) {
    // The original copies and then averages a copy with itself: the copy is all that happens.
    initialised_ = true;
    decay = 0;
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& weights = parameters_[i].var().value();
    if (decay == 0) shadow_[i].copy_from(weights);
    else move_towards(shadow_[i], weights, decay);
  }
  return decay;
}

void Ema::swap() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Var leaf = parameters_[i].var();  // a handle: the parameter's own value changes
    std::swap(leaf.mutable_value(), shadow_[i]);
  }
}

}  // namespace avid::train
