// tests/diffusion/sampler_test.cpp -- DDPM and DDIM with networks whose answer is known
#include "diffusion/sampler.h"

#include <cmath>
#include <limits>

#include "diffusion/parameterisation.h"
#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::diffusion {
namespace {

const Shape kVideo{2, 3, 4, 4, 3};

/// A network made of a function.
class Analytic : public Denoiser {
 public:
  explicit Analytic(std::function<Tensor(const DenoiserInput&)> fn, Objective objective = Objective::pred_x0)
      : fn_(std::move(fn)), objective_(objective) {}
  Tensor predict(const DenoiserInput& input) override {
    asked.push_back(input.t.to_values<std::int64_t>().at(0));
    return fn_(input);
  }
  Objective objective() const override { return objective_; }
  std::vector<std::int64_t> asked;

 private:
  std::function<Tensor(const DenoiserInput&)> fn_;
  Objective objective_;
};

/// A smooth function of x_t, different for every t, far outside [-1,1] here and there.
Tensor wavy(const DenoiserInput& input) {
  Tensor out = input.x_t.clone();
  const auto t = static_cast<float>(input.t.to_values<std::int64_t>().at(0));
  for (std::int64_t r = 0; r < out.rows(); ++r)
    for (std::int64_t c = 0; c < out.cols(); ++c) {
      float& v = out.data<float>()[r * out.pitch() + c];
      v = 1.2f * std::sin(3 * v + 0.1f * t);
    }
  return out;
}

Tensor cond() { return test::random_tensor({2, 2, 4, 4, 3}, DType::f32, 1); }

const Schedule& schedule(std::int64_t steps) {
  static const Schedule all(ScheduleKind::sigmoid, 200), few(ScheduleKind::sigmoid, 20);
  return steps == 200 ? all : few;
}

Tensor run(Denoiser& net, std::int64_t n, SamplerOptions options) {
  return sample(net, schedule(n), cond(), {}, 3, options);
}

/// Normal noise that depends on `salt` for all draws but the first, which is x_T.
auto salted_noise(std::uint64_t salt) {
  return [salt](std::int64_t draw, const Shape& shape, DType dtype) {
    return test::random_tensor(shape, dtype, static_cast<std::uint64_t>(draw) + (draw == 0 ? 0 : salt), 1.7);
  };
}

double largest(const Tensor& x) {
  double worst = 0;
  for (const double v : x.to_doubles()) worst = std::max(worst, std::abs(v));
  return worst;
}

}  // namespace

TEST_CASE("sampler/scalars/values_of_the_specification") {
  const Tensor x = Tensor::full({1, 1, 1, 1, 1}, 0.5, DType::f64), x0 = Tensor::full({1, 1, 1, 1, 1}, 0.25, DType::f64);
  const Tensor one = Tensor::full({1, 1, 1, 1, 1}, 1, DType::f64);
  const Tensor t = Tensor::full({1}, 150, DType::i64);
  const Schedule& s = schedule(200);
  const auto ddim = [&](double eta, const Tensor& z) {
    return ddim_step(s, ddim_factors(s, {150, 100}, eta), x0, x, t, z).item();
  };
  const auto ddpm = [&](const Tensor& z) { return ddpm_step(s, {.value = ddpm_sigma(s, 150)}, x0, x, t, z).item(); };
  CHECK(ddim(0, {}) == doctest::Approx(0.487473836).epsilon(1e-7));
  CHECK(ddim_sigma(s, {150, 100}, 1) == doctest::Approx(0.647856767).epsilon(1e-7));
  CHECK(ddim(1, {}) == doctest::Approx(0.305613679).epsilon(1e-6));
  CHECK(ddim(1, one) == doctest::Approx(0.305613679 + 0.647856767).epsilon(1e-6));
  CHECK(ddpm({}) == doctest::Approx(0.492614772).epsilon(1e-7));
  CHECK(ddpm(one) == doctest::Approx(0.492614772 + 0.180667319).epsilon(1e-7));
}

TEST_CASE("sampler/property_07/ddpm_ends_on_the_clamped_estimate_and_draws_no_noise_at_0") {
  Analytic net(wavy);
  std::vector<std::int64_t> draws;
  SamplerOptions options{.kind = SamplerKind::ddpm};
  options.noise = [&](std::int64_t draw, const Shape& shape, DType dtype) {
    draws.push_back(draw);
    return salted_noise(0)(draw, shape, dtype);
  };
  Tensor last_x0;
  options.on_step = [&](const StepReport& step) {
    CHECK(largest(step.x0_hat) <= 1);
    if (step.t == 0) last_x0 = step.x0_hat;
  };
  const Tensor out = run(net, 200, options);
  CHECK(test::max_abs_diff(out, last_x0) < 1e-6);
  CHECK(largest(out) <= 1);
  CHECK(largest(last_x0) == 1);  // the clamp did something
  REQUIRE(draws.size() == 200);  // x_T and 199 steps
  CHECK(draws.back() == 199);
  CHECK(net.asked.front() == 199);
  CHECK(net.asked.back() == 0);
}

TEST_CASE("sampler/property_08/ddpm_with_a_perfect_network_returns_the_truth") {
  const Tensor truth = test::random_tensor(kVideo, DType::f32, 3);
  Analytic net([&](const DenoiserInput&) { return truth; });
  for (const std::uint64_t salt : {100u, 2000u})
    CHECK(test::max_abs_diff(run(net, 200, {.kind = SamplerKind::ddpm, .noise = salted_noise(salt)}), truth) < 1e-6);
  CHECK(
      test::same_bits(truth, test::random_tensor(kVideo, DType::f32, 3)));  // the network's tensor was not overwritten
  // The same through the other objectives.
  Analytic noise_net(
      [&](const DenoiserInput& in) { return noise_from_x0(schedule(20), truth, in.x_t, in.t); }, Objective::pred_noise);
  CHECK(test::max_abs_diff(run(noise_net, 20, {.kind = SamplerKind::ddpm, .noise = salted_noise(7)}), truth) < 1e-5);
  Analytic v_net(
      [&](const DenoiserInput& in) {
        return regression_target(
            schedule(20), Objective::pred_v, truth, noise_from_x0(schedule(20), truth, in.x_t, in.t), in.t);
      },
      Objective::pred_v);
  CHECK(test::max_abs_diff(run(v_net, 20, {.kind = SamplerKind::ddim, .noise = salted_noise(7)}), truth) < 1e-5);
}

TEST_CASE("sampler/property_09/ddim_without_eta_depends_on_the_first_noise_only") {
  Analytic net(wavy);
  const Tensor a = run(net, 200, {.num_steps = 10, .noise = salted_noise(100)}),
               b = run(net, 200, {.num_steps = 10, .noise = salted_noise(999)});
  CHECK(test::same_bits(a, b));
  const Tensor c = run(net, 200, {.num_steps = 10, .eta = 1, .noise = salted_noise(100)});
  CHECK(test::max_abs_diff(c, run(net, 200, {.num_steps = 10, .eta = 1, .noise = salted_noise(999)})) > 1e-3);
}

TEST_CASE("sampler/property_10/ddim_visits_every_time_and_ends_on_the_estimate") {
  Analytic net(wavy);
  Tensor last_x0;
  SamplerOptions options{.noise = salted_noise(0)};
  options.on_step = [&](const StepReport& step) { last_x0 = step.x0_hat; };
  const Tensor out = run(net, 200, options);
  CHECK(test::same_bits(out, last_x0));
  REQUIRE(net.asked.size() == 200);
  for (std::size_t i = 0; i < 200; ++i) CHECK(net.asked[i] == 199 - static_cast<std::int64_t>(i));
}

TEST_CASE("sampler/property_11/ddim_with_eta_1_has_the_variance_of_ddpm") {
  const Schedule& s = schedule(200);
  for (std::int64_t t = 1; t < 200; ++t) {
    const double sigma = ddim_sigma(s, {t, t - 1}, 1), v = s.f64().posterior_variance[static_cast<std::size_t>(t)];
    CHECK(sigma * sigma == doctest::Approx(v).epsilon(1e-4));  // abar comes from the f32 table
  }
}

TEST_CASE("sampler/noise/does_not_depend_on_the_batch") {
  Analytic net(wavy);
  for (const SamplerKind kind : {SamplerKind::ddpm, SamplerKind::ddim}) {
    const Tensor whole = run(net, 20, {.kind = kind, .eta = kind == SamplerKind::ddim ? 0.5 : 0, .seed = 5});
    const Tensor split =
        run(net, 20, {.kind = kind, .eta = kind == SamplerKind::ddim ? 0.5 : 0, .seed = 5, .batch_clips = 1});
    CHECK(test::same_bits(whole, split));
    CHECK_FALSE(test::same_bits(whole, run(net, 20, {.kind = kind, .seed = 6})));
    // Clip 1 alone, told that it is clip 1.
    const Tensor second = sample(
        net, schedule(20), cond().slice(1, 2), {}, 3,
        {.kind = kind, .eta = kind == SamplerKind::ddim ? 0.5 : 0, .seed = 5, .first_clip = 1});
    CHECK(test::same_bits(second, whole.slice(1, 2)));
  }
}

TEST_CASE("sampler/property_38/classifier_guidance_shifts_the_mean") {
  Analytic net(wavy);
  const Tensor plain = run(net, 20, {.kind = SamplerKind::ddpm, .noise = salted_noise(4)});
  const auto guided = [&](double weight, std::int64_t first_t, std::vector<double>& shifts) {
    Tensor before;
    SamplerOptions options{.kind = SamplerKind::ddpm, .noise = salted_noise(4)};
    options.guidance = {
        .gradient = [](const DenoiserInput& in) { return Tensor::full(in.x_t.shape(), 0.5, in.x_t.dtype()); },
        .weight = weight,
        .first_t = first_t};
    Tensor x_t = salted_noise(4)(0, kVideo, DType::f32);
    options.on_step = [&](const StepReport& step) {
      const Tensor z = step.t == 0 ? Tensor() : salted_noise(4)(step.index + 1, kVideo, DType::f32);
      const Tensor expected = ddpm_step(
          schedule(20), {.value = ddpm_sigma(schedule(20), step.t)}, step.x0_hat, x_t,
          Tensor::full({2}, static_cast<double>(step.t), DType::i64), z);
      shifts.push_back(step.x.to_doubles()[0] - expected.to_doubles()[0]);
      x_t = step.x;
    };
    return run(net, 20, options);
  };
  std::vector<double> none, small, large;
  CHECK(test::same_bits(guided(0, 0, none), plain));
  guided(0.1, 0, small);
  guided(0.2, 5, large);
  REQUIRE(small.size() == 20);
  for (std::size_t i = 0; i < 20; ++i) {
    const std::size_t t = 19 - i;
    const double v = schedule(20).f64().posterior_variance[t];
    CHECK(small[i] == doctest::Approx(t == 0 ? 0 : 0.05 * v).epsilon(1e-3).scale(1e-3));
    CHECK(large[i] == doctest::Approx(t < 5 ? 0 : 0.1 * v).epsilon(1e-3).scale(1e-3));
  }
  SamplerOptions wrong;
  wrong.guidance.gradient = [](const DenoiserInput& in) { return in.x_t; };
  CHECK_THROWS_AS(run(net, 20, wrong), ConfigError);
}

TEST_CASE("sampler/mask/trace_averages_over_batches") {
  class Masked : public Denoiser {
   public:
    Tensor predict(const DenoiserInput& in) override {
      mask_ = Tensor::full(
          in.x_t.shape().with_cols(1), 0.01 * static_cast<double>(in.t.to_values<std::int64_t>().at(0)), DType::f32);
      return in.x_t;
    }
    Objective objective() const override { return Objective::pred_x0; }
    Tensor last_mask() const override { return mask_; }

   private:
    Tensor mask_;
  } net;
  MaskTrace trace;
  SamplerOptions options{.num_steps = 4, .batch_clips = 1};
  options.on_step = [&](const StepReport& step) { trace.add(step); };
  run(net, 20, options);
  REQUIRE(trace.points().size() == 4);
  CHECK(trace.points()[0].t == 19);
  CHECK(trace.points()[0].mean == doctest::Approx(0.19));
  CHECK(trace.points()[3].t == 4);
}

TEST_CASE("sampler/errors/steps_and_values") {
  Analytic net(wavy);
  CHECK_THROWS_AS(run(net, 200, {.kind = SamplerKind::ddpm, .num_steps = 20}), ConfigError);
  CHECK_THROWS_AS(run(net, 200, {.num_steps = 201}), ConfigError);
  CHECK_THROWS_AS(run(net, 200, {.eta = 2}), ConfigError);
  CHECK_THROWS_AS(sample(net, schedule(20), cond(), Tensor::zeros({2, 4}, DType::i64), 3, {}), ShapeError);
  CHECK_THROWS_AS(parse_sampler("euler"), ConfigError);
  Analytic broken(
      [](const DenoiserInput& in) { return Tensor::full(in.x_t.shape(), std::numeric_limits<double>::quiet_NaN()); });
  CHECK_THROWS_WITH_AS(run(broken, 20, {.num_steps = 2}), doctest::Contains("t = 19"), Error);
}

}  // namespace avid::diffusion
