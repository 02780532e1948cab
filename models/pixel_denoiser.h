// models/pixel_denoiser.h -- a U-Net as a Denoiser
#pragma once

#include "diffusion/denoiser.h"
#include "models/unet3d.h"

namespace avid {

/// A U-Net evaluated without gradients. With actions in the input it is called with them, without them with the null
/// vector.
class PixelDenoiser final : public diffusion::Denoiser {
 public:
  /// What to do with the actions of the input: a frozen base never sees them.
  enum class Actions { use, ignore };

  /// `unet` must outlive this object.
  PixelDenoiser(const Unet3d& unet, diffusion::Objective objective, Actions actions)
      : unet_(unet), objective_(objective), actions_(actions) {}

  Tensor predict(const diffusion::DenoiserInput& input) override;
  diffusion::Objective objective() const override { return objective_; }

 private:
  const Unet3d& unet_;
  diffusion::Objective objective_;
  Actions actions_;
};

}  // namespace avid
