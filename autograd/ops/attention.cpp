// autograd/ops/attention.cpp -- what attention saves, and its gradient
#include "autograd/ops/attention.h"

#include <utility>

#include "kernels/op_timer.h"

namespace avid {
namespace {

constexpr const char* kOp = "attention";

/// Gradient equations: kernels/attention_cpu.cpp. Inputs in the order of the op's arguments.
class AttentionRule : public Rule {
 public:
  AttentionRule(
      const Var& q, const Var& k, const Var& v, const SoftmaxAttention& forward, const SoftmaxAttentionOptions& options)
      : q_(kOp, "q", q.value()),
        k_(kOp, "k", k.value()),
        v_(kOp, "v", v.value()),
        out_(kOp, "out", forward.out),
        log_sum_(kOp, "log_sum", forward.log_sum),
        options_(options) {}

  const char* op() const override { return kOp; }

  void backward(const Tensor& d_out, InputGrads& d_in) override {
    const SoftmaxAttentionNeeds needs{.q = d_in.needs(0), .k = d_in.needs(1), .v = d_in.needs(2)};
    SoftmaxAttentionGrads grads =
        attention_bwd(d_out, q_.get(), k_.get(), v_.get(), {out_.get(), log_sum_.get()}, options_, needs);
    if (needs.q) d_in.set(0, std::move(grads.d_q));
    if (needs.k) d_in.set(1, std::move(grads.d_k));
    if (needs.v) d_in.set(2, std::move(grads.d_v));
  }

 private:
  Saved q_, k_, v_, out_, log_sum_;
  SoftmaxAttentionOptions options_;
};

}  // namespace

Var attention(const Var& q, const Var& k, const Var& v, const SoftmaxAttentionOptions& options) {
  const kernels::OpTimer timer(kOp);
  SoftmaxAttention result = attention_fwd(q.value(), k.value(), v.value(), options);
  if (!needs_record({&q, &k, &v})) return Var(std::move(result.out));
  auto rule = std::make_unique<AttentionRule>(q, k, v, result, options);
  return record(std::move(rule), std::move(result.out), {q, k, v});
}

}  // namespace avid
