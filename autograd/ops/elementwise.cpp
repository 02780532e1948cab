// autograd/ops/elementwise.cpp -- gradients of activations, sum, multiple, reshape, frame slices
#include "autograd/ops/elementwise.h"

#include <utility>

#include "kernels/op_timer.h"
#include "tensor/ops/elementwise.h"
#include "tensor/ops/operands.h"

namespace avid {
namespace {

class SiluRule : public Rule {
 public:
  explicit SiluRule(const Var& x) : x_("silu", "x", x.value()) {}
  const char* op() const override { return "silu"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override { d_in.set(0, silu_bwd(d_out, x_.get())); }

 private:
  Saved x_;
};

class GeluRule : public Rule {
 public:
  explicit GeluRule(const Var& x) : x_("gelu", "x", x.value()) {}
  const char* op() const override { return "gelu"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override { d_in.set(0, gelu_bwd(d_out, x_.get())); }

 private:
  Saved x_;
};

class AddRule : public Rule {
 public:
  const char* op() const override { return "add"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    d_in.set(0, d_out);
    d_in.set(1, d_out);
  }
};

class ScaleRule : public Rule {
 public:
  explicit ScaleRule(double factor) : factor_(factor) {}
  const char* op() const override { return "scale"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override { d_in.set(0, scale_fwd(d_out, factor_)); }

 private:
  double factor_;
};

/// A view where possible; always with the pitch that other ops expect of that shape.
Tensor reshaped(const Tensor& x, const Shape& shape) {
  const bool keeps_rows = shape.cols() == x.cols() && shape.rank() > 0 && x.rank() > 0;
  if (keeps_rows || (x.is_dense() && row_pitch(shape, x.dtype()) == shape.cols()))
    return detail::usual_pitch(x.reshape(shape));
  check<ShapeError>(
      shape.numel() == x.numel(), "reshape: {} has {} elements, {} has {}", x.shape(), x.numel(), shape, shape.numel());
  return x.dense_reshape(shape);
}

class ReshapeRule : public Rule {
 public:
  explicit ReshapeRule(Shape shape) : shape_(std::move(shape)) {}
  const char* op() const override { return "reshape"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override { d_in.set(0, reshaped(d_out, shape_)); }

 private:
  Shape shape_;
};

class SliceFramesRule : public Rule {
 public:
  SliceFramesRule(std::int64_t num_frames, std::int64_t begin) : num_frames_(num_frames), begin_(begin) {}
  const char* op() const override { return "slice_frames"; }
  void backward(const Tensor& d_out, InputGrads& d_in) override {
    d_in.set(0, slice_frames_bwd(d_out, num_frames_, begin_));
  }

 private:
  std::int64_t num_frames_, begin_;
};

}  // namespace

Var silu(const Var& x) {
  const kernels::OpTimer timer("silu");
  Tensor out = silu_fwd(x.value());
  if (!needs_record({&x})) return Var(std::move(out));
  return record(std::make_unique<SiluRule>(x), std::move(out), {x});
}

Var gelu(const Var& x) {
  const kernels::OpTimer timer("gelu");
  Tensor out = gelu_fwd(x.value());
  if (!needs_record({&x})) return Var(std::move(out));
  return record(std::make_unique<GeluRule>(x), std::move(out), {x});
}

Var add(const Var& a, const Var& b) {
  const kernels::OpTimer timer("add");
  Tensor out = add_fwd(a.value(), b.value());
  if (!needs_record({&a, &b})) return Var(std::move(out));
  return record(std::make_unique<AddRule>(), std::move(out), {a, b});
}

Var scale(const Var& x, double factor) {
  const kernels::OpTimer timer("scale");
  Tensor out = scale_fwd(x.value(), factor);
  if (!needs_record({&x})) return Var(std::move(out));
  return record(std::make_unique<ScaleRule>(factor), std::move(out), {x});
}

Var reshape(const Var& x, const Shape& shape) {
  const kernels::OpTimer timer("reshape");
  Tensor out = reshaped(x.value(), shape);
  if (!needs_record({&x})) return Var(std::move(out));
  return record(std::make_unique<ReshapeRule>(x.shape()), std::move(out), {x});
}

Var slice_frames(const Var& x, std::int64_t begin, std::int64_t end) {
  const kernels::OpTimer timer("slice_frames");
  Tensor out = slice_frames_fwd(x.value(), begin, end);
  if (!needs_record({&x})) return Var(std::move(out));
  return record(std::make_unique<SliceFramesRule>(x.dim(1), begin), std::move(out), {x});
}

}  // namespace avid
