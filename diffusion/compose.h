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
  /// Whether the base is given the actions: no for a pretrained base, yes for a composition that takes them itself
  /// (an AVID or another mixture). So compositions nest.
  bool base_actions = false;
};

/// Product of experts: x0 = (1 - lambda) x0_base(x) + lambda x0_action(x, a).
/// Keeps references: schedule and networks must outlive it.
class ProductOfExperts : public Denoiser {
 public:
  ProductOfExperts(const Schedule& schedule, Denoiser& base, Denoiser& action_model, ComposeOptions options);
  Tensor predict(const DenoiserInput& input) override;
  Objective objective() const override { return Objective::pred_x0; }
  Tensor last_mask() const override { return base_.last_mask(); }

 private:
  const Schedule& schedule_;
  Denoiser& base_;
  Denoiser& action_model_;
  ComposeOptions options_;
  TimeTable of_base_, of_action_;  // 1 - lambda and lambda of every time
};

/// Action classifier-free guidance: x0 = x0_base(x) + lambda (x0_action(x, a) - x0_action(x, null)).
class ActionGuidance : public Denoiser {
 public:
  ActionGuidance(const Schedule& schedule, Denoiser& base, Denoiser& action_model, ComposeOptions options);
  Tensor predict(const DenoiserInput& input) override;
  Objective objective() const override { return Objective::pred_x0; }
  Tensor last_mask() const override { return base_.last_mask(); }

 private:
  const Schedule& schedule_;
  Denoiser& base_;
  Denoiser& action_model_;
  ComposeOptions options_;
  TimeTable of_difference_;  // lambda of every time
};

}  // namespace avid::diffusion
