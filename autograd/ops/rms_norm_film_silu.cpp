// autograd/ops/rms_norm_film_silu.cpp -- what rms_norm_film_silu saves, and its gradient
#include "autograd/ops/rms_norm_film_silu.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/rms_norm_film_silu.h"

namespace avid {
namespace {

constexpr const char* kOp = "rms_norm_film_silu";

Tensor value_or_none(const Var& v) { return v.defined() ? v.value() : Tensor(); }

/// Gradient equations: tensor/ops/rms_norm_film_silu.h. Inputs: x, gamma, film, residual.
class RmsNormFilmSiluRule : public Rule {
 public:
  RmsNormFilmSiluRule(const Var& x, const Var& gamma, const Var& film)
      : x_(kOp, "x", x.value()),
        gamma_(kOp, "gamma", gamma.value()),
        film_(film.defined() ? Saved(kOp, "film", film.value()) : Saved()) {}
  const char* op() const override { return kOp; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    if (d_in.needs(3)) d_in.set(3, d_out);
    const RmsNormFilmSiluNeeds needs{.x = d_in.needs(0), .gamma = d_in.needs(1), .film = d_in.needs(2)};
    if (!needs.x && !needs.gamma && !needs.film) return;
    auto grads = rms_norm_film_silu_bwd(d_out, x_.get(), gamma_.get(), film_.defined() ? film_.get() : Tensor(), needs);
    if (needs.x) d_in.set(0, std::move(grads.d_x));
    if (needs.gamma) d_in.set(1, std::move(grads.d_gamma));
    if (needs.film) d_in.set(2, std::move(grads.d_film));
  }

 private:
  Saved x_, gamma_, film_;
};

}  // namespace

Var rms_norm_film_silu(const Var& x, const Var& gamma, const Var& film, const Var& residual) {
  const kernels::OpTimer timer("rms_norm_film_silu");
  return rms_norm_film_silu_result(
      rms_norm_film_silu_fwd(x.value(), gamma.value(), value_or_none(film), value_or_none(residual)), x, gamma, film,
      residual);
}

Var rms_norm_film_silu_result(Tensor out, const Var& x, const Var& gamma, const Var& film, const Var& residual) {
  if (!needs_record({&x, &gamma, &film, &residual})) return Var(std::move(out));
  return record(std::make_unique<RmsNormFilmSiluRule>(x, gamma, film), std::move(out), {x, gamma, film, residual});
}

}  // namespace avid
