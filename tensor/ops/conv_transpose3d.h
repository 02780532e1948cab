// tensor/ops/conv_transpose3d.h -- transposed 3-D convolution, channels last: the U-Net's upsampling
#pragma once

#include "tensor/ops/conv3d.h"

namespace avid {

/// Every input position spreads its channels over a window of the output; overlapping windows add up. The adjoint of
/// conv3d with the same weights, stride and padding.
///
///   out[b,q,o] = bias[o] + sum over p,k with q = p*stride - padding + k of  sum_i w[i,k,o] * x[b,p,i]
///
/// Shapes   x [B,T,H,W,I]; w [I,kt,kh,kw,O]; bias [O] or undefined; returns [B,T',H',W',O] with
///          L' = (L - 1)*stride - 2*padding + k. With kernel (1,4,4), stride (1,2,2), padding (0,1,1) H and W double.
/// Dtypes   f32 or f64, one for all. f32 sums in f32, f64 in f64.
/// Grad     d_x = conv3d(d_out, w);  d_w[i,k,o] = sum_p x[p,i] d_out[q,o];  d_bias[o] = sum_q d_out[q,o].
/// Errors   ShapeError, DTypeError, DeviceError, before any allocation.
/// Exact    the same bits from run to run and for any number of threads.
/// Cost     2*P*I*K*O FLOP, P input positions, K taps. kt > 1 takes the reference loops (counted as a slow path).
Tensor conv_transpose3d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& options);

/// Gradient of x, of shape `x_shape`.
Tensor conv_transpose3d_bwd_data(
    const Tensor& d_out, const Tensor& w, const Shape& x_shape, const Conv3dOptions& options);

/// Gradients of weight and bias; `w_shape` is the weight's. x may be undefined when needs_w is false.
Conv3dWeightGrads conv_transpose3d_bwd_weight(
    const Tensor& d_out, const Tensor& x, const Shape& w_shape, const Conv3dOptions& options, bool needs_w = true,
    bool needs_bias = true);

}  // namespace avid
