// autograd/ops/unet_input.cpp -- the gradient of unet_input
#include "autograd/ops/unet_input.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/unet_input.h"

namespace avid {
namespace {

class UnetInputRule : public Rule {
 public:
  UnetInputRule(std::int64_t num_cond_channels, std::int64_t num_colours)
      : num_cond_channels_(num_cond_channels), num_colours_(num_colours) {}
  const char* op() const override { return "unet_input"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    UnetInputGrads grads = unet_input_bwd(d_out, num_cond_channels_, num_colours_, d_in.needs(0), d_in.needs(1));
    if (d_in.needs(0)) d_in.set(0, std::move(grads.d_x_t));
    if (d_in.needs(1)) d_in.set(1, std::move(grads.d_base));
  }

 private:
  std::int64_t num_cond_channels_, num_colours_;
};

}  // namespace

Var unet_input(const Tensor& cond, const Var& x_t, const Var& base) {
  const kernels::OpTimer timer("unet_input");
  Tensor out = unet_input_fwd(cond, x_t.value(), base.defined() ? base.value() : Tensor());
  if (!needs_record({&x_t, &base})) return Var(std::move(out));
  const std::int64_t num_colours = x_t.dim(4);
  return record(std::make_unique<UnetInputRule>(cond.dim(1) * num_colours, num_colours), std::move(out), {x_t, base});
}

}  // namespace avid
