// tests/autograd/group_norm_silu_test.cpp -- values, gradients and errors of group_norm_silu
#include "autograd/ops/group_norm_silu.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

TEST_CASE("group_norm_silu/forward/hand_values") {
  // Two frames of two pixels with two channels in one group.
  const Var x(Tensor::from_values(std::vector<double>{1, 3, 5, 7, 0, 0, 0, 8}, {1, 2, 1, 2, 2}));
  const Var gamma(Tensor::from_values(std::vector<double>{2, 1}, {2}));
  const Var beta(Tensor::from_values(std::vector<double>{0, 10}, {2}));
  const GroupNormOptions plain{.groups = 1, .eps = 0, .silu = false};
  // frame 0: mean 4, variance 5; frame 1: mean 2, variance 12
  const double a = 1 / std::sqrt(5.0), b = 1 / std::sqrt(12.0);
  const std::vector<double> expected{-6 * a, 10 - a, 2 * a, 10 + 3 * a, -4 * b, 10 - 2 * b, -4 * b, 10 + 6 * b};
  const auto got = group_norm_silu(x, gamma, beta, plain).value().to_doubles();
  const auto activated = group_norm_silu(x, gamma, beta, {.groups = 1, .eps = 0}).value().to_doubles();
  for (std::size_t i = 0; i < 8; ++i) {
    CHECK(got[i] == doctest::Approx(expected[i]).epsilon(1e-12));
    CHECK(activated[i] == doctest::Approx(expected[i] / (1 + std::exp(-expected[i]))).epsilon(1e-12));
  }
  // the clip: mean 3, variance 9.5; two groups of one channel: each alone
  const auto clip =
      group_norm_silu(x, gamma, beta, {.groups = 1, .eps = 0, .scope = GroupNormScope::clip, .silu = false});
  CHECK(clip.value().to_doubles()[3] == doctest::Approx(10 + 4 / std::sqrt(9.5)).epsilon(1e-12));
  const auto channels = group_norm_silu(x, gamma, beta, {.groups = 2, .eps = 0, .silu = false}).value().to_doubles();
  CHECK(channels[0] == doctest::Approx(-2).epsilon(1e-12));
  CHECK(channels[3] == doctest::Approx(11).epsilon(1e-12));
}

TEST_CASE("group_norm_silu/gradient/scopes_and_groups") {
  const Tensor x = random_tensor({2, 2, 1, 3, 6}, DType::f64, 1, 2.0);
  const Tensor gamma = random_tensor({6}, DType::f64, 2), beta = random_tensor({6}, DType::f64, 3);
  for (const std::int64_t groups : {1, 2, 6})
    for (const GroupNormScope scope : {GroupNormScope::frame, GroupNormScope::clip})
      for (const bool silu : {true, false}) {
        CAPTURE(groups);
        const GroupNormOptions options{.groups = groups, .scope = scope, .silu = silu};
        CHECK(
            gradient_errors(
                [&](const auto& in) { return group_norm_silu(in[0], in[1], in[2], options); }, {x, gamma, beta}) == "");
      }
}

TEST_CASE("group_norm_silu/f32/equals_f64_with_zero_gaps") {
  for (const Shape& shape : {Shape{1, 2, 5, 7, 50}, Shape{2, 1, 1, 1, 30}, Shape{0, 2, 3, 3, 10}}) {
    const Tensor x = random_tensor(shape, DType::f32, 1), gamma = random_tensor({shape.cols()}, DType::f32, 2);
    const Tensor beta = random_tensor({shape.cols()}, DType::f32, 3), d_out = random_tensor(shape, DType::f32, 4);
    const Var a(x, true), ga(gamma, true), ba(beta, true);
    const Var b(x.to(DType::f64), true), gb(gamma.to(DType::f64), true), bb(beta.to(DType::f64), true);
    const GroupNormOptions options{.groups = 10};
    const Var single = group_norm_silu(a, ga, ba, options), full = group_norm_silu(b, gb, bb, options);
    CHECK(rel_l2(single.value(), full.value()) < 1e-6);
    CHECK(gaps_are_zero(single.value()));
    single.backward(d_out);
    full.backward(d_out.to(DType::f64));
    CHECK(rel_l2(a.grad(), b.grad()) < 1e-6);
    CHECK(rel_l2(ga.grad(), gb.grad()) < 1e-6);
    CHECK(rel_l2(ba.grad(), bb.grad()) < 1e-6);
    CHECK(gaps_are_zero(a.grad()));
  }
}

TEST_CASE("group_norm_silu/errors") {
  const Var x(Tensor::zeros({1, 1, 2, 2, 6})), ones(Tensor::full({6}, 1));
  CHECK_THROWS_WITH_AS(
      group_norm_silu(x, ones, ones, {.groups = 4}),
      "group_norm_silu: options: expected groups that divide C = 6, got 4", ShapeError);
  CHECK_THROWS_AS(group_norm_silu(x, Var(Tensor::zeros({5})), ones, {.groups = 2}), ShapeError);
  CHECK_THROWS_AS(group_norm_silu(x, ones, Var(Tensor::zeros({6}, DType::f64)), {.groups = 2}), DTypeError);
  CHECK_THROWS_AS(group_norm_silu(Var(Tensor::zeros({2, 6})), ones, ones, {.groups = 2}), ShapeError);
}
