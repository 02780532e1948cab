// tensor/ops/clip_mix.h -- weighted sum of two videos, the weights depending on each clip's diffusion time
//
// Adding noise, going between noise, clean video and velocity, the samplers' steps and the compositions of networks are
// all of this form (diffusion/parameterisation.h, sampler.h, compose.h).
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// A factor per clip: value * table[t_b], or `value` for all clips where the table is undefined.
struct ClipFactor {
  Tensor table = {};  ///< [N]: f64 for tensors on the CPU, f32 on the device of x otherwise
  double value = 1;
};

///   out[b,..] = (of_x[b] * x[b,..] + of_y[b] * y[b,..]) / divisor[b]
///
/// Shapes   x, y [B,...], rank >= 2; t [B] i64, may be undefined when no factor has a table.
/// Dtypes   x, y f32 or f64 on the CPU, f32 or bf16 on a device. Factors are rounded to the dtype on the CPU, to f32 on
///          a device.
/// Errors   ShapeError, DTypeError; ConfigError for a t outside the tables. On a device t is not read back: a time
///          outside the tables gives NaN there.
/// Exact    on the CPU both products are rounded before the sum; x is unchanged by of_x = 1 and of_y = 0.
Tensor clip_mix(
    const Tensor& x, const ClipFactor& of_x, const Tensor& y, const ClipFactor& of_y, const Tensor& t = {},
    const ClipFactor& divisor = {});

/// The same, into x.
void clip_mix_into(Tensor& x, const ClipFactor& of_x, const Tensor& y, const ClipFactor& of_y, const Tensor& t = {});

/// table[t_b] of every clip: table [N], t [B] i64, returns [B] in `dtype` on the table's device (f32 there).
Tensor clip_lookup(const Tensor& table, const Tensor& t, DType dtype);

}  // namespace avid
