// tests/autograd/rms_norm_film_silu_test.cpp -- gradients, properties and errors of rms_norm_film_silu
#include "autograd/ops/rms_norm_film_silu.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

namespace {

Var op(const std::vector<Var>& in) { return rms_norm_film_silu(in[0], in[1], in[2], in[3]); }

double mean_square(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return sum / static_cast<double>(v.size());
}

/// silu is invertible where it is increasing; the pre-activation is easier to test on large shifts, where silu(z) = z.
constexpr double kLarge = 50;

}  // namespace

TEST_CASE("rms_norm_film_silu/gradient/with_and_without_film_and_residual") {
  for (const std::int64_t C : {1, 3, 7, 12, 50}) {
    const Shape shape{2, 2, 2, 3, C};
    const Tensor x = random_tensor(shape, DType::f64, 1), gamma = random_tensor({C}, DType::f64, 2);
    const Tensor film = random_tensor({2, 2, 2 * C}, DType::f64, 3), residual = random_tensor(shape, DType::f64, 4);
    CHECK(gradient_errors(op, {x, gamma, film, residual}) == "");
    CHECK(gradient_errors(op, {x, gamma, {}, {}}) == "");
    CHECK(gradient_errors(op, {x, gamma, film, {}}) == "");
    CHECK(gradient_errors(op, {x, gamma, {}, residual}) == "");
  }
}

TEST_CASE("rms_norm_film_silu/gradient/residual_shares_storage") {
  const Var x(random_tensor({1, 1, 2, 2, 4}, DType::f32, 1)), gamma(Tensor::full({4}, 1));
  const Var residual(random_tensor({1, 1, 2, 2, 4}, DType::f32, 2), true);
  const Tensor d_out = random_tensor({1, 1, 2, 2, 4}, DType::f32, 3);
  rms_norm_film_silu(x, gamma, {}, residual).backward(d_out);
  CHECK(residual.grad().shares_storage_with(d_out));
}

TEST_CASE("rms_norm_film_silu/property_14/mean_square_and_scale_invariance") {
  // With shift = 50, out = z = y + 50 up to 1e-20: the normalised values are visible.
  const std::int64_t C = 7;
  const Tensor x = random_tensor({1, 1, 3, 3, C}, DType::f64, 1), gamma = Tensor::full({C}, 1.5, DType::f64);
  Tensor film = Tensor::zeros({1, 1, 2 * C}, DType::f64);
  for (std::int64_t c = 0; c < C; ++c) film.data<double>()[C + c] = kLarge;
  const auto normalised = [&](const Tensor& input) {
    std::vector<double> y = rms_norm_film_silu(Var(input), Var(gamma), Var(film), {}).value().to_doubles();
    for (double& v : y) v -= kLarge;
    return y;
  };
  const std::vector<double> y = normalised(x);
  for (std::size_t row = 0; row < 9; ++row) {
    const std::vector<double> channels(
        y.begin() + static_cast<std::ptrdiff_t>(row * 7), y.begin() + static_cast<std::ptrdiff_t>(row * 7 + 7));
    CHECK(mean_square(channels) == doctest::Approx(1.5 * 1.5).epsilon(1e-9));
  }
  Tensor scaled = x.clone();
  for (std::int64_t i = 0; i < scaled.rows() * scaled.pitch(); ++i) scaled.data<double>()[i] *= 137.0;
  const std::vector<double> again = normalised(scaled);
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(again[i] == doctest::Approx(y[i]).epsilon(1e-9));
}

TEST_CASE("rms_norm_film_silu/property_14/zero_input") {
  const Var x(Tensor::zeros({1, 1, 2, 2, 5}, DType::f64), true), gamma(Tensor::full({5}, 1, DType::f64), true);
  const Var out = rms_norm_film_silu(x, gamma, {}, {});
  CHECK(max_abs_diff(out.value(), Tensor::zeros(x.shape(), DType::f64)) == 0);
  out.backward(random_tensor(x.shape(), DType::f64, 1));
  for (double v : x.grad().to_doubles()) CHECK(std::isfinite(v));
  for (double v : gamma.grad().to_doubles()) CHECK(v == 0);
}

TEST_CASE("rms_norm_film_silu/property_16/zero_film_is_the_identity_and_film_is_per_frame") {
  const Shape shape{2, 3, 2, 2, 6};
  const Var x(random_tensor(shape, DType::f32, 1)), gamma(random_tensor({6}, DType::f32, 2));
  const Tensor zero = Tensor::zeros({2, 3, 12});
  const Tensor without = rms_norm_film_silu(x, gamma, {}, {}).value();
  CHECK(same_bits(rms_norm_film_silu(x, gamma, Var(zero), {}).value(), without));
  Tensor film = zero.clone();
  for (int c = 0; c < 12; ++c) film.data<float>()[4 * film.pitch() + c] = 0.7f;  // clip 1, frame 1
  const auto changed = rms_norm_film_silu(x, gamma, Var(film), {}).value().to_doubles(), same = without.to_doubles();
  for (std::size_t i = 0; i < same.size(); ++i) CHECK((changed[i] != same[i]) == (i / 24 == 4));
}

TEST_CASE("rms_norm_film_silu/errors") {
  const Var x(Tensor::zeros({1, 2, 2, 2, 4})), gamma(Tensor::zeros({4}));
  CHECK_THROWS_WITH_AS(
      rms_norm_film_silu(x, Var(Tensor::zeros({3})), {}, {}), "rms_norm_film_silu: gamma: expected [4], got f32 [3]",
      ShapeError);
  CHECK_THROWS_WITH_AS(
      rms_norm_film_silu(x, gamma, Var(Tensor::zeros({1, 2, 4})), {}),
      "rms_norm_film_silu: film: expected [1,2,8], got f32 [1,2,4]", ShapeError);
  CHECK_THROWS_AS(rms_norm_film_silu(x, gamma, {}, Var(Tensor::zeros({1, 2, 2, 2, 3}))), ShapeError);
  CHECK_THROWS_AS(rms_norm_film_silu(x, Var(Tensor::zeros({4}, DType::f64)), {}, {}), DTypeError);
  CHECK_THROWS_AS(rms_norm_film_silu(Var(Tensor::zeros({2, 4})), gamma, {}, {}), ShapeError);
  const Var f64_gamma(Tensor::zeros({4}, DType::f64));  // bf16 activations go with f32 parameters
  CHECK_THROWS_AS(rms_norm_film_silu(Var(Tensor::zeros({1, 1, 1, 1, 4}, DType::bf16)), f64_gamma, {}, {}), DTypeError);
  CHECK_THROWS_AS(rms_norm_film_silu(Var(Tensor::zeros({1, 1, 1, 1, 4}, DType::i64)), gamma, {}, {}), DTypeError);
}
