// autograd/ops/cross_entropy.cpp -- what cross_entropy saves, and its gradient
#include "autograd/ops/cross_entropy.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/cross_entropy.h"

namespace avid {
namespace {

class CrossEntropyRule : public Rule {
 public:
  CrossEntropyRule(const Var& logits, const Tensor& ids)
      : logits_("cross_entropy", "logits", logits.value()), ids_("cross_entropy", "ids", ids) {}
  const char* op() const override { return "cross_entropy"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    d_in.set(0, cross_entropy_bwd(d_out, logits_.get(), ids_.get()));
  }

 private:
  Saved logits_, ids_;
};

}  // namespace

Var cross_entropy(const Var& logits, const Tensor& ids) {
  const kernels::OpTimer timer("cross_entropy");
  Tensor out = cross_entropy_fwd(logits.value(), ids);
  if (!needs_record({&logits})) return Var(std::move(out));
  return record(std::make_unique<CrossEntropyRule>(logits, ids), std::move(out), {logits});
}

}  // namespace avid
