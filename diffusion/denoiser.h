// diffusion/denoiser.h -- the only door through which samplers, compositions and AVID see a network
//
// Shapes   B clips, T generated frames, K conditioning frames, H x W pixels, 3 colours.
#pragma once

#include "diffusion/objective.h"
#include "tensor/tensor.h"

namespace avid::diffusion {

/// What a network is asked at one diffusion step.
struct DenoiserInput {
  Tensor x_t;      // [B,T,H,W,3] noisy video
  Tensor t;        // [B] i64, 0..N-1 of the schedule, N-1 is noisiest
  Tensor cond;     // [B,K,H,W,3] conditioning frames in [-1,1]
  Tensor actions;  // [B,T] i64, or undefined: no action
};

/// A trained network, or a composition of several, evaluated without gradients.
class Denoiser {
 public:
  virtual ~Denoiser() = default;

  /// The network's output in the space of objective(): [B,T,H,W,3], dtype of x_t. Depends on nothing but the input.
  virtual Tensor predict(const DenoiserInput& input) = 0;

  virtual Objective objective() const = 0;

  /// The mask m of the last predict(), [B,T,H,W,1], 1 = the base is used. Undefined for models without a mask.
  virtual Tensor last_mask() const { return {}; }
};

}  // namespace avid::diffusion
