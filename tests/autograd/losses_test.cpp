// tests/autograd/losses_test.cpp -- weighted_mse and cross_entropy: values, gradients, errors
#include <omp.h>

#include <cmath>

#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/weighted_mse.h"
#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

TEST_CASE("weighted_mse/forward/hand_values") {
  const Tensor target = Tensor::zeros({2, 1, 2}), weight = Tensor::from_values(std::vector<float>{2, 10}, {2});
  const Var prediction(Tensor::from_values(std::vector<float>{1, 3, 2, 0}, {2, 1, 2}));
  // clips: mean square 5 and 2; (2 * 5 + 10 * 2) / 2
  CHECK(weighted_mse(prediction, target, weight).value().item() == 15);
  CHECK(weighted_mse(prediction, target, weight.to(DType::f64)).value().item() == 15);
  CHECK(
      weighted_mse(Var(Tensor::from_values(std::vector<float>{1, 3}, {2})), Tensor::zeros({2}), weight)
          .value()
          .item() == 46);
}

TEST_CASE("weighted_mse/gradient") {
  const Tensor weight = random_tensor({3}, DType::f64, 1);
  for (const Shape& shape : {Shape{3, 2, 2, 3}, Shape{3, 1}, Shape{3}, Shape{3, 5, 7}}) {
    const Tensor target = random_tensor(shape, DType::f64, 2);
    CHECK(
        gradient_errors(
            [&](const auto& in) { return weighted_mse(in[0], target, weight); },
            {random_tensor(shape, DType::f64, 3)}) == "");
  }
}

TEST_CASE("weighted_mse/f32/equals_f64_same_bits_for_any_threads") {
  const Shape shape{2, 50, 60, 3};  // several chunks per clip
  const Tensor p = random_tensor(shape, DType::f32, 1), t = random_tensor(shape, DType::f32, 2);
  const Tensor weight = random_tensor({2}, DType::f32, 3);
  const Var single(p, true), full(p.to(DType::f64), true);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Var loss = weighted_mse(single, t, weight), exact = weighted_mse(full, t.to(DType::f64), weight);
  omp_set_num_threads(2);
  CHECK(same_bits(loss.value(), weighted_mse(single, t, weight).value()));
  omp_set_num_threads(before);
  CHECK(rel_l2(loss.value(), exact.value()) < 1e-6);
  loss.backward();
  exact.backward();
  CHECK(rel_l2(single.grad(), full.grad()) < 1e-6);
  CHECK(gaps_are_zero(single.grad()));
}

TEST_CASE("weighted_mse/errors") {
  const Var p(Tensor::zeros({2, 3}));
  CHECK_THROWS_WITH_AS(
      weighted_mse(p, Tensor::zeros({2, 4}), Tensor::zeros({2})), "weighted_mse: target: expected [2,3], got f32 [2,4]",
      ShapeError);
  CHECK_THROWS_AS(weighted_mse(p, Tensor::zeros({2, 3}), Tensor::zeros({3})), ShapeError);
  CHECK_THROWS_AS(weighted_mse(p, Tensor::zeros({2, 3}, DType::f64), Tensor::zeros({2})), DTypeError);
  CHECK_THROWS_AS(weighted_mse(Var(Tensor::zeros({0, 3})), Tensor::zeros({0, 3}), Tensor::zeros({0})), ShapeError);
}

TEST_CASE("cross_entropy/forward/hand_values") {
  const Tensor ids = Tensor::from_values(std::vector<std::int64_t>{1, 0}, {1, 2});
  const Var logits(Tensor::from_values(std::vector<double>{0, std::log(3.0), 1000, 0}, {1, 2, 2}));
  CHECK(cross_entropy(logits, ids).value().item() == doctest::Approx(-std::log(0.75) / 2));
  const Var wrong(Tensor::from_values(std::vector<double>{1000, 0}, {1, 1, 2}));
  CHECK(
      cross_entropy(wrong, Tensor::from_values(std::vector<std::int64_t>{1}, {1, 1})).value().item() ==
      doctest::Approx(1000));
}

TEST_CASE("cross_entropy/gradient") {
  const Tensor ids = Tensor::from_values(std::vector<std::int64_t>{0, 4, 2, 2, 1, 3}, {2, 3});
  CHECK(
      gradient_errors(
          [&](const auto& in) { return cross_entropy(in[0], ids); }, {random_tensor({2, 3, 5}, DType::f64, 1, 3.0)}) ==
      "");
  const Var single(random_tensor({2, 3, 5}, DType::f32, 1), true), full(single.value().to(DType::f64), true);
  cross_entropy(single, ids).backward();
  cross_entropy(full, ids).backward();
  CHECK(rel_l2(single.grad(), full.grad()) < 1e-6);
  CHECK(gaps_are_zero(single.grad()));
}

TEST_CASE("cross_entropy/errors") {
  const Var logits(Tensor::zeros({2, 3, 5}));
  const Tensor ids = Tensor::zeros({2, 3}, DType::i64);
  Tensor bad = ids.clone();
  bad.data<std::int64_t>()[3] = 5;
  CHECK_THROWS_WITH_AS(cross_entropy(logits, bad), "cross_entropy: ids: expected 0 to 4, got 5", ShapeError);
  CHECK_THROWS_AS(cross_entropy(logits, Tensor::zeros({2, 4}, DType::i64)), ShapeError);
  CHECK_THROWS_AS(cross_entropy(logits, Tensor::zeros({2, 3})), DTypeError);
}
