// tensor/ops/norm_film_silu_conv3d.h -- the gradient of a convolution behind RMSNorm, FiLM and SiLU, as one kernel
#pragma once

#include "tensor/ops/conv3d.h"
#include "tensor/ops/rms_norm_film_silu.h"
#include "tensor/tensor.h"

namespace avid {

/// Of conv3d(h, w, ..., options) with h = rms_norm_film_silu(x, gamma, film): is there one kernel for d_h and the
/// norm's gradient? On a device, in bf16, by our own kernels (kernels/vendor/route.h), with stride 1, where a block of
/// the data gradient computes whole rows (kernels/device/conv_tiles.h): at most 104 channels, 200 before compute
/// capability 9.0. Shapes and the kind of device decide, and decide the same in every run. Errors are those of
/// conv3d.
bool norm_film_silu_conv3d_bwd_is_one_kernel(const Tensor& x, const Tensor& w, const Conv3dOptions& options);

/// d_h = conv3d_bwd_data(d_out, w);  the result is that of rms_norm_film_silu_bwd(d_h, x, gamma, film, needs), of d_h
/// rounded to bf16. d_h itself is not written.
///
/// Shapes   those of the two ops; d_out [B,T',H',W',O], x and d_x [B,T,H,W,I].
/// Dtypes   d_out, w, x bf16; gamma f32; film f32 or bf16, as d_film; d_gamma f32.
/// Errors   ShapeError, DTypeError, DeviceError; DeviceError also where there is no such kernel.
/// Exact    the same bits in every run.
/// Cost     the data gradient, and O + 2I elements moved per pixel instead of O + 4I.
RmsNormFilmSiluGradients norm_film_silu_conv3d_bwd(
    const Tensor& d_out, const Tensor& w, const Conv3dOptions& options, const Tensor& x, const Tensor& gamma,
    const Tensor& film, const RmsNormFilmSiluNeeds& needs);

}  // namespace avid
