// diffusion/compose.cpp -- product of experts and action guidance
#include "diffusion/compose.h"

#include <utility>

#include "diffusion/parameterisation.h"
#include "tensor/error.h"
#include "tensor/ops/clip_mix.h"

namespace avid::diffusion {
namespace {

Tensor predict_x0(const Schedule& schedule, Denoiser& model, const DenoiserInput& input) {
  return x0_from_output(schedule, model.objective(), model.predict(input), input.x_t, input.t);
}

DenoiserInput without_actions(DenoiserInput input) {
  input.actions = {};
  return input;
}

/// f(lambda) of every time; lambda is 0 before first_t.
template <class F>
TimeTable over_time(const Schedule& schedule, const ComposeOptions& options, F f) {
  std::vector<double> values;
  for (std::int64_t t = 0; t < schedule.num_steps(); ++t)
    values.push_back(f(t < options.first_t ? 0.0 : options.weight));
  return TimeTable(std::move(values));
}
double lambda_itself(double lambda) { return lambda; }
double rest_to_one(double lambda) { return 1 - lambda; }

}  // namespace

ProductOfExperts::ProductOfExperts(
    const Schedule& schedule, Denoiser& base, Denoiser& action_model, ComposeOptions options)
    : schedule_(schedule),
      base_(base),
      action_model_(action_model),
      options_(options),
      of_base_(over_time(schedule, options, rest_to_one)),
      of_action_(over_time(schedule, options, lambda_itself)) {}

Tensor ProductOfExperts::predict(const DenoiserInput& input) {
  check<ConfigError>(input.actions.defined(), "product of experts: actions: expected one per frame, got none");
  const Tensor base = predict_x0(schedule_, base_, options_.base_actions ? input : without_actions(input));
  const Tensor action = predict_x0(schedule_, action_model_, input);
  check_shape(action, base.shape(), "product of experts", "action model's prediction");
  check_times(schedule_, input.t, base.dim(0), "product of experts");
  return clip_mix(
      base, {.table = of_base_.on(base.device())}, action, {.table = of_action_.on(base.device())}, input.t);
}

ActionGuidance::ActionGuidance(const Schedule& schedule, Denoiser& base, Denoiser& action_model, ComposeOptions options)
    : schedule_(schedule),
      base_(base),
      action_model_(action_model),
      options_(options),
      of_difference_(over_time(schedule, options, lambda_itself)) {}

Tensor ActionGuidance::predict(const DenoiserInput& input) {
  check<ConfigError>(input.actions.defined(), "action guidance: actions: expected one per frame, got none");
  const Tensor base = predict_x0(schedule_, base_, options_.base_actions ? input : without_actions(input));
  const Tensor with = predict_x0(schedule_, action_model_, input);
  const Tensor without = predict_x0(schedule_, action_model_, without_actions(input));
  check_shape(with, base.shape(), "action guidance", "action model's prediction");
  // Difference first: where both branches agree it is exactly zero, and the base comes through unchanged.
  const Tensor difference = clip_mix(with, {}, without, {.value = -1});
  return clip_mix(base, {}, difference, {.table = of_difference_.on(base.device())}, input.t);
}

}  // namespace avid::diffusion
