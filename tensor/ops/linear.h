// tensor/ops/linear.h -- matrix product over channels: fully connected layers and 1x1x1 convolutions
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// Applies one matrix to every row of channels. With x2 the result is that of the channels [x | x2], never concatenated
/// in memory.
///
///   out[...,o] = residual[...,o] + bias[o] + sum_i w[o,i] * [x | x2][...,i]
///
/// Shapes   x [...,I]; x2 [...,I2] or undefined; w [O,I+I2]; bias [O], residual [...,O] or undefined; returns [...,O].
///          The leading dimensions of x, x2 and residual are the same; none at all is legal (x [I]).
/// Dtypes   f32 or f64, one for all. f32 sums in f32, f64 in f64.
/// Grad     d_x = d_out w (its first I columns; d_x2 the others);  d_w = d_out^T [x | x2];
///          d_bias = sum over rows of d_out;  d_residual = d_out.
/// Errors   ShapeError, DTypeError, DeviceError, before any allocation.
/// Exact    the same bits from run to run and for any number of threads.
/// Cost     2*P*O*(I+I2) FLOP, P rows.
Tensor linear(
    const Tensor& x, const Tensor& w, const Tensor& bias = {}, const Tensor& x2 = {}, const Tensor& residual = {});

struct LinearInputGrads {
  Tensor d_x, d_x2;  ///< undefined when not asked for
};

/// Gradients of the inputs. `x_shape` and `x2_shape` are those of the forward call (x2_shape of rank 0 when there was
/// no x2). add_x (like x, or undefined) is added to d_x, add_x2 to d_x2, on a device in the same pass.
LinearInputGrads linear_bwd_data(
    const Tensor& d_out, const Tensor& w, const Shape& x_shape, const Shape& x2_shape, bool needs_x = true,
    bool needs_x2 = true, const Tensor& add_x = {}, const Tensor& add_x2 = {});

struct LinearWeightGrads {
  Tensor d_w, d_bias;  ///< undefined when not asked for
};

/// Gradients of weight and bias; `w_shape` is the weight's. x and x2 may be undefined when needs_w is false.
LinearWeightGrads linear_bwd_weight(
    const Tensor& d_out, const Tensor& x, const Tensor& x2, const Shape& w_shape, bool needs_w = true,
    bool needs_bias = true);

}  // namespace avid
