// tests/models/baselines_test.cpp -- properties of the baselines with real networks (pixel.md section 9, 35 to 38)
#include "autograd/ops/elementwise.h"
#include "autograd/ops/unet_input.h"
#include "diffusion/compose.h"
#include "diffusion/parameterisation.h"
#include "diffusion/sampler.h"
#include "models/action_classifier.h"
#include "models/controlnet.h"
#include "models/pixel_denoiser.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

using namespace diffusion;

const Unet3dConfig kTiny{.dim = 8, .dim_mults = {1, 2}, .heads = 1, .head_dim = 16};

Tensor ids(std::vector<std::int64_t> values, const Shape& shape) { return Tensor::from_values(values, shape); }

// Two networks and an input, f32.
struct Case {
  Case() : base_net(kTiny), action_net(kTiny) {
    base_net.initialize(1);
    base_net.set_trainable(false);
    action_net.initialize(2);
  }
  Schedule schedule{ScheduleKind::sigmoid, 200};
  Unet3d base_net, action_net;
  PixelDenoiser base{base_net, Objective::pred_x0, PixelDenoiser::Actions::ignore};
  PixelDenoiser action_model{action_net, Objective::pred_x0, PixelDenoiser::Actions::use};
  DenoiserInput input{
      .x_t = test::random_tensor({2, 3, 8, 8, 3}, DType::f32, 1),
      .t = ids({3, 198}, {2}),
      .cond = test::random_tensor({2, 2, 8, 8, 3}, DType::f32, 2),
      .actions = ids({0, 5, 14, 7, 3, 3}, {2, 3})};
};

void set_parameter(const nn::Module& module, const std::string& name_part, double value) {
  for (const nn::NamedParameter& p : module.parameters()) {
    if (p.name.find(name_part) == std::string::npos) continue;
    Var var = p.var();
    var.mutable_value().fill(value);
  }
}

}  // namespace

TEST_CASE("baselines/property_35/product_of_experts_end_points") {
  Case c;
  ProductOfExperts none(c.schedule, c.base, c.action_model, {.weight = 0}),
      all(c.schedule, c.base, c.action_model, {.weight = 1});
  CHECK(test::max_abs_diff(none.predict(c.input), c.base.predict(c.input)) < 1e-6);
  CHECK(test::max_abs_diff(all.predict(c.input), c.action_model.predict(c.input)) < 1e-6);
  // In noise space, as the paper writes it, the same up to rounding.
  ProductOfExperts some(c.schedule, c.base, c.action_model, {.weight = 0.4});
  const auto noise = [&](const Tensor& x0) { return noise_from_x0(c.schedule, x0, c.input.x_t, c.input.t); };
  const std::vector<double> a = noise(c.base.predict(c.input)).to_doubles(),
                            b = noise(c.action_model.predict(c.input)).to_doubles();
  const std::vector<double> mixed = noise(some.predict(c.input)).to_doubles();
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::abs(mixed[i] - (0.6 * a[i] + 0.4 * b[i])) < 1e-4);
}

TEST_CASE("baselines/property_36/action_guidance_end_points") {
  Case c;
  ActionGuidance none(c.schedule, c.base, c.action_model, {.weight = 0}),
      strong(c.schedule, c.base, c.action_model, {.weight = 3});
  CHECK(test::max_abs_diff(none.predict(c.input), c.base.predict(c.input)) < 1e-6);
  CHECK(test::max_abs_diff(strong.predict(c.input), c.base.predict(c.input)) > 1e-3);
  // An action model that does not use its action codes: both branches agree.
  set_parameter(c.action_net, "action_mlp.2", 0);
  CHECK(test::max_abs_diff(strong.predict(c.input), c.base.predict(c.input)) < 1e-5);
}

TEST_CASE("baselines/property_37/fresh_controlnet_is_the_base") {
  Case c;
  for (const bool copied : {true, false}) {
    ControlNet control({.dim = 8, .dim_mults = {1, 2}, .heads = 1, .head_dim = 16});
    control.initialize(5);
    if (copied) control.copy_from_base(c.base_net);
    const NoGrad no_grad;
    const ControlledOutput out =
        run_controlled(c.base_net, control, c.input.x_t, c.input.t, c.input.cond, c.input.actions);
    CHECK(test::max_abs_diff(out.prediction.value(), c.base.predict(c.input)) == 0);
    CHECK(out.controls.size() == 4);
  }
}

TEST_CASE("baselines/property_37/copy_takes_every_namesake") {
  Case c;
  ControlNet control({.dim = 8, .dim_mults = {1, 2}, .heads = 1, .head_dim = 16});
  control.initialize(5);
  const NamedTensors own = control.export_tensors();
  control.copy_from_base(c.base_net);
  const NamedTensors base_list = c.base_net.export_tensors();
  const nn::TensorMap base(base_list.begin(), base_list.end()), before(own.begin(), own.end());
  std::size_t kept = 0;
  for (const auto& [name, tensor] : control.export_tensors()) {
    const auto found = base.find(name);
    CHECK_MESSAGE(test::same_bits(tensor, found != base.end() ? found->second : before.at(name)), name);
    kept += found == base.end();
  }
  CHECK(kept == 2 + 4 + 4);  // zero_linear_action_mlp, zero_convs, mid_block outputs
}

TEST_CASE("baselines/property_37/fresh_controlnet_smaller_is_not_the_base") {
  Case c;
  ControlNet control({.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 16, .base_dim = 8});
  control.initialize(5);
  const NoGrad no_grad;
  const auto run = [&] {
    return run_controlled(c.base_net, control, c.input.x_t, c.input.t, c.input.cond, c.input.actions)
        .prediction.value();
  };
  CHECK(test::max_abs_diff(run(), c.base.predict(c.input)) > 1e-3);
  for (const nn::NamedParameter& p : control.parameters()) {
    if (!p.name.starts_with("projection_layers.") || !p.name.ends_with(".bias")) continue;
    Var var = p.var();
    var.mutable_value().fill(0);
  }
  CHECK(test::max_abs_diff(run(), c.base.predict(c.input)) == 0);
}

TEST_CASE("baselines/controlnet/trains_the_copy_alone") {
  Case c;
  ControlNet control({.dim = 4, .dim_mults = {1, 2}, .heads = 1, .head_dim = 16, .base_dim = 8});
  control.initialize(5);
  const ControlledOutput out =
      run_controlled(c.base_net, control, c.input.x_t, c.input.t, c.input.cond, c.input.actions);
  out.prediction.backward(test::random_tensor(out.prediction.shape(), DType::f32, 4));
  CHECK(c.base_net.export_gradients().empty());
  CHECK(control.export_gradients().size() + 1 == control.parameters().size());  // all but the null action
}

TEST_CASE("baselines/property_38/classifier_guidance") {
  Case c;
  const Schedule schedule(ScheduleKind::sigmoid, 6);
  ActionClassifier classifier(
      {.dim = 8, .dim_mults = {1, 2}, .heads = 1, .head_dim = 16, .mlp_dim = 12, .image_size = 8});
  classifier.initialize(4);
  CHECK_THROWS_AS(classifier_guidance(classifier, c.input.x_t, c.input.t, c.input.cond, c.input.actions), GraphError);
  classifier.set_trainable(false);

  std::vector<std::int64_t> guided_times;
  const auto run = [&](double weight, std::vector<Tensor>* path) {
    SamplerOptions options{.kind = SamplerKind::ddpm, .seed = 9};
    options.guidance.weight = weight;
    if (weight >= 0) {
      options.guidance.gradient = [&](const DenoiserInput& in) {
        guided_times.push_back(in.t.to_values<std::int64_t>()[0]);
        return classifier_guidance(classifier, in.x_t, in.t, in.cond, c.input.actions).gradient;
      };
    }
    if (path != nullptr) options.on_step = [path](const StepReport& report) { path->push_back(report.x.clone()); };
    return sample(c.base, schedule, c.input.cond, c.input.actions, 3, options);
  };
  std::vector<Tensor> plain, once, twice;
  const Tensor reference = run(-1, &plain);  // no guidance at all
  CHECK(test::same_bits(run(0, nullptr), reference));
  run(0.5, &once);
  run(1.0, &twice);
  // The first step starts from the same noise: its shift is proportional to the weight.
  const std::vector<double> p = plain[0].to_doubles(), a = once[0].to_doubles(), b = twice[0].to_doubles();
  double largest = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    CHECK(std::abs((b[i] - p[i]) - 2 * (a[i] - p[i])) < 2e-6);
    largest = std::max(largest, std::abs(a[i] - p[i]));
  }
  CHECK(largest > 1e-5);
  // v_0 = 0: the last step returns the base's clamped estimate whatever the guidance says.
  Tensor last = c.base.predict({.x_t = once[4], .t = ids({0, 0}, {2}), .cond = c.input.cond, .actions = {}});
  clamp_to_unit(last);
  CHECK(test::max_abs_diff(once[5], last) < 1e-6);
}

TEST_CASE("baselines/classifier/frames_are_joined_in_time") {
  const Tensor cond = test::random_tensor({2, 2, 4, 4, 3}, DType::f32, 1),
               x = test::random_tensor({2, 3, 4, 4, 3}, DType::f32, 2);
  const Tensor joined = join_frames(cond, x);
  CHECK(joined.shape() == Shape({2, 5, 4, 4, 3}));
  CHECK(test::same_bits(joined.select(1).slice(0, 2), cond.select(1)));
  CHECK(test::same_bits(joined.select(0).slice(2, 5), x.select(0)));
  CHECK_THROWS_AS(join_frames(cond, test::random_tensor({2, 3, 4, 8, 3}, DType::f32, 2)), ShapeError);
}

}  // namespace avid
