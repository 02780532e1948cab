// diffusion/compose.cpp -- product of experts and action guidance
#include "diffusion/compose.h"

#include <utility>

#include "diffusion/parameterisation.h"
#include "diffusion/per_clip.h"
#include "tensor/error.h"

namespace avid::diffusion {
namespace {

Tensor predict_x0(const Schedule& schedule, Denoiser& model, const DenoiserInput& input) {
  return x0_from_output(schedule, model.objective(), model.predict(input), input.x_t, input.t);
}

DenoiserInput without_actions(DenoiserInput input) {
  input.actions = {};
  return input;
}

/// a(lambda_b) x_b + b(lambda_b) y_b, lambda_b = 0 for clips before first_t.
template <class Weights>
Tensor mix(const Tensor& x, const Tensor& y, const Tensor& t, const ComposeOptions& options, Weights weights) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), "compose", [&]<class Elem>() {
    map_per_clip<Elem>(x, y, out, [&](std::int64_t clip, Elem u, Elem v) {
      const double lambda = t.data<std::int64_t>()[clip] < options.first_t ? 0.0 : options.weight;
      const auto [a, b] = weights(lambda);
      return static_cast<Elem>(a) * u + static_cast<Elem>(b) * v;
    });
  });
  return out;
}

}  // namespace

ProductOfExperts::ProductOfExperts(
    const Schedule& schedule, Denoiser& base, Denoiser& action_model, ComposeOptions options)
    : schedule_(schedule), base_(base), action_model_(action_model), options_(options) {}

Tensor ProductOfExperts::predict(const DenoiserInput& input) {
  check<ConfigError>(input.actions.defined(), "product of experts: actions: expected one per frame, got none");
  const Tensor base = predict_x0(schedule_, base_, without_actions(input));
  const Tensor action = predict_x0(schedule_, action_model_, input);
  check_shape(action, base.shape(), "product of experts", "action model's prediction");
  return mix(base, action, input.t, options_, [](double w) { return std::pair{1 - w, w}; });
}

ActionGuidance::ActionGuidance(const Schedule& schedule, Denoiser& base, Denoiser& action_model, ComposeOptions options)
    : schedule_(schedule), base_(base), action_model_(action_model), options_(options) {}

Tensor ActionGuidance::predict(const DenoiserInput& input) {
  check<ConfigError>(input.actions.defined(), "action guidance: actions: expected one per frame, got none");
  const Tensor base = predict_x0(schedule_, base_, without_actions(input));
  const Tensor with = predict_x0(schedule_, action_model_, input);
  const Tensor without = predict_x0(schedule_, action_model_, without_actions(input));
  check_shape(with, base.shape(), "action guidance", "action model's prediction");
  // Difference first: where both branches agree it is exactly zero, and the base comes through unchanged.
  const Tensor difference = mix(with, without, input.t, options_, [](double) { return std::pair{1.0, -1.0}; });
  return mix(base, difference, input.t, options_, [](double w) { return std::pair{1.0, w}; });
}

}  // namespace avid::diffusion
