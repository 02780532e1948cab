// autograd/ops/linear.h -- differentiable matrix product over channels
#pragma once

#include "autograd/var.h"
#include "tensor/ops/linear.h"

namespace avid {

/// linear of tensor/ops/linear.h with gradients for x, w, b, x2 and residual. Undefined b, x2 or residual = absent.
/// Saves w when x or x2 needs a gradient, and x, x2 when w does. The residual's gradient is d_out itself, not a copy.
Var linear(const Var& x, const Var& w, const Var& b = {}, const Var& x2 = {}, const Var& residual = {});

}  // namespace avid
