// autograd/ops/conv3d.cpp -- what conv3d saves, and its gradients
//
//   d_x[q,i]   = sum_{k,o} w[o,k,i] d_out[p,o]   over p*stride - padding + k = q    (needs w)
//   d_w[o,k,i] = sum_p d_out[p,o] [x | x2][q,i]                                     (needs x, x2)
//   d_b[o]     = sum_p d_out[p,o]                                                   (needs nothing)
#include "autograd/ops/conv3d.h"

#include "kernels/op_timer.h"

namespace avid {
namespace {

Tensor value_or_none(const Var& v) { return v.defined() ? v.value() : Tensor(); }

class Conv3dRule : public Rule {
 public:
  Conv3dRule(const Var& x, const Var& w, const Conv3dOptions& options, const Var& x2)
      : options_(options), x_shape_(x.shape()), w_shape_(w.shape()) {
    if (x2.defined()) x2_shape_ = x2.shape();
    if (x.requires_grad() || (x2.defined() && x2.requires_grad())) w_ = Saved("conv3d", "w", w.value_in(x.dtype()));
    if (w.requires_grad()) {
      x_ = Saved("conv3d", "x", x.value());
      if (x2.defined()) x2_ = Saved("conv3d", "x2", x2.value());
    }
  }
  const char* op() const override { return "conv3d"; }

  void backward(const Tensor& d_out, InputGrads& d_in) override {
    if (d_in.needs(kW) || d_in.needs(kB)) {
      Conv3dWeightGrads grads = conv3d_bwd_weight(
          d_out, x_.defined() ? x_.get() : Tensor(), x2_.defined() ? x2_.get() : Tensor(), w_shape_, options_,
          d_in.needs(kW), d_in.needs(kB));
      if (d_in.needs(kW)) d_in.set(kW, std::move(grads.d_w));
      if (d_in.needs(kB)) d_in.set(kB, std::move(grads.d_bias));
    }
    if (d_in.needs(kX) || d_in.needs(kX2)) {
      Conv3dInputGrads grads = conv3d_bwd_data(
          d_out, w_.get(), x_shape_, x2_shape_, options_, d_in.needs(kX), d_in.needs(kX2), d_in.take(kX),
          d_in.take(kX2));
      if (d_in.needs(kX)) d_in.set(kX, std::move(grads.d_x));
      if (d_in.needs(kX2)) d_in.set(kX2, std::move(grads.d_x2));
    }
  }

 private:
  enum Input : std::size_t { kX, kW, kB, kX2 };
  Conv3dOptions options_;
  Shape x_shape_, x2_shape_, w_shape_;
  Saved w_, x_, x2_;
};

}  // namespace

Var conv3d(const Var& x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& x2) {
  const kernels::OpTimer timer("conv3d");
  return conv3d_result(
      conv3d(x.value(), w.value_in(x.dtype()), value_or_none(b), options, value_or_none(x2)), x, w, b, options, x2);
}

Var conv3d_result(Tensor out, const Var& x, const Var& w, const Var& b, const Conv3dOptions& options, const Var& x2) {
  if (!needs_record({&x, &w, &b, &x2})) return Var(std::move(out));
  return record(std::make_unique<Conv3dRule>(x, w, options, x2), std::move(out), {x, w, b, x2});
}

}  // namespace avid
