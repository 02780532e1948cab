// autograd/ops/mask_mix.cpp -- what mask_mix saves, and its gradient
#include "autograd/ops/mask_mix.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/mask_mix.h"

namespace avid {
namespace {

constexpr const char* kOp = "mask_mix";

/// Gradient equations: tensor/ops/mask_mix.h. Inputs: base, adapter, w, b.
class MaskMixRule : public Rule {
 public:
  MaskMixRule(const Var& base, const Var& adapter, const Var& w, const Tensor& mask)
      : base_(kOp, "base", base.value()),
        adapter_(kOp, "adapter", adapter.value()),
        w_(kOp, "w", w.value()),
        mask_(kOp, "mask", mask) {}
  const char* op() const override { return kOp; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    const MaskMixNeeds needs{.base = d_in.needs(0), .adapter = d_in.needs(1), .w = d_in.needs(2), .b = d_in.needs(3)};
    MaskMixGradients grads = mask_mix_bwd(d_out, base_.get(), adapter_.get(), w_.get(), mask_.get(), needs);
    if (needs.base) d_in.set(0, std::move(grads.d_base));
    if (needs.adapter) d_in.set(1, std::move(grads.d_adapter));
    if (needs.w) d_in.set(2, std::move(grads.d_w));
    if (needs.b) d_in.set(3, std::move(grads.d_b));
  }

 private:
  Saved base_, adapter_, w_, mask_;
};

}  // namespace

MaskMix mask_mix(const Var& base, const Var& adapter, const Var& w, const Var& b) {
  const kernels::OpTimer timer("mask_mix");
  MaskMixResult result = mask_mix_fwd(base.value(), adapter.value(), w.value(), b.value());
  if (!needs_record({&base, &adapter, &w, &b})) return {Var(std::move(result.out)), std::move(result.mask)};
  auto rule = std::make_unique<MaskMixRule>(base, adapter, w, result.mask);
  return {record(std::move(rule), std::move(result.out), {base, adapter, w, b}), std::move(result.mask)};
}

}  // namespace avid
