// diffusion/compose.h -- baselines made of trained networks at sampling time: product of experts, action guidance
//
// Both mix x_0 predictions. The maps between noise and x_0 are affine, the weights sum to one, so it equals mixing the
// noise predictions, without the f32 round-off of 4e-4 that sqrt(1/abar) = 812 brings at t = 199 (pixel.md 5.6).
#pragma once

#include "diffusion/denoiser.h"
#include "diffusion/schedule.h"

namespace avid::diffusion {

struct ComposeOptions {
  double weight = 0;         ///< lambda
  std::int64_t first_t = 0;  ///< lambda is 0 for t < first_t
};

/// Product of experts: x0 = (1 - lambda) x0_base(x) + lambda x0_action(x, a).
/// The base is asked without actions. Keeps references: schedule and networks must outlive it.
class ProductOfExperts : public Denoiser {
 public:
  ProductOfExperts(const Schedule& schedule, Denoiser& base, Denoiser& action_model, ComposeOptions options);
  Tensor predict(const DenoiserInput& input) override;
  Objective objective() const override { return Objective::pred_x0; }

 private:
  const Schedule& schedule_;
  Denoiser& base_;
  Denoiser& action_model_;
  ComposeOptions options_;
};

/// Action classifier-free guidance: x0 = x0_base(x) + lambda (x0_action(x, a) - x0_action(x, null)).
class ActionGuidance : public Denoiser {
 public:
  ActionGuidance(const Schedule& schedule, Denoiser& base, Denoiser& action_model, ComposeOptions options);
  Tensor predict(const DenoiserInput& input) override;
  Objective objective() const override { return Objective::pred_x0; }

 private:
  const Schedule& schedule_;
  Denoiser& base_;
  Denoiser& action_model_;
  ComposeOptions options_;
};

}  // namespace avid::diffusion
