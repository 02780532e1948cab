// train/ema.cpp -- see ema.h
#include "train/ema.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tensor/ops/adam.h"

namespace avid::train {

double ema_decay(const EmaOptions& options, std::int64_t s) {
  if (s <= options.update_after) return 0;
  return std::min(options.max_decay, 1 - std::pow(static_cast<double>(1 + s - options.update_after), -options.power));
}

Ema::Ema(std::vector<nn::NamedParameter> parameters, const EmaOptions& options)
    : parameters_(std::move(parameters)),
      options_(options),
      counter_(options.start_counter),
      initialised_(options.start_counter > options.update_after) {
  for (const nn::NamedParameter& p : parameters_) shadow_.push_back(p.var().value().clone());
}

double Ema::next_decay() {
  const std::int64_t s = counter_++;
  if (s % options_.update_every != 0) return 1;
  if (s > options_.update_after && !initialised_) {
    // The original copies and then averages a copy with itself: the copy is all that happens.
    initialised_ = true;
    return 0;
  }
  return ema_decay(options_, s);
}

void Ema::move(std::span<const double> decays) {
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    for (const double decay : decays) {
      const Tensor& weights = parameters_[i].var().value();
      if (decay == 0)
        shadow_[i].copy_from(weights);
      else if (decay < 1)
        ema_lerp(shadow_[i], weights, decay);
    }
}

void Ema::swap() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    Var leaf = parameters_[i].var();  // a handle: the parameter's own value changes
    std::swap(leaf.mutable_value(), shadow_[i]);
  }
}

}  // namespace avid::train
