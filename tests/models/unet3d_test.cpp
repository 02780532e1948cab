// tests/models/unet3d_test.cpp -- properties of the U-Net (pixel.md section 9) and its error messages
#include "models/unet3d.h"

#include "autograd/ops/unet_input.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

const Unet3dConfig kTiny{.dim = 8, .dim_mults = {1, 2}, .heads = 2, .head_dim = 16};

Tensor ids(std::vector<std::int64_t> values, const Shape& shape) { return Tensor::from_values(values, shape); }

// A small network and one input, f64.
struct Case {
  explicit Case(const Unet3dConfig& config = kTiny) : net(config) {
    net.initialize(11, DType::f64);
    x_t = test::random_tensor({2, 3, 8, 4, 3}, DType::f64, 1);
    cond = test::random_tensor({2, 2, 8, 4, 3}, DType::f64, 2);
  }
  Tensor run(const Tensor& actions, const Tensor& drop = {}) const {
    const NoGrad no_grad;
    return net.forward(unet_input(cond, Var(x_t), {}), t, actions, drop).value();
  }
  Unet3d net;
  Tensor x_t, cond;
  Tensor t = ids({3, 150}, {2});
  Tensor actions = ids({0, 5, 14, 7, 3, 3}, {2, 3});
};

void set_parameters(const nn::Module& module, std::string_view name_end, double value) {
  for (const nn::NamedParameter& p : module.parameters()) {
    if (!p.name.ends_with(name_end)) continue;
    Var var = p.var();
    var.mutable_value().fill(value);
  }
}

Tensor frame(const Tensor& video, std::int64_t b, std::int64_t t) { return video.select(b).slice(t, t + 1); }

template <class E = Error, class F>
std::string message_of(F&& body) {
  try {
    body();
  } catch (const E& error) {
    return error.what();
  }
  return "(nothing thrown)";
}

}  // namespace

TEST_CASE("unet3d/property_21/frames_are_independent_without_temporal_attention") {
  Case c;
  set_parameters(c.net, "fn.fn.fn.to_out.weight", 0);  // of all temporal (and mid spatial) attentions
  const Tensor before = c.run(c.actions);
  c.x_t = c.x_t.clone();
  Tensor changed = c.x_t.select(0).slice(1, 2);
  changed.copy_from(test::random_tensor({1, 8, 4, 3}, DType::f64, 9));
  const Tensor after = c.run(c.actions);
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::int64_t t = 0; t < 3; ++t)
      CHECK(test::same_bits(frame(before, b, t), frame(after, b, t)) == !(b == 0 && t == 1));
}

TEST_CASE("unet3d/property_23/sizes_and_time_translation") {
  Case c;
  CHECK(c.run(c.actions).shape() == Shape({2, 3, 8, 4, 3}));
  // Moving all frames (and actions) by one in a circle does not move the output.
  const std::vector<double> x = c.x_t.to_doubles();
  const auto rolled = [](const Tensor& v) {
    Tensor result = Tensor::empty(v.shape(), v.dtype());
    const std::int64_t T = v.dim(1);
    for (std::int64_t b = 0; b < v.dim(0); ++b)
      for (std::int64_t t = 0; t < T; ++t) {
        Tensor to = result.select(b).slice((t + 1) % T, (t + 1) % T + 1);
        to.copy_from(v.select(b).slice(t, t + 1));
      }
    return result;
  };
  const Tensor before = c.run({});
  c.x_t = rolled(c.x_t);
  CHECK(test::rel_l2(c.run({}), rolled(before)) > 1e-3);
}

TEST_CASE("unet3d/property_24/action_dropping") {
  Case c;
  const Tensor none = c.run({});
  CHECK(test::rel_l2(c.run(c.actions), none) > 1e-3);
  CHECK(test::rel_l2(c.run(c.actions, ids({1, 1}, {2})), none) < 1e-14);         // dropped everywhere
  CHECK(test::same_bits(c.run(c.actions, ids({0, 0}, {2})), c.run(c.actions)));  // nowhere
  const Tensor one = c.run(c.actions, ids({0, 1}, {2}));                         // whole clips
  CHECK(test::rel_l2(one.select(0), c.run(c.actions).select(0)) < 1e-14);
  CHECK(test::rel_l2(one.select(1), none.select(1)) < 1e-14);
}

TEST_CASE("unet3d/property_26/conditioning_channels_are_colour_major") {
  Case c;
  const Tensor before = c.run({});
  // Swap the two conditioning frames ...
  const Tensor cond = c.cond;
  c.cond = cond.clone();
  for (std::int64_t b = 0; b < 2; ++b) {
    Tensor first = c.cond.select(b).slice(0, 1), second = c.cond.select(b).slice(1, 2);
    first.copy_from(cond.select(b).slice(1, 2));
    second.copy_from(cond.select(b).slice(0, 1));
  }
  CHECK(test::rel_l2(c.run({}), before) > 1e-3);
  // ... and input channels (0,1), (2,3), (4,5) of init_conv.
  for (const nn::NamedParameter& p : c.net.parameters()) {
    if (p.name != "init_conv.weight") continue;
    Var var = p.var();
    Tensor& w = var.mutable_value();  // [O,1,7,7,9]
    for (std::int64_t r = 0; r < w.rows(); ++r)
      for (std::int64_t i = 0; i < 6; i += 2)
        std::swap(w.data<double>()[r * w.pitch() + i], w.data<double>()[r * w.pitch() + i + 1]);
  }
  CHECK(test::rel_l2(c.run({}), before) < 1e-13);
}

TEST_CASE("unet3d/property_39/withheld_actions_do_not_matter") {
  // The state after pretraining: the action table was never used, so its values cannot change what runs without
  // actions.
  Case c;
  const Tensor before = c.run({});
  set_parameters(c.net, "action_emb.weight", 3.5);
  CHECK(test::same_bits(c.run({}), before));
}

TEST_CASE("unet3d/property_20/unused_bias_rows_get_no_gradient") {
  Case c;
  c.x_t = test::random_tensor({1, 8, 4, 4, 3}, DType::f64, 1);
  c.cond = test::random_tensor({1, 2, 4, 4, 3}, DType::f64, 2);
  const Var y = c.net.forward(unet_input(c.cond, Var(c.x_t), {}), ids({7}, {1}), {});
  y.backward(test::random_tensor(y.shape(), DType::f64, 4));
  for (const auto& [name, gradient] : c.net.export_gradients()) {
    if (!name.ends_with("relative_attention_bias.weight")) continue;
    const std::vector<double> g = gradient.to_doubles();
    for (std::size_t row = 0; row < 32; ++row) {
      const bool used = row <= 7 || (row >= 17 && row <= 23);  // T = 8
      CHECK((g[2 * row] != 0) == used);
    }
  }
}

TEST_CASE("unet3d/gradients/action_rows_that_occur") {
  Case c;
  const Var y = c.net.forward(unet_input(c.cond, Var(c.x_t), {}), c.t, c.actions);
  y.backward(test::random_tensor(y.shape(), DType::f64, 4));
  bool null_has_gradient = false;
  for (const auto& [name, gradient] : c.net.export_gradients()) {
    null_has_gradient |= name == "null_action_emb";
    if (name != "action_emb.weight") continue;
    const std::vector<double> g = gradient.to_doubles();
    for (std::int64_t row = 0; row < 15; ++row) {
      const bool occurs = row == 0 || row == 5 || row == 14 || row == 7 || row == 3;
      CHECK((g[static_cast<std::size_t>(row) * 8] != 0) == occurs);
    }
  }
  CHECK_FALSE(null_has_gradient);
}

TEST_CASE("unet3d/sizes/free_widths_levels_and_frames") {
  // One level; uneven multipliers, of which one makes the two inputs of a decoder block as wide as its output; odd T.
  for (const std::vector<std::int64_t>& mults : std::vector<std::vector<std::int64_t>>{{1}, {2, 1}, {1, 3, 2}}) {
    const Unet3d probe_only(
        Unet3dConfig{.dim = 6, .dim_mults = mults, .heads = 1, .head_dim = 6, .cond_frames = 1, .in_channels = 6});
    Unet3d net(probe_only.config());
    net.initialize(1, DType::f64);
    const Tensor cond = test::random_tensor({1, 1, 8, 8, 3}, DType::f64, 1),
                 x = test::random_tensor({1, 5, 8, 8, 3}, DType::f64, 2);
    const Var y = net.forward(unet_input(cond, Var(x), {}), ids({0}, {1}), {});
    CHECK(y.shape() == Shape({1, 5, 8, 8, 3}));
    y.backward(Tensor::full(y.shape(), 1.0, DType::f64));
    CHECK(net.export_gradients().size() + 1 == net.parameters().size());  // all but the action table
  }
}

TEST_CASE("unet3d/f32/close_to_f64") {
  Case c;
  Unet3d single(kTiny);
  const NamedTensors weights = c.net.export_tensors();
  single.import_tensors({weights.begin(), weights.end()}, "f64 weights");
  const NoGrad no_grad;
  const Tensor y =
      single.forward(unet_input(c.cond.to(DType::f32), Var(c.x_t.to(DType::f32)), {}), c.t, c.actions).value();
  CHECK(y.dtype() == DType::f32);
  CHECK(test::rel_l2(y.to(DType::f64), c.run(c.actions)) < 5e-6);
}

TEST_CASE("unet3d/infer/configuration_of_its_own_tensors") {
  for (const Unet3dConfig& config :
       {kTiny,
        Unet3dConfig{
            .dim = 10,
           .dim_mults = {1, 3, 2},
           .heads = 3,
           .head_dim = 40,
           .cond_frames = 1,
           .num_actions = 7,
           .in_channels = 6},
        Unet3dConfig{.dim = 4, .dim_mults = {2}, .heads = 1, .head_dim = 24, .in_channels = 12, .out_channels = 4}}) {
    Unet3d net(config);
    net.initialize(1);
    const NamedTensors tensors = net.export_tensors();
    const nn::TensorMap map(tensors.begin(), tensors.end());
    CHECK(infer_unet3d_config(map, "own", config.cond_frames) == config);
    if (!config.sees_base_output()) CHECK(infer_unet3d_config(map, "own") == config);
    CHECK(net.config().sees_base_output() == (config.in_channels == 12));
  }
}

TEST_CASE("unet3d/errors/one_clear_line") {
  const Case c;
  const auto forward = [&](const Shape& x, const Tensor& t, const Tensor& actions) {
    return message_of([&] { c.net.forward(Var(Tensor::zeros(x, DType::f64)), t, actions); });
  };
  CHECK(
      forward({2, 3, 7, 4, 9}, c.t, {}) == "unet3d: x: expected [B,T,H,W,9] with H, W multiples of 2, got [2,3,7,4,9]");
  CHECK(
      forward({2, 3, 8, 4, 12}, c.t, {}) ==
      "unet3d: x: expected [B,T,H,W,9] with H, W multiples of 2, got [2,3,8,4,12]");
  CHECK(forward({2, 3, 8, 4, 9}, ids({1}, {1}), {}) == "unet3d: t: expected [2], got i64 [1]");
  CHECK(
      forward({2, 3, 8, 4, 9}, c.t, ids({0, 0, 15, 0, 0, 0}, {2, 3})) ==
      "unet3d: actions: expected 0..14, got 15 (clip 0, frame 2)");
  CHECK(
      forward({2, 3, 8, 4, 9}, c.t, ids({0, 0, 0, -1, 0, 0}, {2, 3})) ==
      "unet3d: actions: expected 0..14, got -1 (clip 1, frame 0)");
  CHECK(forward({2, 3, 8, 4, 9}, c.t, ids({0, 0}, {2, 1})) == "unet3d: actions: expected [2,3], got i64 [2,1]");

  const auto construct = [](const Unet3dConfig& config) {
    return message_of<ConfigError>([&] { Unet3d net(config); });
  };
  CHECK(construct({.dim = 7}) == "unet3d: dim: expected an even number >= 4, got 7");
  CHECK(construct({.dim_mults = {}}) == "unet3d: dim_mults: expected 1 to 10 levels, got 0");
  CHECK(construct({.head_dim = 5}) == "unet3d: head_dim: expected an even number >= 2, got 5");
  CHECK(
      construct({.in_channels = 10}).find("in_channels: expected 9 (frames and noisy video) or 12") !=
      std::string::npos);
}

}  // namespace avid
