// autograd/ops/weighted_mse.cpp -- what weighted_mse saves, and its gradient
#include "autograd/ops/weighted_mse.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/weighted_mse.h"

namespace avid {
namespace {

constexpr const char* kOp = "weighted_mse";

class WeightedMseRule : public Rule {
 public:
  WeightedMseRule(const Var& prediction, const Tensor& target, const Tensor& weight)
      : prediction_(kOp, "prediction", prediction.value()),
        target_(kOp, "target", target),
        weight_(kOp, "weight", weight) {}
  const char* op() const override { return kOp; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    d_in.set(0, weighted_mse_bwd(d_out, prediction_.get(), target_.get(), weight_.get()));
  }

 private:
  Saved prediction_, target_, weight_;
};

}  // namespace

Var weighted_mse(const Var& prediction, const Tensor& target, const Tensor& weight) {
  const kernels::OpTimer timer("weighted_mse");
  Tensor out = weighted_mse_fwd(prediction.value(), target, weight);
  if (!needs_record({&prediction})) return Var(std::move(out));
  return record(std::make_unique<WeightedMseRule>(prediction, target, weight), std::move(out), {prediction});
}

}  // namespace avid
