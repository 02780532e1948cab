// diffusion/training_loss.cpp -- the denoising loss of a network's output
#include "diffusion/training_loss.h"

#include "autograd/ops/weighted_mse.h"
#include "diffusion/parameterisation.h"
#include "tensor/ops/clip_mix.h"

namespace avid::diffusion {

Tensor clip_weights(const Schedule& schedule, Objective objective, LossWeight weight, const Tensor& t, DType dtype) {
  check_times(schedule, t, t.dim(0), "training_loss");
  return clip_lookup(schedule.loss_weight_table(objective, weight).on(t.device()), t, dtype);
}

Var training_loss(
    const Schedule& schedule, Objective objective, LossWeight weight, const Var& output, const Tensor& x0,
    const Tensor& noise, const Tensor& t) {
  const Tensor target = regression_target(schedule, objective, x0, noise, t);
  return weighted_mse(output, target, clip_weights(schedule, objective, weight, t, output.dtype()));
}

}  // namespace avid::diffusion
