// tests/diffusion/training_loss_test.cpp -- the loss of every objective and weight
#include "diffusion/training_loss.h"

#include <cmath>

#include "diffusion/parameterisation.h"
#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::diffusion {
namespace {

const Shape kVideo{3, 2, 4, 5, 3};

struct Fixture {
  Schedule schedule{ScheduleKind::sigmoid, 200};
  Tensor x0 = test::random_tensor(kVideo, DType::f64, 1), noise = test::random_tensor(kVideo, DType::f64, 2, 2.0);
  Tensor output = test::random_tensor(kVideo, DType::f64, 3);
  Tensor t = Tensor::from_values(std::vector<std::int64_t>{3, 150, 60}, {3});
  double loss(Objective objective, LossWeight weight) const {
    return training_loss(schedule, objective, weight, Var(output), x0, noise, t).value().item();
  }
};

/// mean_b w_b mean (p - q)^2, written out.
double by_hand(const Tensor& p, const Tensor& q, const std::vector<double>& w) {
  const auto a = p.to_doubles(), b = q.to_doubles();
  const std::size_t per_clip = a.size() / w.size();
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += w[i / per_clip] * (a[i] - b[i]) * (a[i] - b[i]);
  return sum / static_cast<double>(a.size());
}

}  // namespace

TEST_CASE("training_loss/value/every_objective_and_weight") {
  const Fixture f;
  const auto weights = [&](auto fn) {
    std::vector<double> out;
    for (const std::size_t at : {3u, 150u, 60u}) out.push_back(fn(f.schedule.f64().snr[at]));
    return out;
  };
  const std::vector<double> one{1, 1, 1};
  const Tensor v = regression_target(f.schedule, Objective::pred_v, f.x0, f.noise, f.t);
  CHECK(
      f.loss(Objective::pred_noise, LossWeight::snr) == doctest::Approx(by_hand(f.output, f.noise, one)).epsilon(1e-7));
  CHECK(
      f.loss(Objective::pred_x0, LossWeight::snr) ==
      doctest::Approx(by_hand(f.output, f.x0, weights([](double s) { return s; }))).epsilon(1e-7));
  CHECK(
      f.loss(Objective::pred_v, LossWeight::snr) ==
      doctest::Approx(by_hand(f.output, v, weights([](double s) { return s / (s + 1); }))).epsilon(1e-7));
  CHECK(
      f.loss(Objective::pred_x0, LossWeight::min_snr) ==
      doctest::Approx(by_hand(f.output, f.x0, weights([](double s) { return std::min(s, 5.0); }))).epsilon(1e-7));
  CHECK(f.loss(Objective::pred_x0, LossWeight::none) == doctest::Approx(by_hand(f.output, f.x0, one)).epsilon(1e-7));
}

TEST_CASE("training_loss/property_06/x0_loss_with_snr_is_the_noise_loss") {
  const Fixture f;
  const Tensor x_t = q_sample(f.schedule, f.x0, f.noise, f.t);
  const Tensor noise_hat = noise_from_x0(f.schedule, f.output, x_t, f.t);
  const double as_noise =
      training_loss(f.schedule, Objective::pred_noise, LossWeight::snr, Var(noise_hat), f.x0, f.noise, f.t)
          .value()
          .item();
  CHECK(f.loss(Objective::pred_x0, LossWeight::snr) == doctest::Approx(as_noise).epsilon(1e-5));  // the tables are f32
}

TEST_CASE("training_loss/gradient/of_the_output") {
  const Fixture f;
  const Var output(f.output, true);
  training_loss(f.schedule, Objective::pred_x0, LossWeight::snr, output, f.x0, f.noise, f.t).backward();
  const auto d = output.grad().to_doubles(), o = f.output.to_doubles(), x = f.x0.to_doubles();
  const std::size_t per_clip = d.size() / 3;
  const std::size_t at[] = {3, 150, 60};
  for (std::size_t i = 0; i < d.size(); ++i) {
    const double expected = 2 * f.schedule.f32().snr[at[i / per_clip]] * (o[i] - x[i]) / static_cast<double>(d.size());
    CHECK(d[i] == doctest::Approx(expected).epsilon(1e-6));
  }
}

TEST_CASE("training_loss/errors/time_outside_the_schedule") {
  Fixture f;
  f.t = Tensor::from_values(std::vector<std::int64_t>{0, 1, 200}, {3});
  CHECK_THROWS_AS(f.loss(Objective::pred_x0, LossWeight::snr), ConfigError);
}

}  // namespace avid::diffusion
