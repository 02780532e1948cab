// tests/autograd/layer_norm_test.cpp -- values, gradients, properties and errors of layer_norm
#include "autograd/ops/layer_norm.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

TEST_CASE("layer_norm/forward/hand_values") {
  // mean 2, biased variance 1
  const Var x(Tensor::from_values(std::vector<double>{1, 3}, {1, 2})),
      gamma(Tensor::from_values(std::vector<double>{2, 3}, {2}));
  const Var beta(Tensor::from_values(std::vector<double>{10, 20}, {2}));
  const double r = 1 / std::sqrt(1 + 1e-5);
  CHECK(layer_norm(x, gamma, {}).value().to_doubles() == std::vector<double>{-r * 2, r * 3});
  CHECK(layer_norm(x, gamma, beta).value().to_doubles() == std::vector<double>{10 - r * 2, 20 + r * 3});
  CHECK(layer_norm(x, gamma, {}, 3).value().to_doubles() == std::vector<double>{-1, 1.5});
}

TEST_CASE("layer_norm/gradient/with_and_without_beta") {
  for (const std::int64_t C : {3, 7, 50}) {
    const Tensor x = random_tensor({3, 2, C}, DType::f64, 1, 3.0), gamma = random_tensor({C}, DType::f64, 2);
    const Tensor beta = random_tensor({C}, DType::f64, 3);
    CHECK(gradient_errors([](const auto& in) { return layer_norm(in[0], in[1], in[2]); }, {x, gamma, beta}) == "");
    CHECK(gradient_errors([](const auto& in) { return layer_norm(in[0], in[1], {}); }, {x, gamma}) == "");
  }
  // One channel: the normalised value is 0 whatever x is.
  const Var x(random_tensor({3, 1}, DType::f64, 1), true), gamma(random_tensor({1}, DType::f64, 2), true);
  layer_norm(x, gamma, {}).backward(random_tensor({3, 1}, DType::f64, 3));
  CHECK(max_abs_diff(x.grad(), Tensor::zeros({3, 1}, DType::f64)) < 1e-12);
  CHECK(gamma.grad().item() == 0);
}

TEST_CASE("layer_norm/property_15/zero_mean_over_channels") {
  const Var x(random_tensor({5, 12}, DType::f64, 1, 4.0)), gamma(Tensor::full({12}, 1, DType::f64));
  const auto y = layer_norm(x, gamma, {}).value().to_doubles();
  for (std::size_t row = 0; row < 5; ++row) {
    double sum = 0, squares = 0;
    for (std::size_t c = 0; c < 12; ++c) {
      sum += y[row * 12 + c];
      squares += y[row * 12 + c] * y[row * 12 + c];
    }
    CHECK(std::abs(sum) < 1e-12);
    CHECK(squares / 12 == doctest::Approx(1).epsilon(1e-4));
  }
}

TEST_CASE("layer_norm/f32/equals_f64_with_zero_gaps") {
  for (const Shape& shape : {Shape{600, 50}, Shape{1, 3}, Shape{0, 8}, Shape{13}}) {
    const Tensor x = random_tensor(shape, DType::f32, 1), gamma = random_tensor({shape.cols()}, DType::f32, 2);
    const Tensor d_out = random_tensor(shape, DType::f32, 3);
    const Var a(x, true), ga(gamma, true), b(x.to(DType::f64), true), gb(gamma.to(DType::f64), true);
    const Var single = layer_norm(a, ga, {}), full = layer_norm(b, gb, {});
    CHECK(rel_l2(single.value(), full.value()) < 1e-6);
    CHECK(gaps_are_zero(single.value()));
    single.backward(d_out);
    full.backward(d_out.to(DType::f64));
    CHECK(rel_l2(a.grad(), b.grad()) < 2e-6);
    CHECK(rel_l2(ga.grad(), gb.grad()) < 2e-6);
    CHECK(gaps_are_zero(a.grad()));
  }
}

TEST_CASE("layer_norm/errors") {
  const Var x(Tensor::zeros({2, 4}));
  CHECK_THROWS_WITH_AS(
      layer_norm(x, Var(Tensor::zeros({3})), {}), "layer_norm: gamma: expected [4], got f32 [3]", ShapeError);
  CHECK_THROWS_AS(layer_norm(x, Var(Tensor::zeros({4})), Var(Tensor::zeros({5}))), ShapeError);
  CHECK_THROWS_AS(layer_norm(x, Var(Tensor::zeros({4}, DType::f64)), {}), DTypeError);
  CHECK_THROWS_AS(layer_norm(Var(Tensor::zeros({2, 0})), Var(Tensor::zeros({0})), {}), ShapeError);
}
