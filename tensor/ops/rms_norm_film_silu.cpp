// tensor/ops/rms_norm_film_silu.cpp -- checks and allocation of rms_norm_film_silu
#include "tensor/ops/rms_norm_film_silu.h"

#include "kernels/rms_norm_film_silu.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

constexpr const char* kOp = "rms_norm_film_silu";

void check_inputs(const Tensor& x, const Tensor& gamma, const Tensor& film) {
  detail::check_float(x, kOp, "x");
  check<ShapeError>(x.rank() == 5 && x.dim(4) > 0, "{}: x: expected [B,T,H,W,C] with C > 0, got {}", kOp, x.describe());
  detail::check_operand(gamma, {x.dim(4)}, x.dtype(), kOp, "gamma");
  if (film.defined()) detail::check_operand(film, {x.dim(0), x.dim(1), 2 * x.dim(4)}, x.dtype(), kOp, "film");
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

}  // namespace

Tensor rms_norm_film_silu_fwd(
    const Tensor& x_any, const Tensor& gamma, const Tensor& film, const Tensor& residual_any) {
  check_inputs(x_any, gamma, film);
  if (residual_any.defined()) detail::check_like(residual_any, x_any, kOp, "residual");
  const Tensor x = detail::usual_pitch(x_any);
  const Tensor residual = residual_any.defined() ? detail::usual_pitch(residual_any) : Tensor();
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
  check_inputs(x_any, gamma, film);
  detail::check_like(d_out_any, x_any, kOp, "d_out");
  const Tensor x = detail::usual_pitch(x_any), d_out = detail::usual_pitch(d_out_any);
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
