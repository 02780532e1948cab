// autograd/ops/layer_norm.cpp -- what layer_norm saves, and its gradient
#include "autograd/ops/layer_norm.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/layer_norm.h"

namespace avid {
namespace {

constexpr const char* kOp = "layer_norm";

/// Gradient equations: kernels/layer_norm_cpu.cpp. Inputs: x, gamma, beta.
class LayerNormRule : public Rule {
 public:
  LayerNormRule(const Var& x, const Var& gamma, double eps)
      : x_(kOp, "x", x.value()), gamma_(kOp, "gamma", gamma.value()), eps_(eps) {}
  const char* op() const override { return kOp; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    const LayerNormNeeds needs{.x = d_in.needs(0), .gamma = d_in.needs(1), .beta = d_in.needs(2)};
    LayerNormGradients grads = layer_norm_bwd(d_out, x_.get(), gamma_.get(), eps_, needs);
    if (needs.x) d_in.set(0, std::move(grads.d_x));
    if (needs.gamma) d_in.set(1, std::move(grads.d_gamma));
    if (needs.beta) d_in.set(2, std::move(grads.d_beta));
  }

 private:
  Saved x_, gamma_;
  double eps_;
};

}  // namespace

Var layer_norm(const Var& x, const Var& gamma, const Var& beta, double eps) {
  const kernels::OpTimer timer("layer_norm");
  Tensor out = layer_norm_fwd(x.value(), gamma.value(), beta.defined() ? beta.value() : Tensor(), eps);
  if (!needs_record({&x, &gamma, &beta})) return Var(std::move(out));
  return record(std::make_unique<LayerNormRule>(x, gamma, eps), std::move(out), {x, gamma, beta});
}

}  // namespace avid
