// tensor/ops/conv3d_norm_film_silu.cpp -- checks, allocation and dispatch of conv3d_norm_film_silu
#include "tensor/ops/conv3d_norm_film_silu.h"

#include "kernels/conv3d_norm_film_silu.h"
#include "tensor/kernel_args.h"
#include "tensor/ops/conv3d_size.h"
#include "tensor/ops/library_route.h"

namespace avid {
namespace {

constexpr const char* kOp = "conv3d_norm_film_silu";
constexpr double kNormFlops = 12;  // per element, as op_timer.cpp counts rms_norm_film_silu

kernels::Conv3dSize checked_size(
    const char* op, const Tensor& x, const Tensor& w, const Conv3dOptions& options, const Tensor& x2) {
  check_args(op, {{"x", x}, {"w", w}, {"x2", x2}});
  return detail::size_of_conv(op, x.shape(), x2.defined() ? x2.shape() : Shape{}, w.shape(), options);
}

}  // namespace

bool conv3d_norm_film_silu_is_one_kernel(
    const Tensor& x, const Tensor& w, const Conv3dOptions& options, const Tensor& x2) {
  if (!x.defined() || !x.device().is_gpu() || x.dtype() != DType::bf16) return false;
  const kernels::Conv3dSize s = checked_size("conv3d", x, w, options, x2);
  return on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream&) {
    return detail::takes_native<Backend>(detail::Family::conv) &&
           kernels::conv3d_norm_film_silu_is_one_kernel<Backend>(s);
  });
}

Conv3dNormFilmSilu conv3d_norm_film_silu_fwd(
    const Tensor& x, const Tensor& w, const Tensor& bias, const Conv3dOptions& options, const Tensor& x2,
    const Tensor& gamma, const Tensor& film, const Tensor& residual_any, bool with_u) {
  check<DeviceError>(
      conv3d_norm_film_silu_is_one_kernel(x, w, options, x2),
      "{}: expected bf16 operands on a device whose kernel for this convolution holds whole rows | call conv3d, then "
      "rms_norm_film_silu_fwd",
      kOp);
  const kernels::Conv3dSize s = checked_size(kOp, x, w, options, x2);
  const Shape shape{s.B, s.out[0], s.out[1], s.out[2], s.O};
  if (bias.defined()) detail::check_parameter(bias, {s.O}, x, kOp, "bias");
  detail::check_parameter(gamma, {s.O}, x, kOp, "gamma");
  if (film.defined()) detail::check_film(film, {s.B, s.out[0], 2 * s.O}, x, kOp);
  if (residual_any.defined()) {
    check_shape(residual_any, shape, kOp, "residual");
    check_args(kOp, {{"x", x}, {"residual", residual_any}});
  }
  const Tensor residual = residual_any.defined() ? detail::usual_pitch(residual_any) : Tensor();
  const Tensor film_f32 = film.defined() && film.dtype() != DType::f32 ? film.to(DType::f32) : film;
  Conv3dNormFilmSilu result;
  result.out = Tensor::uninitialised(shape, x.dtype(), x.device());
  if (with_u) result.u = Tensor::uninitialised(shape, x.dtype(), x.device());
  detail::note_conv("fwd", s, kNormFlops * static_cast<double>(result.out.numel()));
  kernels::note_sizes({{"film", film.defined()}, {"residual", residual.defined()}});
  kernels::Conv3dNormFilmSiluArgs p;
  p.x = device_rows_of<BFloat16>(x), p.x2 = device_rows_of<BFloat16>(x2), p.w = device_rows_of<BFloat16>(w);
  p.bias = device_data<float>(bias);
  p.gamma = device_data<float>(gamma), p.film = device_rows_of<float>(film_f32);
  p.residual = device_rows_of<BFloat16>(residual);
  p.u = device_mutable_rows_of<BFloat16>(result.u), p.out = device_mutable_rows_of<BFloat16>(result.out);
  on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
    Tensor workspace = device_workspace(kernels::conv3d_fwd_workspace_bytes<BFloat16>(s), x);
    p.workspace = device_mutable_data<float>(workspace);
    kernels::conv3d_norm_film_silu_fwd<Backend>(stream, s, p);
  });
  return result;
}

}  // namespace avid
