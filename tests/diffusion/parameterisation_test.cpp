// tests/diffusion/parameterisation_test.cpp -- noise, clean video and velocity are consistent with each other
#include "diffusion/parameterisation.h"

#include <cmath>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::diffusion {
namespace {

const Schedule& sigmoid() {
  static const Schedule s(ScheduleKind::sigmoid, 200);
  return s;
}

Tensor times(std::vector<std::int64_t> t) { return Tensor::from_values(t, {static_cast<std::int64_t>(t.size())}); }

/// A video of one pixel.
Tensor pixel(double value) { return Tensor::full({1, 1, 1, 1, 1}, value, DType::f64); }

}  // namespace

TEST_CASE("parameterisation/scalars/values_of_the_specification") {
  const Schedule& s = sigmoid();
  CHECK(q_sample(s, pixel(0.25), pixel(-0.4), times({100})).item() == doctest::Approx(-0.109870583).epsilon(1e-7));
  CHECK(
      regression_target(s, Objective::pred_v, pixel(0.25), pixel(-0.4), times({100})).item() ==
      doctest::Approx(-0.458724815).epsilon(1e-7));
  CHECK(noise_from_x0(s, pixel(0.25), pixel(0.5), times({150})).item() == doctest::Approx(0.437859196).epsilon(1e-7));
  CHECK(posterior_mean(s, pixel(0.25), pixel(0.5), times({150})).item() == doctest::Approx(0.492614772).epsilon(1e-7));
}

TEST_CASE("parameterisation/property_04/conversions_are_inverses") {
  const Shape shape{4, 2, 5, 3, 3};
  const Tensor t = times({0, 10, 150, 198});
  const Tensor x_t = test::random_tensor(shape, DType::f32, 1, 2.0),
               noise = test::random_tensor(shape, DType::f32, 2, 2.0);
  const Tensor x0 = x0_from_output(sigmoid(), Objective::pred_noise, noise, x_t, t);
  CHECK(test::max_abs_diff(noise_from_x0(sigmoid(), x0, x_t, t), noise) < 1e-4);
  CHECK(test::same_bits(x0_from_output(sigmoid(), Objective::pred_x0, x0, x_t, t), x0));
  // v -> x0 -> noise against the closed form n = sqrt(abar) v + sqrt(1 - abar) x_t
  const Tensor v = test::random_tensor(shape, DType::f32, 3);
  const Tensor got = noise_from_x0(sigmoid(), x0_from_output(sigmoid(), Objective::pred_v, v, x_t, t), x_t, t);
  const std::vector<double> vs = v.to_doubles(), xs = x_t.to_doubles(), gs = got.to_doubles();
  const std::size_t per_clip = vs.size() / 4;
  for (std::size_t i = 0; i < vs.size(); ++i) {
    const auto at = static_cast<std::size_t>(t.to_values<std::int64_t>()[i / per_clip]);
    CHECK(
        std::abs(gs[i] - (sigmoid().f64().sqrt_abar[at] * vs[i] + sigmoid().f64().sqrt_one_minus_abar[at] * xs[i])) <
        1e-4);
  }
}

TEST_CASE("parameterisation/property_05/true_velocity_gives_back_x0") {
  const Shape shape{3, 2, 4, 4, 3};
  const Tensor t = times({1, 99, 199});
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor x0 = test::random_tensor(shape, dtype, 4), noise = test::random_tensor(shape, dtype, 5, 2.0);
    const Tensor x_t = q_sample(sigmoid(), x0, noise, t);
    const Tensor v = regression_target(sigmoid(), Objective::pred_v, x0, noise, t);
    CHECK(test::max_abs_diff(x0_from_output(sigmoid(), Objective::pred_v, v, x_t, t), x0) < 1e-6);
    CHECK(test::same_bits(x0_from_output(sigmoid(), Objective::pred_x0, x0, x_t, t), x0));
  }
}

TEST_CASE("parameterisation/property_06/snr_weighted_x0_error_is_the_noise_error") {
  const Shape shape{4, 1, 3, 3, 3};
  const std::vector<std::int64_t> at{0, 50, 150, 198};
  const Tensor t = times(at);
  const Tensor x0 = test::random_tensor(shape, DType::f64, 6), noise = test::random_tensor(shape, DType::f64, 7, 2.0);
  const Tensor x_t = q_sample(sigmoid(), x0, noise, t);
  const Tensor x0_hat = test::random_tensor(shape, DType::f64, 8);
  const auto n_hat = noise_from_x0(sigmoid(), x0_hat, x_t, t).to_doubles(), n = noise.to_doubles();
  const auto clean = x0.to_doubles(), clean_hat = x0_hat.to_doubles();
  for (std::size_t i = 0; i < n.size(); ++i) {
    const double snr = sigmoid().f32().snr[static_cast<std::size_t>(at[i / (n.size() / 4)])];
    const double x0_error = snr * (clean[i] - clean_hat[i]) * (clean[i] - clean_hat[i]),
                 n_error = (n[i] - n_hat[i]) * (n[i] - n_hat[i]);
    CHECK(std::abs(x0_error - n_error) < 1e-4 * (1 + n_error));  // the tables are f32
  }
}

TEST_CASE("parameterisation/gaps/stay_zero_and_dense_inputs_work") {
  const Tensor x = test::random_tensor({2, 2, 3, 3, 3}, DType::f32, 9), t = times({3, 120});
  const Tensor noise = test::random_tensor({2, 2, 3, 3, 3}, DType::f32, 10);
  const Tensor padded = q_sample(sigmoid(), x, noise, t);
  CHECK(test::gaps_are_zero(padded));
  CHECK(test::gaps_are_zero(noise_from_x0(sigmoid(), x, noise, t)));
  // A mapped file is dense: pitch 3 instead of 4.
  const std::vector<std::byte> bytes = noise.to_dense_bytes();
  const Tensor mapped = Tensor::from_storage(
      Storage::borrow(bytes.data(), bytes.size(), std::make_shared<int>(0)), 0, noise.shape(), DType::f32, 3);
  CHECK(test::same_bits(q_sample(sigmoid(), x, mapped, t), padded));
}

TEST_CASE("parameterisation/errors/shapes_types_and_times") {
  const Tensor x = test::random_tensor({2, 1, 2, 2, 3}, DType::f32, 11);
  CHECK_THROWS_AS(
      q_sample(sigmoid(), x, test::random_tensor({2, 1, 2, 2, 4}, DType::f32, 1), times({0, 1})), ShapeError);
  CHECK_THROWS_AS(q_sample(sigmoid(), x, x.to(DType::f64), times({0, 1})), DTypeError);
  CHECK_THROWS_AS(q_sample(sigmoid(), x, x, times({0})), ShapeError);
  CHECK_THROWS_AS(q_sample(sigmoid(), x, x, times({0, 200})), ConfigError);
  CHECK_THROWS_AS(q_sample(sigmoid(), x, x, times({-1, 3})), ConfigError);
}

}  // namespace avid::diffusion
