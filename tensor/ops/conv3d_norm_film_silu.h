// tensor/ops/conv3d_norm_film_silu.h -- a convolution with RMSNorm, FiLM, SiLU and residual behind it, as one kernel
#pragma once

#include "tensor/ops/conv3d.h"
#include "tensor/tensor.h"

namespace avid {

/// Is there one kernel for both ops? On a device, in bf16, by our own kernels (kernels/vendor/route.h), where a block
/// of the convolution computes whole rows (kernels/device/conv_tiles.h): at most 104 channels, 200 on compute
/// capability 9.0. Shapes and the kind of device decide, and decide the same in every run. Errors are those of conv3d.
bool conv3d_norm_film_silu_is_one_kernel(
    const Tensor& x, const Tensor& w, const Conv3dOptions& options, const Tensor& x2);

struct Conv3dNormFilmSilu {
  Tensor out;
  Tensor u;  ///< conv3d(x, w, bias, options, x2): what a backward pass needs; undefined unless asked for
};

/// u = conv3d(x, w, bias, options, x2);  out = rms_norm_film_silu_fwd(u, gamma, film, residual).
///
/// Shapes   those of the two ops; u and out [B,T',H',W',O].
/// Dtypes   x, x2, w, residual bf16; bias, gamma f32; film f32 or bf16.
/// Errors   ShapeError, DTypeError, DeviceError; DeviceError also where conv3d_norm_film_silu_is_one_kernel says no.
/// Exact    the bits of the two ops, whether u is asked for or not.
/// Cost     the convolution, and O (2O with residual) elements moved per pixel instead of 3O (4O); O more with u.
Conv3dNormFilmSilu conv3d_norm_film_silu_fwd(
    const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& options, const Tensor& x2,
    const Tensor& gamma, const Tensor& film, const Tensor& residual, bool with_u);

}  // namespace avid
