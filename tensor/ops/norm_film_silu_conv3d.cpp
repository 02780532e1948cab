// tensor/ops/norm_film_silu_conv3d.cpp -- checks, allocation and dispatch of norm_film_silu_conv3d
#include "tensor/ops/norm_film_silu_conv3d.h"

#include "kernels/norm_film_silu_conv3d.h"
#include "tensor/kernel_args.h"
#include "tensor/ops/conv3d_size.h"
#include "tensor/ops/library_route.h"

namespace avid {
namespace {

constexpr const char* kOp = "norm_film_silu_conv3d";
constexpr double kNormFlops = 30;  // per element, as op_timer.cpp counts rms_norm_film_silu_bwd

/// None where the gradient is not one kernel.
kernels::NormSumBlocks blocks_of(const Tensor& x, const Tensor& w, const Conv3dOptions& options) {
  if (!x.defined() || !x.device().is_gpu() || x.dtype() != DType::bf16) return {};
  check_args("conv3d", {{"x", x}, {"w", w}});
  const kernels::Conv3dSize s = detail::size_of_conv("conv3d", x.shape(), {}, w.shape(), options);
  return on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream&) {
    return detail::takes_native<Backend>(detail::Family::conv) ? kernels::norm_film_silu_conv3d_bwd_blocks<Backend>(s)
                                                               : kernels::NormSumBlocks{};
  });
}

}  // namespace

bool norm_film_silu_conv3d_bwd_is_one_kernel(const Tensor& x, const Tensor& w, const Conv3dOptions& options) {
  return blocks_of(x, w, options).count > 0;
}

RmsNormFilmSiluGradients norm_film_silu_conv3d_bwd(
    const Tensor& d_out, const Tensor& w, const Conv3dOptions& options, const Tensor& x_any, const Tensor& gamma,
    const Tensor& film, const RmsNormFilmSiluNeeds& needs) {
  const kernels::NormSumBlocks blocks = blocks_of(x_any, w, options);
  check<DeviceError>(
      blocks.count > 0,
      "{}: expected bf16 operands on a device whose kernel for this data gradient holds whole rows | call "
      "conv3d_bwd_data, then rms_norm_film_silu_bwd",
      kOp);
  check_args(kOp, {{"d_out", d_out}, {"w", w}, {"x", x_any}});
  const kernels::Conv3dSize s = detail::size_of_conv(kOp, x_any.shape(), {}, w.shape(), options);
  check_shape(d_out, {s.B, s.out[0], s.out[1], s.out[2], s.O}, kOp, "d_out");
  detail::check_parameter(gamma, {s.I}, x_any, kOp, "gamma");
  if (film.defined()) detail::check_film(film, {s.B, s.in[0], 2 * s.I}, x_any, kOp);
  detail::note_conv("data", s, kNormFlops * static_cast<double>(x_any.numel()));
  kernels::note_sizes({{"film", film.defined()}});
  const Tensor x = detail::usual_pitch(x_any);
  const Tensor film_f32 = film.defined() && film.dtype() != DType::f32 ? film.to(DType::f32) : film;
  RmsNormFilmSiluGradients grads;
  grads.d_x = Tensor::uninitialised(x.shape(), x.dtype(), x.device());  // also where only sums over it are asked for
  if (needs.gamma) grads.d_gamma = Tensor::empty(gamma.shape(), DType::f32, x.device());
  if (needs.film && film.defined()) grads.d_film = Tensor::empty(film.shape(), DType::f32, x.device());
  kernels::RmsNormFilmSiluDeviceArgs<BFloat16> norm;
  norm.F = s.B * s.in[0], norm.S = s.in[1] * s.in[2], norm.C = s.I;
  norm.x = device_rows_of<BFloat16>(x);
  norm.gamma = device_data<float>(gamma), norm.film = device_rows_of<float>(film_f32);
  kernels::NormFilmSiluConv3dGrads p;
  p.d_out = device_rows_of<BFloat16>(d_out), p.w = device_rows_of<BFloat16>(w);
  p.d_x = device_mutable_rows_of<BFloat16>(grads.d_x);
  p.d_gamma = device_mutable_data<float>(grads.d_gamma), p.d_film = device_mutable_rows_of<float>(grads.d_film);
  on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
    Tensor workspace = device_workspace(kernels::conv3d_bwd_data_workspace_bytes<BFloat16>(s), x);
    Tensor sums = device_workspace(4 * kernels::norm_film_silu_conv3d_bwd_sums(s, blocks), x);
    p.workspace = device_mutable_data<float>(workspace), p.sums = device_mutable_data<float>(sums);
    kernels::norm_film_silu_conv3d_bwd<Backend>(stream, s, blocks, norm, p);
  });
  if (grads.d_film.defined() && film.dtype() != DType::f32) grads.d_film = grads.d_film.to(film.dtype());
  return grads;
}

}  // namespace avid
