// train/ema.h -- the running average of the weights, which sampling, validation and metrics use
//
// Source   pixel.md 7.2 (ema-pytorch 0.4.8 as the original uses it). Deviation: the original averages the whole
//          diffusion object and continues the base run's counter; we average what is trained, and start at 0 unless
//          start_counter says otherwise (with 0 the random initial values leave the average at once instead of with
//          0.995^n).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nn/module.h"

namespace avid::train {

struct EmaOptions {
  double max_decay = 0.995;
  double power = 2.0 / 3.0;
  std::int64_t update_every = 10;   // micro-batches
  std::int64_t update_after = 100;  // micro-batches during which the average is a copy
  std::int64_t start_counter = 0;
};

/// D_s = min(max_decay, 1 - (1 + s - update_after)^-power), 0 for s <= update_after.
double ema_decay(const EmaOptions& options, std::int64_t s);

/// Shadow copies of parameters. The counter s goes up by one per micro-batch, and each has its turn with the weights
/// from before the update (the original's comes before the micro-batch's backward pass: the weights are the same):
///   s mod update_every != 0         nothing
///   s <= update_after               shadow = weights
///   the first later one             shadow = weights once more, unless the run started past update_after
///   then and after                  shadow += (1 - D_s) (weights - shadow)
class Ema {
 public:
  /// The shadow starts as a copy of the weights.
  Ema(std::vector<nn::NamedParameter> parameters, const EmaOptions& options);

  /// Call once per micro-batch. The decay that its turn brings: 0 is a copy, 1 leaves the shadow alone.
  double next_decay();
  /// Moves the shadow towards the weights as they are, once per decay. On a device adam_update() does that in its own
  /// pass.
  void move(std::span<const double> decays);

  std::int64_t counter() const { return counter_; }
  bool initialised() const { return initialised_; }
  /// For resuming; the values come through the module while Swapped.
  void set_counter(std::int64_t counter, bool initialised) { counter_ = counter, initialised_ = initialised; }
  /// The average of parameter i, in our layout.
  const Tensor& shadow(std::size_t i) const { return shadow_[i]; }
  /// All of them, for the optimiser's pass.
  std::span<Tensor> shadows() { return shadow_; }
  const std::vector<nn::NamedParameter>& parameters() const { return parameters_; }

  /// While alive, the parameters hold the averaged weights and the shadow holds the online ones. Nothing is copied.
  class Swapped {
   public:
    explicit Swapped(Ema& ema) : ema_(ema) { ema_.swap(); }
    ~Swapped() { ema_.swap(); }
    Swapped(const Swapped&) = delete;
    Swapped& operator=(const Swapped&) = delete;

   private:
    Ema& ema_;
  };

 private:
  void swap();

  std::vector<nn::NamedParameter> parameters_;
  EmaOptions options_;
  std::vector<Tensor> shadow_;
  std::int64_t counter_ = 0;
  bool initialised_ = false;
};

}  // namespace avid::train
