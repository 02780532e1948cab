// autograd/ops/layer_norm.h -- differentiable layer_norm
#pragma once

#include "autograd/var.h"

namespace avid {

/// (x - mean) / sqrt(var + eps) * gamma + beta over the last dimension; x [...,C], gamma [C], beta [C] or undefined.
/// Contract and errors: tensor/ops/layer_norm.h.
///
/// Grad     x, gamma, beta. Saves x and gamma.
Var layer_norm(const Var& x, const Var& gamma, const Var& beta, double eps = 1e-5);

}  // namespace avid
