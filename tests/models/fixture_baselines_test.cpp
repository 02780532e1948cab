// tests/models/fixture_baselines_test.cpp -- pixel.md section 11: ControlNets, classifier and its guidance
#include "autograd/ops/unet_input.h"
#include "diffusion/parameterisation.h"
#include "models/action_classifier.h"
#include "models/controlnet.h"
#include "tests/doctest.h"
#include "tests/models/hash_weights.h"
#include "tests/support.h"

namespace avid {
namespace {

using namespace diffusion;

struct Inputs {
  explicit Inputs(DType dtype)
      : x0(test::hash_video("input.x0", {2, 3, 4, 16, 16}, 2, dtype)),
        cond(test::hash_video("input.cond", {2, 3, 2, 16, 16}, 2, dtype)),
        x_t(q_sample(schedule, x0, test::hash_video("input.noise", {2, 3, 4, 16, 16}, 3, dtype), t)),
        tolerance(dtype == DType::f64 ? 1.5e-8 : 1e-5) {}

  Schedule schedule{ScheduleKind::sigmoid, 200};
  Tensor t = Tensor::from_values(std::vector<std::int64_t>{3, 150}, {2});
  Tensor actions = Tensor::from_values(std::vector<std::int64_t>{0, 5, 14, 7, 3, 3, 1, 9}, {2, 4});
  Tensor x0, cond, x_t;
  double tolerance;
};

Unet3d& fixture_base(DType dtype) {
  static Unet3d f64(Unet3dConfig{.dim = 16, .dim_mults = {1, 2, 4, 8}, .heads = 2, .head_dim = 32});
  static Unet3d f32(f64.config());
  Unet3d& base = dtype == DType::f64 ? f64 : f32;
  if (!base.has_values()) test::set_hash_weights(base, "base.", 32, dtype);
  return base;
}

}  // namespace

TEST_CASE("fixture/controlnet") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Inputs in(dtype);
    ControlNet control({.dim = 16, .dim_mults = {1, 2, 4, 8}, .heads = 2, .head_dim = 32});
    CHECK(control.num_parameters() == 1836944);
    test::set_hash_weights(control, "control.", 32, dtype);
    const NoGrad no_grad;
    const ControlledOutput out = run_controlled(fixture_base(dtype), control, in.x_t, in.t, in.cond, in.actions);
    CHECK(
        test::compare_video(
            out.prediction.value(), {0.226879783, 0.405150103, {0.27209445, 0.77993966, 0.63530875}, 0.75999126},
            in.tolerance) == "");
    // The other order of the middle outputs is another network, far beyond any tolerance.
    const ControlledOutput natural =
        run_controlled(fixture_base(dtype), control, in.x_t, in.t, in.cond, in.actions, ControlOrder::natural);
    CHECK(test::rel_l2(natural.prediction.value(), out.prediction.value()) > 1e-3);
  }
}

TEST_CASE("fixture/controlnet_smaller") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Inputs in(dtype);
    ControlNet control({.dim = 8, .dim_mults = {1, 2, 4, 8}, .heads = 2, .head_dim = 32, .base_dim = 16});
    CHECK(control.num_parameters() == 538656);
    test::set_hash_weights(control, "control.", 32, dtype);
    const NoGrad no_grad;
    const ControlledOutput out = run_controlled(fixture_base(dtype), control, in.x_t, in.t, in.cond, in.actions);
    CHECK(
        test::compare_video(
            out.prediction.value(), {0.275413780, 0.409045497, {0.31907340, 1.05758493, 0.64714143}, 0.81155124},
            in.tolerance) == "");
    const std::vector<test::Row> rows{{0.018156277, 0.229741841, {0.57814745}, std::nan("")},
                                      {0.038533553, 0.221063836, {-0.08407773}, std::nan("")},
                                      {-0.012835439, 0.246392042, {-0.11795384}, std::nan("")},
                                      {-0.019972480, 0.256829732, {0.04039299}, std::nan("")},
                                      {0.001562371, 0.328386348, {0.32322168}, std::nan("")},
                                      {-0.018091768, 0.386579795, {0.48719249}, std::nan("")}};
    REQUIRE(out.controls.size() == rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i)
      CHECK(test::compare_video(out.controls[i].value(), rows[i], in.tolerance) == "");
  }
}

TEST_CASE("fixture/classifier") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Inputs in(dtype);
    ActionClassifier classifier(
        {.dim = 16, .dim_mults = {1, 2, 4, 8}, .heads = 2, .head_dim = 32, .mlp_dim = 32, .image_size = 16});
    CHECK(classifier.num_parameters() == 1940495);
    test::set_hash_weights(classifier, "cls.", 32, dtype);
    classifier.set_trainable(false);
    const Tensor zero = Tensor::zeros({2}, DType::i64);
    CHECK(
        test::compare_video(
            classifier.forward(Var(join_frames(in.cond, in.x0)), zero).value(),
            {0.037927501, 0.140287146, {0.04871452, -0.22309989, -0.12755606}, -0.10482751}, in.tolerance) == "");
    CHECK(
        test::compare_video(
            classifier.forward(Var(join_frames(in.cond, in.x_t)), in.t).value(),
            {0.033749589, 0.142087373, {0.05356277, -0.22625784, -0.16165677}, -0.14401041}, in.tolerance) == "");

    const Tensor t50 = Tensor::from_values(std::vector<std::int64_t>{50, 50}, {2});
    const ClassifierGuidance guidance = classifier_guidance(classifier, in.x_t, t50, in.cond, in.actions);
    const double relative = dtype == DType::f64 ? 5e-9 : 5e-6;
    CHECK(std::abs(guidance.log_prob / -21.654510416 - 1) < relative);
    const std::vector<double> g = to_channels_first(guidance.gradient).to_doubles();
    double squares = 0, absolute = 0;
    for (const double v : g) squares += v * v, absolute += std::abs(v) / static_cast<double>(g.size());
    CHECK(std::abs(std::sqrt(squares) / 4.724568666e-01 - 1) < relative);
    CHECK(std::abs(absolute / 4.689575746e-03 - 1) < relative);
    const double printed = dtype == DType::f64 ? 6e-10 : 5e-8;  // six decimals of 1e-3
    CHECK(std::abs(g[0] - 1.530562e-03) < printed);
    CHECK(std::abs(g[1] + 3.381550e-03) < printed);
    CHECK(std::abs(g[2] + 1.286255e-03) < printed);
    CHECK(std::abs(g.back() + 1.269820e-04) < printed);
    CHECK(std::abs(in.schedule.f32().posterior_variance[50] / 5.675322376e-03 - 1) < 1e-7);
  }
}

}  // namespace avid
