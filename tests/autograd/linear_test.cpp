// tests/autograd/linear_test.cpp -- gradients of linear in f64
#include "autograd/ops/linear.h"

#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using test::gradient_errors, test::random_tensor;

namespace {

std::string errors_of(const Shape& x, const Shape& w, bool bias, const Shape& x2 = {}, const Shape& residual = {}) {
  return gradient_errors(
      [](const std::vector<Var>& in) { return linear(in[0], in[1], in[2], in[3], in[4]); },
      {random_tensor(x, DType::f64, 1), random_tensor(w, DType::f64, 2),
       bias ? random_tensor({w[0]}, DType::f64, 3) : Tensor(), x2.rank() ? random_tensor(x2, DType::f64, 4) : Tensor(),
       residual.rank() ? random_tensor(residual, DType::f64, 5) : Tensor()});
}

}  // namespace

TEST_CASE("linear/gradient/rows of channels") {
  CHECK(errors_of({2, 3, 5}, {4, 5}, true) == "");
  CHECK(errors_of({7, 1}, {1, 1}, false) == "");
  CHECK(errors_of({6}, {3, 6}, true) == "");
}

TEST_CASE("linear/gradient/two inputs and residual") {
  CHECK(errors_of({2, 1, 3, 2, 5}, {3, 12}, true, {2, 1, 3, 2, 7}) == "");
  CHECK(errors_of({2, 3, 5}, {9, 5}, true, {}, {2, 3, 9}) == "");
  CHECK(errors_of({4, 5}, {3, 7}, false, {4, 2}, {4, 3}) == "");
}

TEST_CASE("linear/gradient/the residual's gradient is d_out itself") {
  const Var x(random_tensor({4, 3}, DType::f64, 1)), w(random_tensor({2, 3}, DType::f64, 2));
  const Var residual(random_tensor({4, 2}, DType::f64, 3), true);
  const Tensor g = random_tensor({4, 2}, DType::f64, 4);
  linear(x, w, {}, {}, residual).backward(g);
  CHECK(test::same_bits(residual.grad(), g));
}
