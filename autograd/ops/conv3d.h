// autograd/ops/conv3d.h -- differentiable 3-D convolution
#pragma once

#include "autograd/var.h"
#include "tensor/ops/conv3d.h"

namespace avid {

/// conv3d of tensor/ops/conv3d.h with gradients for x, x2, w and b. Undefined b or x2 = absent.
/// Saves w when an input needs a gradient, and x, x2 when w does; a frozen layer on a path without gradients saves
/// nothing.
Var conv3d(const Var& x, const Var& w, const Var& b, const Conv3dOptions& options = {}, const Var& x2 = {});

/// The same for a result `out` that a fused op has computed: only records.
Var conv3d_result(Tensor out, const Var& x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& x2);

}  // namespace avid
