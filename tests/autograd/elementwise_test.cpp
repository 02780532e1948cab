// tests/autograd/elementwise_test.cpp -- values, gradients and errors of the element-wise ops
#include "autograd/ops/elementwise.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

namespace {

Tensor values(std::vector<double> v, const Shape& shape) { return Tensor::from_values(v, shape); }

/// f32 and f64 of the same op agree, gaps stay zero.
template <class F>
void check_f32(F&& f, const Tensor& x32) {
  const Tensor single = f(Var(x32)).value(), full = f(Var(x32.to(DType::f64))).value();
  CHECK(rel_l2(single, full) < 1e-6);
  CHECK(gaps_are_zero(single));
}

}  // namespace

TEST_CASE("elementwise/silu/hand_values") {
  const auto y = silu(Var(values({0, 1, -1, 20}, {4}))).value().to_doubles();
  CHECK(y[0] == 0);
  CHECK(y[1] == doctest::Approx(0.7310585786300049));
  CHECK(y[2] == doctest::Approx(-0.2689414213699951));
  CHECK(y[3] == doctest::Approx(19.999999958776927));
}

TEST_CASE("elementwise/gelu/hand_values") {
  const auto y = gelu(Var(values({0, 1, -1, -10, 3}, {5}))).value().to_doubles();
  CHECK(y[0] == 0);
  CHECK(y[1] == doctest::Approx(0.8413447460685429));
  CHECK(y[2] == doctest::Approx(-0.15865525393145707));
  CHECK(y[3] == doctest::Approx(-7.619853024160527e-23));  // the tail, which 1 + erf would lose
  CHECK(y[4] == doctest::Approx(2.99595030590511));        // the tanh approximation gives 2.99636
}

TEST_CASE("elementwise/gradient") {
  for (const Shape& shape : {Shape{2, 3, 5}, Shape{1}, Shape{3, 7}, Shape{0, 4}}) {
    const Tensor x = random_tensor(shape, DType::f64, 1, 3.0), y = random_tensor(shape, DType::f64, 2);
    CHECK(gradient_errors([](const auto& in) { return silu(in[0]); }, {x}) == "");
    CHECK(gradient_errors([](const auto& in) { return gelu(in[0]); }, {x}) == "");
    CHECK(gradient_errors([](const auto& in) { return add(in[0], in[1]); }, {x, y}) == "");
    CHECK(gradient_errors([](const auto& in) { return add(in[0], in[0]); }, {x}) == "");
    CHECK(gradient_errors([](const auto& in) { return scale(in[0], -1.75); }, {x}) == "");
  }
}

TEST_CASE("elementwise/f32/equals_f64_with_zero_gaps") {
  const Tensor x = random_tensor({9, 5, 7}, DType::f32, 3, 5.0);
  check_f32([](const Var& v) { return silu(v); }, x);
  check_f32([](const Var& v) { return gelu(v); }, x);
  check_f32([](const Var& v) { return add(v, v); }, x);
  check_f32([](const Var& v) { return scale(v, 0.3); }, x);
  // Large enough for threads.
  check_f32([](const Var& v) { return silu(v); }, random_tensor({40000, 3}, DType::f32, 4));
}

TEST_CASE("elementwise/reshape/values_storage_gradient") {
  const Tensor x = random_tensor({2, 3, 5}, DType::f32, 1);
  CHECK(reshape(Var(x), {6, 5}).value().shares_storage_with(x));          // rows kept
  CHECK(reshape(Var(x), {5, 6}).value().to_doubles() == x.to_doubles());  // pitched rows cut anew: a copy
  CHECK(gaps_are_zero(reshape(Var(x), {10, 3}).value()));
  const Tensor dense = random_tensor({2, 8}, DType::f32, 2);
  CHECK(reshape(Var(dense), {4, 4}).value().shares_storage_with(dense));
  for (const Shape& to : {Shape{6, 5}, Shape{5, 6}, Shape{30}, Shape{1, 30, 1}}) {
    CHECK(
        gradient_errors(
            [&](const auto& in) { return reshape(in[0], to); }, {random_tensor({2, 3, 5}, DType::f64, 1)}) == "");
  }
  CHECK_THROWS_WITH_AS(reshape(Var(x), {7, 4}), "reshape: [2,3,5] has 30 elements, [7,4] has 28", ShapeError);
}

TEST_CASE("elementwise/slice_frames/values_gradient_errors") {
  const Tensor x = random_tensor({2, 4, 3, 5}, DType::f32, 1);
  const auto all = x.to_doubles(), part = slice_frames(Var(x), 1, 3).value().to_doubles();
  for (std::size_t b = 0; b < 2; ++b)
    for (std::size_t i = 0; i < 30; ++i) CHECK(part[b * 30 + i] == all[b * 60 + 15 + i]);
  CHECK(gaps_are_zero(slice_frames(Var(x), 1, 3).value()));
  CHECK(slice_frames(Var(x), 2, 2).shape() == Shape{2, 0, 3, 5});
  for (const Shape& shape : {Shape{2, 4, 3, 5}, Shape{2, 4}, Shape{3, 4, 1}}) {
    CHECK(
        gradient_errors(
            [](const auto& in) { return slice_frames(in[0], 1, 3); }, {random_tensor(shape, DType::f64, 2)}) == "");
  }
  CHECK_THROWS_AS(slice_frames(Var(x), 3, 5), ShapeError);
  CHECK_THROWS_AS(slice_frames(Var(x), -1, 2), ShapeError);
  CHECK_THROWS_AS(slice_frames(Var(Tensor::zeros({3})), 0, 1), ShapeError);
}

TEST_CASE("elementwise/errors") {
  const Var x(Tensor::zeros({2, 3}));
  CHECK_THROWS_WITH_AS(add(x, Var(Tensor::zeros({3, 2}))), "add: b: expected [2,3], got f32 [3,2]", ShapeError);
  CHECK_THROWS_AS(add(x, Var(Tensor::zeros({2, 3}, DType::f64))), DTypeError);
  CHECK_THROWS_WITH_AS(scale(x, INFINITY), "scale: factor: expected a finite number, got inf", Error);
  CHECK_THROWS_WITH_AS(
      silu(Var(Tensor::zeros({2}, DType::i64))), "silu: x: expected f32 or f64, got i64 [2]", DTypeError);
}
