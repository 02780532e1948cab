// tests/autograd/gradcheck_test.cpp -- the gradient checker finds planted mistakes
#include "tests/gradcheck.h"

#include "tests/doctest.h"

using namespace avid;
using test::gradient_errors, test::random_tensor;

namespace {

/// f(x) = x^2 per element, whose backward is off by `error` in the element with index `where`, or absent.
Var square(const Var& x, double error, std::int64_t where, bool ignore_gradient = false) {
  class Rule2x : public Rule {
   public:
    Rule2x(const Tensor& x, double error, std::int64_t where, bool ignore)
        : x_(x), error_(error), where_(where), ignore_(ignore) {}
    const char* op() const override { return "square"; }
    void backward(const Tensor& d_out, InputGrads& d_in) override {
      if (ignore_) return;
      std::vector<double> d_x = x_.to_doubles();
      const std::vector<double> g = d_out.to_doubles();
      for (std::size_t i = 0; i < d_x.size(); ++i) d_x[i] = 2 * d_x[i] * g[i];
      d_x[static_cast<std::size_t>(where_)] += error_;
      d_in.set(0, Tensor::from_values(d_x, x_.shape()));
    }

   private:
    Tensor x_;
    double error_;
    std::int64_t where_;
    bool ignore_;
  };
  std::vector<double> y = x.value().to_doubles();
  for (double& v : y) v *= v;
  Tensor out = Tensor::from_values(y, x.shape());
  if (!needs_record({&x})) return Var(out);
  return record(std::make_unique<Rule2x>(x.value(), error, where, ignore_gradient), out, {x});
}

}  // namespace

TEST_CASE("gradcheck/right gradient/no errors") {
  CHECK(
      gradient_errors([](const auto& in) { return square(in[0], 0, 0); }, {random_tensor({5, 7}, DType::f64, 1)}) ==
      "");
}

TEST_CASE("gradcheck/planted mistakes/are found") {
  const std::vector<Tensor> x = {random_tensor({5, 7}, DType::f64, 1)};
  CHECK(gradient_errors([](const auto& in) { return square(in[0], 1e-5, 0); }, x) != "");
  CHECK(
      gradient_errors([](const auto& in) { return square(in[0], 1e-5, 11); }, x) != "");  // only seen along directions
  CHECK(gradient_errors([](const auto& in) { return square(in[0], 0, 0, true); }, x) != "");
}
