// tensor/ops/rms_norm_film_silu.cpp -- checks and allocation of rms_norm_film_silu
#include "tensor/ops/rms_norm_film_silu.h"

#include "kernels/rms_norm_film_silu.h"
#include "tensor/ops/emulated_bf16.h"
#include "tensor/ops/on_device.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "rms_norm_film_silu";

void check_inputs(const Tensor& x, const Tensor& gamma, const Tensor& film) {
  detail::check_float(x, kOp, "x");
  check<ShapeError>(x.rank() == 5 && x.dim(4) > 0, "{}: x: expected [B,T,H,W,C] with C > 0, got {}", kOp, x.describe());
  detail::check_parameter(gamma, {x.dim(4)}, x, kOp, "gamma");
  if (!film.defined()) return;
  detail::check_film(film, {x.dim(0), x.dim(1), 2 * x.dim(4)}, x, kOp);
}

template <class Elem>
kernels::RmsNormFilmSiluArgs<Elem> operands(const Tensor& x, const Tensor& gamma, const Tensor& film) {
  return {
      .F = x.dim(0) * x.dim(1),
      .S = x.dim(2) * x.dim(3),
      .C = x.dim(4),
      .x = detail::rows_of<Elem>(x),
      .gamma = gamma.data<Elem>(),
      .film = detail::rows_of<Elem>(film),
      .residual = {},
      .out = {}};
}

template <class Elem>
kernels::RmsNormFilmSiluDeviceArgs<Elem> device_operands(const Tensor& x, const Tensor& gamma, const Tensor& film_f32) {
  return {
      .F = x.dim(0) * x.dim(1),
      .S = x.dim(2) * x.dim(3),
      .C = x.dim(4),
      .x = device_rows_of<Elem>(x),
      .gamma = device_data<float>(gamma),
      .film = device_rows_of<float>(film_f32),
      .residual = {},
      .out = {}};
}

Tensor in_f32(const Tensor& film) { return film.defined() && film.dtype() != DType::f32 ? film.to(DType::f32) : film; }

Tensor fwd_on_device(const Tensor& x, const Tensor& gamma, const Tensor& film, const Tensor& residual) {
  Tensor out = Tensor::uninitialised(x.shape(), x.dtype(), x.device());
  const Tensor film_f32 = in_f32(film);
  dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
    auto args = device_operands<Elem>(x, gamma, film_f32);
    args.residual = device_rows_of<Elem>(residual);
    args.out = device_mutable_rows_of<Elem>(out);
    on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::rms_norm_film_silu_fwd<Backend, Elem>(stream, args);
    });
  });
  return out;
}

RmsNormFilmSiluGradients bwd_on_device(
    const Tensor& d_out, const Tensor& x, const Tensor& gamma, const Tensor& film, const RmsNormFilmSiluNeeds& needs) {
  RmsNormFilmSiluGradients grads;
  if (needs.x) grads.d_x = Tensor::uninitialised(x.shape(), x.dtype(), x.device());
  if (needs.gamma) grads.d_gamma = Tensor::empty(gamma.shape(), DType::f32, x.device());
  if (needs.film && film.defined()) grads.d_film = Tensor::empty(film.shape(), DType::f32, x.device());
  const Tensor film_f32 = in_f32(film);
  dispatch_f32_bf16(x.dtype(), kOp, [&]<class Elem>() {
    const auto args = device_operands<Elem>(x, gamma, film_f32);
    Tensor workspace =
        Tensor::empty({kernels::rms_norm_film_silu_bwd_workspace(args.F, args.S, args.C)}, DType::f32, x.device());
    const kernels::RmsNormFilmSiluDeviceGrads<Elem> out{
        .d_out = device_rows_of<Elem>(d_out),
        .d_x = device_mutable_rows_of<Elem>(grads.d_x),
        .d_gamma = device_mutable_data<float>(grads.d_gamma),
        .d_film = device_mutable_rows_of<float>(grads.d_film),
        .workspace = device_mutable_data<float>(workspace)};
    on_device(x.device(), kOp, [&]<class Backend>(const kernels::Stream& stream) {
      kernels::rms_norm_film_silu_bwd<Backend, Elem>(stream, args, out);
    });
  });
  if (grads.d_film.defined() && film.dtype() != DType::f32) grads.d_film = grads.d_film.to(film.dtype());
  return grads;
}

}  // namespace

Tensor rms_norm_film_silu_fwd(
    const Tensor& x_any, const Tensor& gamma, const Tensor& film, const Tensor& residual_any) {
  if (detail::is_emulated_bf16(x_any))
    return detail::narrowed(rms_norm_film_silu_fwd(detail::widened(x_any), gamma, film, detail::widened(residual_any)));
  check_inputs(x_any, gamma, film);
  if (residual_any.defined()) detail::check_like(residual_any, x_any, kOp, "residual");
  const Tensor x = detail::usual_pitch(x_any);
  const Tensor residual = residual_any.defined() ? detail::usual_pitch(residual_any) : Tensor();
  if (x.device().is_gpu()) return fwd_on_device(x, gamma, film, residual);
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    auto args = operands<Elem>(x, gamma, film);
    args.residual = detail::rows_of<Elem>(residual);
    args.out = detail::mutable_rows_of<Elem>(out);
    kernels::rms_norm_film_silu_fwd(args);
  });
  return out;
}

RmsNormFilmSiluGradients rms_norm_film_silu_bwd(
    const Tensor& d_out_any, const Tensor& x_any, const Tensor& gamma, const Tensor& film,
    const RmsNormFilmSiluNeeds& needs) {
  if (detail::is_emulated_bf16(x_any)) {
    RmsNormFilmSiluGradients grads =
        rms_norm_film_silu_bwd(detail::widened(d_out_any), detail::widened(x_any), gamma, film, needs);
    grads.d_x = detail::narrowed(grads.d_x);
    return grads;
  }
  check_inputs(x_any, gamma, film);
  detail::check_like(d_out_any, x_any, kOp, "d_out");
  const Tensor x = detail::usual_pitch(x_any), d_out = detail::usual_pitch(d_out_any);
  if (x.device().is_gpu()) return bwd_on_device(d_out, x, gamma, film, needs);
  RmsNormFilmSiluGradients grads;
  if (needs.x) grads.d_x = Tensor::empty(x.shape(), x.dtype());
  if (needs.gamma) grads.d_gamma = Tensor::empty(gamma.shape(), x.dtype());
  if (needs.film && film.defined()) grads.d_film = Tensor::empty(film.shape(), x.dtype());
  dispatch_f32_f64(x.dtype(), kOp, [&]<class Elem>() {
    kernels::rms_norm_film_silu_bwd(
        operands<Elem>(x, gamma, film), kernels::RmsNormFilmSiluGrads<Elem>{
                                            .d_out = detail::rows_of<Elem>(d_out),
                                            .d_x = detail::mutable_rows_of<Elem>(grads.d_x),
                                            .d_gamma = detail::mutable_data_or_null<Elem>(grads.d_gamma),
                                            .d_film = detail::mutable_rows_of<Elem>(grads.d_film)});
  });
  return grads;
}

}  // namespace avid
