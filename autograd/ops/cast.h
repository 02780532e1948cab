// autograd/ops/cast.h -- change of element type, with a gradient
#pragma once

#include "autograd/var.h"

namespace avid {

/// The same values in another float type, to nearest even; x itself when it has that type already.
///
/// Grad   d_x = d_out in x's type.
/// Saved  nothing
Var cast(const Var& x, DType dtype);

}  // namespace avid
