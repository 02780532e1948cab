// diffusion/training_loss.cpp -- the denoising loss of a network's output
#include "diffusion/training_loss.h"

#include "autograd/ops/weighted_mse.h"
#include "diffusion/parameterisation.h"

namespace avid::diffusion {

Tensor clip_weights(const Schedule& schedule, Objective objective, LossWeight weight, const Tensor& t, DType dtype) {
  check_times(schedule, t, t.dim(0), "training_loss");
  const std::vector<float> table = schedule.loss_weights(objective, weight);
  std::vector<float> values;
  for (const std::int64_t time : t.to_values<std::int64_t>()) values.push_back(table[static_cast<std::size_t>(time)]);
  return Tensor::from_values(values, t.shape()).to(dtype);
}

Var training_loss(
    const Schedule& schedule, Objective objective, LossWeight weight, const Var& output, const Tensor& x0,
    const Tensor& noise, const Tensor& t) {
  const Tensor target = regression_target(schedule, objective, x0, noise, t);
  return weighted_mse(output, target, clip_weights(schedule, objective, weight, t, output.dtype()));
}

}  // namespace avid::diffusion
