// tests/diffusion/schedule_test.cpp -- schedule tables against the values in pixel.md 1.2 and their identities
#include "diffusion/schedule.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/error.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::diffusion {
namespace {

bool close(double got, double expected, double relative = 1e-6) {
  return std::abs(got - expected) <= relative * std::abs(expected);
}

/// One row of pixel.md 1.2 (sigmoid, N = 200).
struct Row {
  std::size_t t;
  double beta, abar, v, log_v, c1, c2, snr;
};

const Row kRows[] = {
    {0, 1.517817446e-03, 9.984821826e-01, 0, -46.0517006, 1, 0, 6.57840759e+02},
    {1, 1.561839077e-03, 9.969227141e-01, 7.70349812e-04, -7.1686659, 5.07152498e-01, 4.92847174e-01, 3.23961670e+02},
    {2, 1.607072209e-03, 9.953205873e-01, 1.05684646e-03, -6.8524656, 3.42905760e-01, 6.57093644e-01, 2.12702026e+02},
    {10, 2.016199395e-03, 9.808417072e-01, 1.80766126e-03, -6.3157215, 1.04331248e-01, 8.95664394e-01, 5.11967163e+01},
    {50, 5.865218872e-03, 8.458631068e-01, 5.67532238e-03, -5.1716280, 3.50998305e-02, 9.64781463e-01, 5.48773956e+00},
    {99, 1.630051804e-02, 5.000000039e-01, 1.60304084e-02, -4.1332679, 2.32426263e-02, 9.75381255e-01, 1.00000000e+00},
    {100, 1.657062786e-02, 4.917146899e-01, 1.63005181e-02, -4.1165586, 2.30524149e-02, 9.75515187e-01, 9.67399001e-01},
    {150, 3.282851302e-02, 1.442502022e-01, 3.26406807e-02, -3.4221959, 1.48153147e-02, 9.77821887e-01, 1.68565869e-01},
    {190, 1.123778337e-01, 1.524644889e-02, 1.12157553e-01, -2.1878507, 1.49562731e-02, 9.40290272e-01, 1.54825021e-02},
    {197, 3.423771776e-01, 3.077293725e-03, 3.41826946e-01, -1.0734507, 2.34930478e-02, 8.09636235e-01, 3.08679277e-03},
    {198, 5.067662138e-01, 1.517825235e-03, 5.05974710e-01, -0.6812686, 2.81547587e-02, 7.01209188e-01, 1.52013253e-03},
    {199, 9.990000000e-01, 1.517825235e-06, 9.97485220e-01, -0.0025180, 3.89203764e-02, 3.15748267e-02, 1.51782751e-06},
};

std::int64_t num_clipped(const Schedule& s) { return std::count(s.f64().beta.begin(), s.f64().beta.end(), 0.999); }

}  // namespace

TEST_CASE("schedule/property_01/tables_match_the_specification") {
  const Schedule s(ScheduleKind::sigmoid, 200);
  const auto& table = s.f32();
  for (const Row& row : kRows) {
    CAPTURE(row.t);
    CHECK(close(s.f64().beta[row.t], row.beta));
    CHECK(close(s.f64().abar[row.t], row.abar));
    CHECK(close(table.posterior_variance[row.t], row.v));
    CHECK(std::abs(table.posterior_log_variance[row.t] - row.log_v) < 1e-6 * 46);
    CHECK(close(table.posterior_c1[row.t], row.c1));
    CHECK(close(table.posterior_c2[row.t], row.c2));
    CHECK(close(table.snr[row.t], row.snr));
  }
  CHECK(close(table.sqrt_recip_abar[199], 811.687988));
  CHECK(num_clipped(s) == 1);

  const Schedule linear(ScheduleKind::linear, 200), cosine(ScheduleKind::cosine, 200);
  CHECK(close(linear.f64().beta[0], 5e-4, 1e-12));
  CHECK(close(linear.f64().beta[199], 0.1, 1e-12));
  CHECK(close(linear.f64().abar[99], 7.665890494e-02, 1e-9));
  CHECK(close(linear.f64().abar[199], 3.031837167e-05, 1e-9));
  CHECK(num_clipped(linear) == 0);
  CHECK(close(cosine.f64().beta[0], 2.549726364e-04, 1e-9));
  CHECK(close(cosine.f64().abar[99], 4.938435904e-01, 1e-9));
  CHECK(close(cosine.f64().abar[198], 6.071799309e-05, 1e-9));
  CHECK(close(cosine.f64().abar[199], 6.071799309e-08, 1e-9));
  CHECK(num_clipped(cosine) == 1);
}

TEST_CASE("schedule/property_01/tables_are_bitwise_those_of_the_original") {
  const SafetensorsFile file(test::golden("pixel/schedules/expected.safetensors"));
  std::size_t compared = 0;
  const auto same = [&](const std::string& name, const std::vector<float>& table) {
    CAPTURE(name);
    CHECK(file.load(name).to_values<float>() == table);
    ++compared;
  };
  const struct {
    ScheduleKind kind;
    std::int64_t steps;
  } cases[] = {
      {ScheduleKind::sigmoid, 200},
      {ScheduleKind::cosine, 200},
      {ScheduleKind::linear, 200},
      {ScheduleKind::sigmoid, 8}};
  for (const auto& [kind, steps] : cases) {
    const Schedule s(kind, steps);
    const std::string prefix = std::string(name_of(kind)) + "." + std::to_string(steps) + ".";
    same(prefix + "betas", s.f32().beta);
    same(prefix + "alphas_cumprod", s.f32().abar);
    same(prefix + "alphas_cumprod_prev", s.f32().abar_prev);
    same(prefix + "sqrt_alphas_cumprod", s.f32().sqrt_abar);
    same(prefix + "sqrt_one_minus_alphas_cumprod", s.f32().sqrt_one_minus_abar);
    same(prefix + "log_one_minus_alphas_cumprod", s.f32().log_one_minus_abar);
    same(prefix + "sqrt_recip_alphas_cumprod", s.f32().sqrt_recip_abar);
    same(prefix + "sqrt_recipm1_alphas_cumprod", s.f32().sqrt_recipm1_abar);
    same(prefix + "posterior_variance", s.f32().posterior_variance);
    same(prefix + "posterior_log_variance_clipped", s.f32().posterior_log_variance);
    same(prefix + "posterior_mean_coef1", s.f32().posterior_c1);
    same(prefix + "posterior_mean_coef2", s.f32().posterior_c2);
    for (const Objective o : {Objective::pred_noise, Objective::pred_x0, Objective::pred_v}) {
      same(prefix + "loss_weight." + name_of(o), s.loss_weights(o, LossWeight::snr));
      same(prefix + "loss_weight." + name_of(o) + ".min_snr", s.loss_weights(o, LossWeight::min_snr));
    }
  }
  CHECK(compared == file.tensors().size());
}

TEST_CASE("schedule/property_02/first_step_of_the_posterior") {
  for (const ScheduleKind kind : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::sigmoid}) {
    const Schedule s(kind, 200);
    CHECK(s.f32().posterior_c1[0] == doctest::Approx(1).epsilon(1e-7));
    CHECK(s.f32().posterior_c2[0] == 0);
    CHECK(s.f32().posterior_variance[0] == 0);
    CHECK(s.f32().posterior_log_variance[0] == doctest::Approx(std::log(1e-20)).epsilon(1e-7));
  }
}

TEST_CASE("schedule/property_03/posterior_weights_keep_the_noised_mean") {
  for (const ScheduleKind kind : {ScheduleKind::linear, ScheduleKind::cosine, ScheduleKind::sigmoid}) {
    const Schedule s(kind, 200);
    const auto& table = s.f64();
    for (std::size_t t = 0; t < 200; ++t)
      CHECK(
          std::abs(table.posterior_c1[t] + table.posterior_c2[t] * table.sqrt_abar[t] - std::sqrt(table.abar_prev[t])) <
          1e-12);
  }
}

TEST_CASE("schedule/property_13/snr_weights") {
  const Schedule s(ScheduleKind::sigmoid, 200);
  auto weights = s.loss_weights(Objective::pred_x0, LossWeight::snr);
  const double mean = std::accumulate(weights.begin(), weights.end(), 0.0) / 200;
  CHECK(close(mean, 13.60398));
  std::sort(weights.begin(), weights.end(), std::greater<>());
  CHECK(weights[100] == doctest::Approx(0.9674).epsilon(1e-4));  // the lower of the two middle values
  CHECK(
      std::accumulate(weights.begin(), weights.begin() + 5, 0.0) / (200 * mean) == doctest::Approx(0.54).epsilon(0.01));
}

TEST_CASE("schedule/loss_weights/every_objective") {
  const Schedule s(ScheduleKind::sigmoid, 200);
  const auto& snr = s.f64().snr;
  for (const std::size_t t : {0u, 99u, 199u}) {
    const double capped = std::min(snr[t], 5.0);
    CHECK(s.loss_weights(Objective::pred_noise, LossWeight::snr)[t] == 1);
    CHECK(close(s.loss_weights(Objective::pred_v, LossWeight::snr)[t], snr[t] / (snr[t] + 1)));
    CHECK(close(s.loss_weights(Objective::pred_noise, LossWeight::min_snr)[t], capped / snr[t]));
    CHECK(close(s.loss_weights(Objective::pred_x0, LossWeight::min_snr)[t], capped));
    CHECK(close(s.loss_weights(Objective::pred_v, LossWeight::min_snr)[t], capped / (snr[t] + 1)));
    CHECK(s.loss_weights(Objective::pred_x0, LossWeight::none)[t] == 1);
  }
}

TEST_CASE("schedule/property_10/ddim_time_pairs") {
  const auto head = [](std::int64_t steps) {
    const auto pairs = ddim_times(200, steps);
    CHECK(static_cast<std::int64_t>(pairs.size()) == steps);
    for (std::size_t i = 1; i < pairs.size(); ++i) CHECK(pairs[i].t == pairs[i - 1].next);
    return std::vector<std::int64_t>{pairs[0].t, pairs[1].t, pairs.back().t, pairs.back().next};
  };
  CHECK(head(100) == std::vector<std::int64_t>{199, 197, 1, -1});
  CHECK(head(50) == std::vector<std::int64_t>{199, 195, 3, -1});
  CHECK(head(20) == std::vector<std::int64_t>{199, 189, 9, -1});
  CHECK(head(10) == std::vector<std::int64_t>{199, 179, 19, -1});
  const auto all = ddim_times(200, 200);
  for (std::int64_t i = 0; i < 200; ++i) CHECK(all[static_cast<std::size_t>(i)] == TimePair{199 - i, 198 - i});
  CHECK(ddim_times(8, 1) == std::vector<TimePair>{{7, -1}});
}

TEST_CASE("schedule/errors/unknown_names_and_sizes") {
  CHECK_THROWS_AS(parse_schedule("quadratic"), ConfigError);
  CHECK_THROWS_AS(parse_objective("x0"), ConfigError);
  CHECK_THROWS_AS(parse_loss_weight(""), ConfigError);
  CHECK_THROWS_AS(Schedule(ScheduleKind::sigmoid, 0), ConfigError);
  CHECK_THROWS_AS(Schedule(ScheduleKind::linear, 20), ConfigError);
  CHECK_THROWS_AS(ddim_times(200, 201), ConfigError);
  CHECK_THROWS_AS(ddim_times(200, 0), ConfigError);
  CHECK(parse_schedule("cosine") == ScheduleKind::cosine);
  CHECK(parse_objective("pred_v") == Objective::pred_v);
}

}  // namespace avid::diffusion
