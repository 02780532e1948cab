// autograd/ops/group_norm_silu.cpp -- what group_norm_silu saves, and its gradient
#include "autograd/ops/group_norm_silu.h"

#include <utility>

#include "kernels/op_timer.h"

namespace avid {
namespace {

constexpr const char* kOp = "group_norm_silu";

/// Gradient equations: tensor/ops/group_norm_silu.h. Inputs: x, gamma, beta.
class GroupNormSiluRule : public Rule {
 public:
  GroupNormSiluRule(const Var& x, const Var& gamma, const Var& beta, const GroupNormOptions& options)
      : x_(kOp, "x", x.value()),
        gamma_(kOp, "gamma", gamma.value()),
        beta_(kOp, "beta", beta.value()),
        options_(options) {}
  const char* op() const override { return kOp; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    const GroupNormSiluNeeds needs{.x = d_in.needs(0), .gamma = d_in.needs(1), .beta = d_in.needs(2)};
    GroupNormSiluGradients grads = group_norm_silu_bwd(d_out, x_.get(), gamma_.get(), beta_.get(), options_, needs);
    if (needs.x) d_in.set(0, std::move(grads.d_x));
    if (needs.gamma) d_in.set(1, std::move(grads.d_gamma));
    if (needs.beta) d_in.set(2, std::move(grads.d_beta));
  }

 private:
  Saved x_, gamma_, beta_;
  GroupNormOptions options_;
};

}  // namespace

Var group_norm_silu(const Var& x, const Var& gamma, const Var& beta, const GroupNormOptions& options) {
  const kernels::OpTimer timer("group_norm_silu");
  Tensor out = group_norm_silu_fwd(x.value(), gamma.value(), beta.value(), options);
  if (!needs_record({&x, &gamma, &beta})) return Var(std::move(out));
  return record(std::make_unique<GroupNormSiluRule>(x, gamma, beta, options), std::move(out), {x, gamma, beta});
}

}  // namespace avid
