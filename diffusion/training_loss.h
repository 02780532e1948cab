// diffusion/training_loss.h -- the denoising loss of a network's output
#pragma once

#include <vector>

#include "autograd/var.h"
#include "diffusion/objective.h"
#include "diffusion/schedule.h"

namespace avid::diffusion {

/// Scalar: mean over clips of w_{t_b} * mean over frames, pixels and colours of (output - target)^2.
///
/// The network was evaluated at x_t = q_sample(x0, noise, t); the target follows from the objective, the weight from
/// schedule.loss_weights(objective, weight).
///
/// Shapes   output, x0, noise [B,T,H,W,C]; t [B] i64.
/// Dtypes   f32 or f64, one for all three.
/// Grad     of output only.
/// Source   pixel.md 1.4. "SNR-weighted x0 loss" = "unweighted loss on the noise" (the paper's).
Var training_loss(
    const Schedule& schedule, Objective objective, LossWeight weight, const Var& output, const Tensor& x0,
    const Tensor& noise, const Tensor& t);

/// w_{t_b} of every clip, [B] in `dtype`; f32 on a device.
Tensor clip_weights(const Schedule& schedule, Objective objective, LossWeight weight, const Tensor& t, DType dtype);

}  // namespace avid::diffusion
