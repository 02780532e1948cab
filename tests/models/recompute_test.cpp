// tests/models/recompute_test.cpp -- activations that are computed again on the way back: the same gradients, less kept
#include <map>

#include "autograd/ops/weighted_mse.h"
#include "models/controlnet.h"
#include "models/unet3d.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

constexpr std::int64_t B = 2, T = 3, H = 8, W = 4;

Unet3dConfig small_unet() {
  return {
      .dim = 6,
      .dim_mults = {1, 2, 2},
      .heads = 2,
      .head_dim = 6,
      .cond_frames = 2,
      .num_actions = 5,
      .in_channels = 9,
      .out_channels = 3};
}

struct Outcome {
  double loss = 0;
  std::map<std::string, Tensor> gradients;
  Tensor d_x;
  std::size_t kept_bytes = 0;  // for the backward pass
};

Outcome run(nn::Recompute what, DType dtype) {
  Unet3d net(small_unet());
  net.initialize(3, dtype);
  net.set_trainable(true);
  net.set_recompute(what);
  const Var x(test::random_tensor({B, T, H, W, 9}, dtype, 1), true, "x");
  const Tensor t = Tensor::from_values(std::vector<std::int64_t>{3, 150}, {B}),
               actions = Tensor::from_values(std::vector<std::int64_t>{0, 1, 4, 2, 2, 3}, {B, T}),
               drop = Tensor::from_values(std::vector<std::int64_t>{0, 1}, {B});
  reset_saved_peak();
  const std::size_t before = saved_stats().bytes;
  const Var loss = weighted_mse(
      net.forward(x, t, actions, drop), test::random_tensor({B, T, H, W, 3}, dtype, 2), Tensor::full({B}, 1, dtype));
  Outcome outcome{.loss = loss.value().item(), .gradients = {}, .d_x = {}, .kept_bytes = saved_stats().bytes - before};
  loss.backward();
  for (auto& [name, tensor] : net.export_gradients()) outcome.gradients.emplace(name, tensor);
  outcome.d_x = x.grad();
  return outcome;
}

}  // namespace

TEST_CASE("recompute/unet/same gradients with less kept") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    CAPTURE(name_of(dtype));
    const double tolerance = dtype == DType::f64 ? 1e-13 : 2e-6;
    const Outcome all = run(nn::Recompute::none, dtype);
    std::size_t kept = all.kept_bytes;
    for (const nn::Recompute what : {nn::Recompute::blocks, nn::Recompute::levels}) {
      CAPTURE(static_cast<int>(what));
      const Outcome some = run(what, dtype);
      CHECK(some.loss == all.loss);
      CHECK(test::rel_l2(some.d_x, all.d_x) < tolerance);
      REQUIRE(some.gradients.size() == all.gradients.size());
      for (const auto& [name, gradient] : all.gradients) {
        CAPTURE(name);
        CHECK(test::rel_l2(some.gradients.at(name), gradient) < tolerance);
      }
      CHECK(static_cast<double>(some.kept_bytes) < 0.8 * static_cast<double>(kept));
      kept = some.kept_bytes;
    }
  }
}

TEST_CASE("recompute/controlnet/gradients pass through a base that forgets") {
  const auto gradients = [](nn::Recompute what) {
    Unet3d base(small_unet());
    base.initialize(3);
    base.set_trainable(false);
    ControlNet control(ControlNetConfig{
        .dim = 6, .dim_mults = {1, 2, 2}, .heads = 2, .head_dim = 6, .cond_frames = 2, .num_actions = 5});
    control.initialize(4);
    control.set_trainable(true);
    for (const nn::NamedParameter& p : control.parameters())  // its zero layers would hide the rest
      if (p.name.find("zero") != std::string::npos || p.name.find("mid") != std::string::npos)
        Var(p.var()).mutable_value().copy_from(test::random_tensor(p.var().shape(), DType::f32, 5, 0.1));
    base.set_recompute(what);
    control.set_recompute(what);
    const Tensor x = test::random_tensor({B, T, H, W, 3}, DType::f32, 6);
    const Var prediction = run_controlled(
                               base, control, x, Tensor::from_values(std::vector<std::int64_t>{3, 150}, {B}),
                               test::random_tensor({B, 2, H, W, 3}, DType::f32, 7),
                               Tensor::from_values(std::vector<std::int64_t>{0, 1, 4, 2, 2, 3}, {B, T}))
                               .prediction;
    weighted_mse(prediction, x, Tensor::full({B}, 1)).backward();
    return control.export_gradients();
  };
  const NamedTensors all = gradients(nn::Recompute::none);
  REQUIRE(!all.empty());
  for (const nn::Recompute what : {nn::Recompute::blocks, nn::Recompute::levels}) {
    const NamedTensors some = gradients(what);
    REQUIRE(some.size() == all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      CAPTURE(all[i].first);
      CHECK(test::max_abs_diff(some[i].second, all[i].second) < 1e-6);
    }
  }
}

TEST_CASE("recompute/setting/words") {
  CHECK(nn::parse_recompute("levels", "key") == nn::Recompute::levels);
  CHECK_THROWS_WITH_AS(
      nn::parse_recompute("all", "train.recompute"), "train.recompute: expected none, blocks or levels, got all",
      ConfigError);
}

}  // namespace avid
