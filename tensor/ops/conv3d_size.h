// tensor/ops/conv3d_size.h -- the sizes of a convolution from the shapes of its operands, and for who counts and times
#pragma once

#include "kernels/conv3d.h"
#include "kernels/op_watch.h"
#include "tensor/ops/conv3d.h"

namespace avid::detail {

/// Extents from the shapes, with every relation between them checked: ShapeError, naming op and operand. x2 may have
/// rank 0 (absent).
kernels::Conv3dSize size_of_conv(
    const char* op, const Shape& x, const Shape& x2, const Shape& w, const Conv3dOptions& options);

/// Tells who times single ops on what sizes a convolution, transposed or not, works, and which pass of it: "fwd",
/// "data" or "weights".
template <class Size>
void note_conv_sizes(const char* pass, const Size& s) {
  kernels::note_sizes(
      {{"clips", s.B},
       {"frames", s.in[0]},
       {"height", s.in[1]},
       {"width", s.in[2]},
       {"channels", s.I},
       {"outputs", s.O},
       {"kernel_frames", s.kernel[0]},
       {"kernel_height", s.kernel[1]},
       {"kernel_width", s.kernel[2]},
       {"stride_frames", s.stride[0]},
       {"stride_height", s.stride[1]},
       {"stride_width", s.stride[2]},
       {"padding_frames", s.padding[0]},
       {"padding_height", s.padding[1]},
       {"padding_width", s.padding[2]},
       {pass, 1}});
}

/// The same of a convolution, with its variant and what it has to do: its products, and `more_flops`.
void note_conv(const char* pass, const kernels::Conv3dSize& size, double more_flops = 0);

}  // namespace avid::detail
