// autograd/ops/weighted_mse.h -- differentiable weighted_mse
#pragma once

#include "autograd/var.h"

namespace avid {

/// Scalar mean_b weight[b] * mean((prediction - target)^2); prediction, target [B,...], weight [B] f32 or f64.
/// Contract and errors: tensor/ops/weighted_mse.h.
///
/// Grad     prediction. Saves prediction, target, weight.
Var weighted_mse(const Var& prediction, const Tensor& target, const Tensor& weight);

}  // namespace avid
