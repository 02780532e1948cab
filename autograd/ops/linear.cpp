// autograd/ops/linear.cpp -- what linear saves, and its gradients
//
//   [d_x | d_x2] = d_out w              (needs w)
//   d_w = d_out^T [x | x2]              (needs x, x2)
//   d_b = column sums of d_out,  d_residual = d_out
#include "autograd/ops/linear.h"

#include "kernels/op_timer.h"

namespace avid {
namespace {

Tensor value_or_none(const Var& v) { return v.defined() ? v.value() : Tensor(); }

class LinearRule : public Rule {
 public:
  LinearRule(const Var& x, const Var& w, const Var& x2) : x_shape_(x.shape()), w_shape_(w.shape()) {
    if (x2.defined()) x2_shape_ = x2.shape();
    if (x.requires_grad() || (x2.defined() && x2.requires_grad())) w_ = Saved("linear", "w", w.value_in(x.dtype()));
    if (w.requires_grad()) {
      x_ = Saved("linear", "x", x.value());
      if (x2.defined()) x2_ = Saved("linear", "x2", x2.value());
    }
  }
  const char* op() const override { return "linear"; }

  void backward(const Tensor& d_out, InputGrads& d_in) override {
    if (d_in.needs(kW) || d_in.needs(kB)) {
      LinearWeightGrads grads = linear_bwd_weight(
          d_out, x_.defined() ? x_.get() : Tensor(), x2_.defined() ? x2_.get() : Tensor(), w_shape_, d_in.needs(kW),
          d_in.needs(kB));
      if (d_in.needs(kW)) d_in.set(kW, std::move(grads.d_w));
      if (d_in.needs(kB)) d_in.set(kB, std::move(grads.d_bias));
    }
    if (d_in.needs(kX) || d_in.needs(kX2)) {
      LinearInputGrads grads = linear_bwd_data(
          d_out, w_.get(), x_shape_, x2_shape_, d_in.needs(kX), d_in.needs(kX2), d_in.take(kX), d_in.take(kX2));
      if (d_in.needs(kX)) d_in.set(kX, std::move(grads.d_x));
      if (d_in.needs(kX2)) d_in.set(kX2, std::move(grads.d_x2));
    }
    if (d_in.needs(kResidual)) d_in.set(kResidual, d_out);
  }

 private:
  enum Input : std::size_t { kX, kW, kB, kX2, kResidual };
  Shape x_shape_, x2_shape_, w_shape_;
  Saved w_, x_, x2_;
};

}  // namespace

Var linear(const Var& x, const Var& w, const Var& b, const Var& x2, const Var& residual) {
  const kernels::OpTimer timer("linear");
  Tensor out = linear(x.value(), w.value_in(x.dtype()), value_or_none(b), value_or_none(x2), value_or_none(residual));
  if (!needs_record({&x, &w, &b, &x2, &residual})) return Var(std::move(out));
  return record(std::make_unique<LinearRule>(x, w, x2), std::move(out), {x, w, b, x2, residual});
}

}  // namespace avid
