// autograd/ops/conv3d_norm_film_silu.cpp -- one kernel or two, and the two rules that are recorded either way
#include "autograd/ops/conv3d_norm_film_silu.h"

#include <utility>

#include "autograd/ops/conv3d.h"
#include "autograd/ops/rms_norm_film_silu.h"
#include "kernels/op_timer.h"
#include "tensor/ops/conv3d_norm_film_silu.h"

namespace avid {
namespace {

Tensor value_or_none(const Var& v) { return v.defined() ? v.value() : Tensor(); }

}  // namespace

Var conv3d_norm_film_silu(
    const Var& x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& x2, const Var& gamma,
    const Var& film, const Var& residual) {
  const Tensor& weights = w.value_in(x.dtype());
  if (!conv3d_norm_film_silu_is_one_kernel(x.value(), weights, options, value_or_none(x2)))
    return rms_norm_film_silu(conv3d(x, w, b, options, x2), gamma, film, residual);
  const kernels::OpTimer timer("conv3d_norm_film_silu");
  const bool keep = needs_record({&x, &w, &b, &x2, &gamma, &film, &residual});
  auto [out, u] = conv3d_norm_film_silu_fwd(
      x.value(), weights, value_or_none(b), options, value_or_none(x2), gamma.value(), value_or_none(film),
      value_or_none(residual), keep);
  if (!keep) return Var(std::move(out));
  return rms_norm_film_silu_result(
      std::move(out), conv3d_result(std::move(u), x, w, b, options, x2), gamma, film, residual);
}

}  // namespace avid
