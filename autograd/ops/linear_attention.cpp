// autograd/ops/linear_attention.cpp -- what linear_attention saves, and its gradient
#include "autograd/ops/linear_attention.h"

#include <utility>

#include "kernels/op_timer.h"

namespace avid {
namespace {

constexpr const char* kOp = "linear_attention";

/// Gradient equations: kernels/linear_attention_cpu.cpp. Inputs in the order of the op's arguments.
class LinearAttentionRule : public Rule {
 public:
  LinearAttentionRule(
      const Var& x, const Var& norm_gamma, const Var& w_qkv, const Var& w_out, const Var& b_out, Tensor key_sums,
      const AttentionOptions& options)
      : x_(kOp, "x", x.value()),
        norm_gamma_(kOp, "norm_gamma", norm_gamma.value()),
        w_qkv_(kOp, "w_qkv", w_qkv.value_in(x.dtype())),
        w_out_(kOp, "w_out", w_out.value_in(x.dtype())),
        b_out_(kOp, "b_out", b_out.value()),
        key_sums_(key_sums.defined() ? Saved(kOp, "key_sums", std::move(key_sums)) : Saved()),
        options_(options) {}

  const char* op() const override { return kOp; }

  void backward(const Tensor& d_out, InputGrads& d_in) override {
    const AttentionNeeds needs{
        .x = d_in.needs(0),
        .norm_gamma = d_in.needs(1),
        .w_qkv = d_in.needs(2),
        .w_out = d_in.needs(3),
        .b_out = d_in.needs(4)};
    AttentionGrads grads = linear_attention_bwd(
        d_out, x_.get(), norm_gamma_.get(), w_qkv_.get(), w_out_.get(), b_out_.get(), options_, needs,
        key_sums_.defined() ? key_sums_.get() : Tensor());
    if (needs.x) d_in.set(0, std::move(grads.d_x));
    if (needs.norm_gamma) d_in.set(1, std::move(grads.d_norm_gamma));
    if (needs.w_qkv) d_in.set(2, std::move(grads.d_w_qkv));
    if (needs.w_out) d_in.set(3, std::move(grads.d_w_out));
    if (needs.b_out) d_in.set(4, std::move(grads.d_b_out));
  }

 private:
  Saved x_, norm_gamma_, w_qkv_, w_out_, b_out_, key_sums_;
  AttentionOptions options_;
};

}  // namespace

Var linear_attention(
    const Var& x, const Var& norm_gamma, const Var& w_qkv, const Var& w_out, const Var& b_out,
    const AttentionOptions& options) {
  const kernels::OpTimer timer(kOp);
  const bool records = needs_record({&x, &norm_gamma, &w_qkv, &w_out, &b_out});
  Tensor key_sums;
  Tensor out = linear_attention_fwd(
      x.value(), norm_gamma.value(), w_qkv.value_in(x.dtype()), w_out.value_in(x.dtype()), b_out.value(), options,
      records ? &key_sums : nullptr);
  if (!records) return Var(std::move(out));
  auto rule = std::make_unique<LinearAttentionRule>(x, norm_gamma, w_qkv, w_out, b_out, std::move(key_sums), options);
  return record(std::move(rule), std::move(out), {x, norm_gamma, w_qkv, w_out, b_out});
}

}  // namespace avid
