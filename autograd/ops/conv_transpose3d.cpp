// autograd/ops/conv_transpose3d.cpp -- what conv_transpose3d saves, and its gradients
//
//   over all pairs with q = p*stride - padding + k, p in the input and q in the output:
//   d_x[p,i]   = sum_{k,o} w[i,k,o] d_out[q,o]   a convolution of d_out    (needs w)
//   d_w[i,k,o] = sum_p x[p,i] d_out[q,o]                                   (needs x)
//   d_b[o]     = sum_q d_out[q,o]                                          (needs nothing)
#include "autograd/ops/conv_transpose3d.h"

#include "kernels/op_timer.h"

namespace avid {
namespace {

class ConvTranspose3dRule : public Rule {
 public:
  ConvTranspose3dRule(const Var& x, const Var& w, const Conv3dOptions& options)
      : options_(options), x_shape_(x.shape()), w_shape_(w.shape()) {
    if (x.requires_grad()) w_ = Saved("conv_transpose3d", "w", w.value_in(x.dtype()));
    if (w.requires_grad()) x_ = Saved("conv_transpose3d", "x", x.value());
  }
  const char* op() const override { return "conv_transpose3d"; }

  void backward(const Tensor& d_out, InputGrads& d_in) override {
    if (d_in.needs(kW) || d_in.needs(kB)) {
      Conv3dWeightGrads grads = conv_transpose3d_bwd_weight(
          d_out, x_.defined() ? x_.get() : Tensor(), w_shape_, options_, d_in.needs(kW), d_in.needs(kB));
      if (d_in.needs(kW)) d_in.set(kW, std::move(grads.d_w));
      if (d_in.needs(kB)) d_in.set(kB, std::move(grads.d_bias));
    }
    if (d_in.needs(kX)) d_in.set(kX, conv_transpose3d_bwd_data(d_out, w_.get(), x_shape_, options_));
  }

 private:
  enum Input : std::size_t { kX, kW, kB };
  Conv3dOptions options_;
  Shape x_shape_, w_shape_;
  Saved w_, x_;
};

}  // namespace

Var conv_transpose3d(const Var& x, const Var& w, const Var& b, const Conv3dOptions& options) {
  const kernels::OpTimer timer("conv_transpose3d");
  Tensor out = conv_transpose3d(x.value(), w.value_in(x.dtype()), b.defined() ? b.value() : Tensor(), options);
  if (!needs_record({&x, &w, &b})) return Var(std::move(out));
  return record(std::make_unique<ConvTranspose3dRule>(x, w, options), std::move(out), {x, w, b});
}

}  // namespace avid
