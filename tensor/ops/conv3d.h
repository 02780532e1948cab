// tensor/ops/conv3d.h -- 3-D convolution, channels last, with an optional second input
#pragma once

#include <array>
#include <cstdint>

#include "tensor/tensor.h"

namespace avid {

/// Order [t,y,x].
struct Conv3dOptions {
  std::array<std::int64_t, 3> stride{1, 1, 1};
  std::array<std::int64_t, 3> padding{0, 0, 0};
};

/// Cross-correlation over frames, rows and columns. With x2 the result is that of the channels [x | x2], but the
/// concatenation is never made in memory (skip connections of a U-Net).
///
///   out[b,p,o] = bias[o] + sum_{k,i} w[o,k,i] * [x | x2][b, p*stride - padding + k, i]
///   with p = (t,y,x), and zero for x outside of the input
///
/// Shapes   x [B,T,H,W,I]; x2 [B,T,H,W,I2] or undefined; w [O,kt,kh,kw,I+I2]; bias [O] or undefined;
///          returns [B,T',H',W',O] with L' = (L + 2*padding - k) / stride + 1, rounded down. B = 0 is legal.
/// Dtypes   f32 or f64, one for all. f32 sums in f32, f64 in f64.
/// Grad     d_x[q,i] = sum_{k,o} w[o,k,i] d_out[p,o] over p*stride - padding + k = q;
///          d_w[o,k,i] = sum_p d_out[p,o] x[q,i];  d_bias[o] = sum_p d_out[p,o].
/// Errors   ShapeError, DTypeError, DeviceError, before any allocation.
/// Exact    the same bits from run to run and for any number of threads.
/// Cost     2*P*O*K*(I+I2) FLOP, P output positions, K taps. kt > 1 takes the reference loops (counted as a slow path).
Tensor conv3d(
    const Tensor& x, const Tensor& w, const Tensor& bias = {}, const Conv3dOptions& options = {},
    const Tensor& x2 = {});

struct Conv3dInputGrads {
  Tensor d_x, d_x2;  ///< undefined when not asked for
};

/// Gradients of the inputs. `x_shape` and `x2_shape` are those of the forward call (x2_shape of rank 0 when there was
/// no x2). add_x (like x, or undefined) is added to d_x, add_x2 to d_x2, on a device in the same pass.
Conv3dInputGrads conv3d_bwd_data(
    const Tensor& d_out, const Tensor& w, const Shape& x_shape, const Shape& x2_shape, const Conv3dOptions& options,
    bool needs_x = true, bool needs_x2 = true, const Tensor& add_x = {}, const Tensor& add_x2 = {});

struct Conv3dWeightGrads {
  Tensor d_w, d_bias;  ///< undefined when not asked for
};

/// Gradients of weight and bias; `w_shape` is the weight's. x and x2 may be undefined when needs_w is false.
Conv3dWeightGrads conv3d_bwd_weight(
    const Tensor& d_out, const Tensor& x, const Tensor& x2, const Shape& w_shape, const Conv3dOptions& options,
    bool needs_w = true, bool needs_bias = true);

}  // namespace avid
