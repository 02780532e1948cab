// autograd/ops/conv_transpose3d.h -- differentiable transposed 3-D convolution
#pragma once

#include "autograd/var.h"
#include "tensor/ops/conv_transpose3d.h"

namespace avid {

/// conv_transpose3d of tensor/ops/conv_transpose3d.h with gradients for x, w and b. Undefined b = absent.
/// Saves w when x needs a gradient, and x when w does.
Var conv_transpose3d(const Var& x, const Var& w, const Var& b, const Conv3dOptions& options);

}  // namespace avid
