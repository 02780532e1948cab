// autograd/ops/conv3d_norm_film_silu.cpp -- one kernel or two, and the rules that are recorded either way
#include "autograd/ops/conv3d_norm_film_silu.h"

#include <utility>

#include "autograd/ops/conv3d.h"
#include "autograd/ops/norm_film_silu_conv3d.h"
#include "autograd/ops/rms_norm_film_silu.h"
#include "kernels/op_timer.h"
#include "tensor/ops/conv3d_norm_film_silu.h"
#include "tensor/ops/norm_film_silu_conv3d.h"
#include "tensor/ops/rms_norm_film_silu.h"

namespace avid {
namespace {

Tensor value_or_none(const Var& v) { return v.defined() ? v.value() : Tensor(); }

/// Both results by one kernel or two; u, where one kernel makes both, only if it is kept.
Conv3dNormFilmSilu forward(
    const Tensor& x, const Var& w, const Var& b, const Conv3dOptions& options, const Tensor& x2, const Var& gamma,
    const Var& film, const Var& residual, bool keep) {
  const Tensor& weights = w.value_in(x.dtype());
  if (conv3d_norm_film_silu_is_one_kernel(x, weights, options, x2)) {
    const kernels::OpTimer timer("conv3d_norm_film_silu");
    return conv3d_norm_film_silu_fwd(
        x, weights, value_or_none(b), options, x2, gamma.value(), value_or_none(film), value_or_none(residual), keep);
  }
  Conv3dNormFilmSilu result;
  {
    const kernels::OpTimer timer("conv3d");
    result.u = conv3d(x, weights, value_or_none(b), options, x2);
  }
  const kernels::OpTimer timer("rms_norm_film_silu");
  result.out = rms_norm_film_silu_fwd(result.u, gamma.value(), value_or_none(film), value_or_none(residual));
  return result;
}

}  // namespace

Var conv3d_norm_film_silu(
    const Var& x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& x2, const Var& gamma,
    const Var& film, const Var& residual) {
  const bool keep = needs_record({&x, &w, &b, &x2, &gamma, &film, &residual});
  auto [out, u] = forward(x.value(), w, b, options, value_or_none(x2), gamma, film, residual, keep);
  if (!keep) return Var(std::move(out));
  return rms_norm_film_silu_result(
      std::move(out), conv3d_result(std::move(u), x, w, b, options, x2), gamma, film, residual);
}

NormedConv3d conv3d_norm_film_silu_for_conv3d(
    const Var& x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& x2, const Var& gamma,
    const Var& film) {
  const bool keep = needs_record({&x, &w, &b, &x2, &gamma, &film});
  auto [out, u] = forward(x.value(), w, b, options, value_or_none(x2), gamma, film, {}, keep);
  if (!keep) return {.out = std::move(out), .u = {}, .gamma = {}, .film = {}};
  return {.out = std::move(out), .u = conv3d_result(std::move(u), x, w, b, options, x2), .gamma = gamma, .film = film};
}

Var conv3d_norm_film_silu(
    NormedConv3d x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& gamma, const Var& film,
    const Var& residual) {
  if (!x.u.defined() || !norm_film_silu_conv3d_bwd_is_one_kernel(x.out, w.value_in(x.out.dtype()), options)) {
    const Var normed =
        x.u.defined() ? rms_norm_film_silu_result(std::move(x.out), x.u, x.gamma, x.film, {}) : Var(std::move(x.out));
    return conv3d_norm_film_silu(normed, w, b, options, {}, gamma, film, residual);
  }
  auto [out, u] = forward(x.out, w, b, options, {}, gamma, film, residual, true);
  const Var result = norm_film_silu_conv3d_result(std::move(u), std::move(x.out), x.u, x.gamma, x.film, w, b, options);
  return rms_norm_film_silu_result(std::move(out), result, gamma, film, residual);
}

}  // namespace avid
