// tensor/ops/conv3d_size.h -- the sizes of a convolution from the shapes of its operands
#pragma once

#include "kernels/conv3d.h"
#include "tensor/ops/conv3d.h"

namespace avid::detail {

/// Extents from the shapes, with every relation between them checked: ShapeError, naming op and operand. x2 may have
/// rank 0 (absent).
kernels::Conv3dSize size_of_conv(
    const char* op, const Shape& x, const Shape& x2, const Shape& w, const Conv3dOptions& options);

}  // namespace avid::detail
