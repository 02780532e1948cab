// autograd/ops/cast.cpp -- change of element type, with a gradient
#include "autograd/ops/cast.h"

#include "kernels/op_timer.h"

namespace avid {
namespace {

class CastRule : public Rule {
 public:
  explicit CastRule(DType from) : from_(from) {}
  const char* op() const override { return "cast"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override { d_in.set(0, d_out.to(from_)); }

 private:
  DType from_;
};

}  // namespace

Var cast(const Var& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const kernels::OpTimer timer("cast");
  Tensor out = x.value().to(dtype);
  if (!needs_record({&x})) return Var(std::move(out));
  return record(std::make_unique<CastRule>(x.dtype()), std::move(out), {x});
}

}  // namespace avid
