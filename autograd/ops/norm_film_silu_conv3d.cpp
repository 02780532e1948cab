// autograd/ops/norm_film_silu_conv3d.cpp -- what a convolution behind a norm saves, and its gradients through both
#include "autograd/ops/norm_film_silu_conv3d.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/norm_film_silu_conv3d.h"

namespace avid {
namespace {

constexpr const char* kOp = "norm_film_silu_conv3d";

/// Gradient equations: autograd/ops/conv3d.cpp, tensor/ops/rms_norm_film_silu.h.
class NormFilmSiluConv3dRule : public Rule {
 public:
  NormFilmSiluConv3dRule(
      const Tensor& h, const Var& x, const Var& gamma, const Var& film, const Var& w, const Conv3dOptions& options)
      : options_(options), w_shape_(w.shape()) {
    if (needs_record({&x, &gamma, &film})) {
      x_ = Saved(kOp, "x", x.value());
      gamma_ = Saved(kOp, "gamma", gamma.value());
      if (film.defined()) film_ = Saved(kOp, "film", film.value());
      w_ = Saved(kOp, "w", w.value_in(h.dtype()));
    }
    if (w.requires_grad()) h_ = Saved(kOp, "h", h);
  }
  const char* op() const override { return kOp; }

  void backward(const Tensor& d_out, InputGrads& d_in) override {
    if (d_in.needs(kW) || d_in.needs(kB)) {
      const kernels::OpTimer timer("conv3d", "_bwd");
      Conv3dWeightGrads grads = conv3d_bwd_weight(
          d_out, h_.defined() ? h_.get() : Tensor(), {}, w_shape_, options_, d_in.needs(kW), d_in.needs(kB));
      if (d_in.needs(kW)) d_in.set(kW, std::move(grads.d_w));
      if (d_in.needs(kB)) d_in.set(kB, std::move(grads.d_bias));
    }
    const RmsNormFilmSiluNeeds needs{.x = d_in.needs(kX), .gamma = d_in.needs(kGamma), .film = d_in.needs(kFilm)};
    if (!needs.x && !needs.gamma && !needs.film) return;
    auto grads = norm_film_silu_conv3d_bwd(
        d_out, w_.get(), options_, x_.get(), gamma_.get(), film_.defined() ? film_.get() : Tensor(), needs);
    if (needs.x) d_in.set(kX, std::move(grads.d_x));
    if (needs.gamma) d_in.set(kGamma, std::move(grads.d_gamma));
    if (needs.film) d_in.set(kFilm, std::move(grads.d_film));
  }

 private:
  enum Input : std::size_t { kX, kGamma, kFilm, kW, kB };
  Conv3dOptions options_;
  Shape w_shape_;
  Saved x_, gamma_, film_, w_, h_;
};

}  // namespace

Var norm_film_silu_conv3d_result(
    Tensor out, Tensor h, const Var& x, const Var& gamma, const Var& film, const Var& w, const Var& b,
    const Conv3dOptions& options) {
  if (!needs_record({&x, &gamma, &film, &w, &b})) return Var(std::move(out));
  return record(
      std::make_unique<NormFilmSiluConv3dRule>(h, x, gamma, film, w, options), std::move(out), {x, gamma, film, w, b});
}

}  // namespace avid
