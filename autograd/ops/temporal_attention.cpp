// autograd/ops/temporal_attention.cpp -- what temporal_attention saves, and its gradient
#include "autograd/ops/temporal_attention.h"

#include <utility>

#include "kernels/op_timer.h"

namespace avid {
namespace {

constexpr const char* kOp = "temporal_attention";

/// Gradient equations: kernels/temporal_attention_cpu.cpp. Inputs in the order of the op's arguments.
class TemporalAttentionRule : public Rule {
 public:
  TemporalAttentionRule(
      const Var& x, const Var& norm_gamma, const Var& w_qkv, const Var& w_out, const Var& bias_table,
      const Tensor& rotary_freqs, const AttentionOptions& options)
      : x_(kOp, "x", x.value()),
        norm_gamma_(kOp, "norm_gamma", norm_gamma.value()),
        w_qkv_(kOp, "w_qkv", w_qkv.value_in(x.dtype())),
        w_out_(kOp, "w_out", w_out.value_in(x.dtype())),
        bias_table_(kOp, "bias_table", bias_table.value()),
        rotary_freqs_(kOp, "rotary_freqs", rotary_freqs),
        options_(options) {}

  const char* op() const override { return kOp; }

  void backward(const Tensor& d_out, InputGrads& d_in) override {
    const AttentionNeeds needs{
        .x = d_in.needs(0),
        .norm_gamma = d_in.needs(1),
        .w_qkv = d_in.needs(2),
        .w_out = d_in.needs(3),
        .bias_table = d_in.needs(4)};
    AttentionGrads grads = temporal_attention_bwd(
        d_out, x_.get(), norm_gamma_.get(), w_qkv_.get(), w_out_.get(), bias_table_.get(), rotary_freqs_.get(),
        options_, needs);
    if (needs.x) d_in.set(0, std::move(grads.d_x));
    if (needs.norm_gamma) d_in.set(1, std::move(grads.d_norm_gamma));
    if (needs.w_qkv) d_in.set(2, std::move(grads.d_w_qkv));
    if (needs.w_out) d_in.set(3, std::move(grads.d_w_out));
    if (needs.bias_table) d_in.set(4, std::move(grads.d_bias_table));
  }

 private:
  Saved x_, norm_gamma_, w_qkv_, w_out_, bias_table_, rotary_freqs_;
  AttentionOptions options_;
};

}  // namespace

Var temporal_attention(
    const Var& x, const Var& norm_gamma, const Var& w_qkv, const Var& w_out, const Var& bias_table,
    const Tensor& rotary_freqs, const AttentionOptions& options) {
  const kernels::OpTimer timer(kOp);
  Tensor out = temporal_attention_fwd(
      x.value(), norm_gamma.value(), w_qkv.value_in(x.dtype()), w_out.value_in(x.dtype()), bias_table.value(),
      rotary_freqs, options);
  if (!needs_record({&x, &norm_gamma, &w_qkv, &w_out, &bias_table})) return Var(std::move(out));
  auto rule = std::make_unique<TemporalAttentionRule>(x, norm_gamma, w_qkv, w_out, bias_table, rotary_freqs, options);
  return record(std::move(rule), std::move(out), {x, norm_gamma, w_qkv, w_out, bias_table});
}

}  // namespace avid
