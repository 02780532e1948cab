// tests/diffusion/compose_test.cpp -- product of experts and action guidance on networks whose answer is known
#include "diffusion/compose.h"

#include "diffusion/parameterisation.h"
#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::diffusion {
namespace {

const Shape kVideo{2, 2, 3, 3, 3};

/// Predicts one fixed video with actions and another without; counts calls.
class Fixed : public Denoiser {
 public:
  Fixed(const Schedule& schedule, Tensor with, Tensor without, Objective objective)
      : schedule_(schedule), with_(std::move(with)), without_(std::move(without)), objective_(objective) {}
  Tensor predict(const DenoiserInput& in) override {
    const Tensor& x0 = in.actions.defined() ? with_ : without_;
    return objective_ == Objective::pred_noise ? noise_from_x0(schedule_, x0, in.x_t, in.t) : x0;
  }
  Objective objective() const override { return objective_; }

 private:
  const Schedule& schedule_;
  Tensor with_, without_;
  Objective objective_;
};

struct Fixture {
  Schedule schedule{ScheduleKind::sigmoid, 200};
  Tensor base = test::random_tensor(kVideo, DType::f32, 1), with = test::random_tensor(kVideo, DType::f32, 2);
  Tensor without = test::random_tensor(kVideo, DType::f32, 3);
  DenoiserInput input{
      test::random_tensor(kVideo, DType::f32, 4), Tensor::from_values(std::vector<std::int64_t>{3, 150}, {2}),
      test::random_tensor({2, 2, 3, 3, 3}, DType::f32, 5), Tensor::zeros({2, 2}, DType::i64)};
  // A base that would answer otherwise if it were given the actions.
  Fixed base_net{schedule, with, base, Objective::pred_x0};
};

}  // namespace

TEST_CASE("compose/property_35/product_of_experts_ends_and_middle") {
  Fixture f;
  for (const Objective objective : {Objective::pred_x0, Objective::pred_noise}) {
    Fixed action(f.schedule, f.with, f.without, objective);
    const auto mix = [&](double w) {
      return ProductOfExperts(f.schedule, f.base_net, action, {.weight = w}).predict(f.input);
    };
    CHECK(test::max_abs_diff(mix(0), f.base) < 1e-6);
    CHECK(test::max_abs_diff(mix(1), f.with) < 1e-5);
    // In noise space, then back.
    const Tensor n_base = noise_from_x0(f.schedule, f.base, f.input.x_t, f.input.t);
    const Tensor n_action = noise_from_x0(f.schedule, f.with, f.input.x_t, f.input.t);
    std::vector<float> values;
    for (std::size_t i = 0; i < n_base.to_doubles().size(); ++i)
      values.push_back(static_cast<float>(0.6 * n_base.to_doubles()[i] + 0.4 * n_action.to_doubles()[i]));
    const Tensor n = Tensor::from_values(values, kVideo);
    CHECK(
        test::max_abs_diff(mix(0.4), x0_from_output(f.schedule, Objective::pred_noise, n, f.input.x_t, f.input.t)) <
        1e-5);
  }
}

TEST_CASE("compose/property_36/action_guidance_falls_back_to_the_base") {
  Fixture f;
  Fixed action(f.schedule, f.with, f.without, Objective::pred_x0),
      indifferent(f.schedule, f.with, f.with, Objective::pred_x0);
  CHECK(test::same_bits(ActionGuidance(f.schedule, f.base_net, action, {.weight = 0}).predict(f.input), f.base));
  CHECK(test::same_bits(ActionGuidance(f.schedule, f.base_net, indifferent, {.weight = 10}).predict(f.input), f.base));
  const auto got = ActionGuidance(f.schedule, f.base_net, action, {.weight = 3}).predict(f.input).to_doubles();
  for (std::size_t i = 0; i < got.size(); ++i)
    CHECK(
        got[i] == doctest::Approx(f.base.to_doubles()[i] + 3 * (f.with.to_doubles()[i] - f.without.to_doubles()[i]))
                      .epsilon(1e-5));
}

TEST_CASE("compose/first_t/early_times_use_the_base") {
  Fixture f;
  Fixed action(f.schedule, f.with, f.without, Objective::pred_x0);
  const Tensor out = ProductOfExperts(f.schedule, f.base_net, action, {.weight = 1, .first_t = 100}).predict(f.input);
  CHECK(test::same_bits(out.slice(0, 1), f.base.slice(0, 1)));  // t = 3
  CHECK(test::same_bits(out.slice(1, 2), f.with.slice(1, 2)));  // t = 150
}

TEST_CASE("compose/errors/actions_are_needed") {
  Fixture f;
  f.input.actions = {};
  Fixed action(f.schedule, f.with, f.without, Objective::pred_x0);
  ProductOfExperts experts(f.schedule, f.base_net, action, {.weight = 0.4});
  ActionGuidance guidance(f.schedule, f.base_net, action, {.weight = 1});
  CHECK_THROWS_AS(experts.predict(f.input), ConfigError);
  CHECK_THROWS_AS(guidance.predict(f.input), ConfigError);
}

}  // namespace avid::diffusion
