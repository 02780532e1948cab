// tests/models/avid_test.cpp -- properties of AVID and its ablations (pixel.md section 9), configuration from tensors
#include "models/avid.h"

#include <cmath>

#include "autograd/ops/weighted_mse.h"
#include "models/pixel_denoiser.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

const Unet3dConfig kTiny{.dim = 8, .dim_mults = {1, 2}, .heads = 1, .head_dim = 16};

Tensor ids(std::vector<std::int64_t> values, const Shape& shape) { return Tensor::from_values(values, shape); }

// A fresh AVID of one variant with random stand-ins for video and base output, f64.
struct Case {
  explicit Case(AvidVariant variant) : avid(make_avid_config(variant, kTiny)) { avid.initialize(3, DType::f64); }
  AvidOutput run() const { return avid.forward(x_t, t, cond, actions, base); }
  // The adapter's colours, without the mask logit.
  std::vector<double> adapter_colours(const AvidOutput& out) const {
    const std::vector<double> raw = out.adapter.value().to_doubles();
    const auto width = static_cast<std::size_t>(out.adapter.dim(4));
    std::vector<double> colours;
    for (std::size_t i = 0; i < raw.size(); ++i)
      if (i % width < 3) colours.push_back(raw[i]);
    return colours;
  }
  void set_mixture(const char* name, double value) {
    for (const nn::NamedParameter& p : avid.parameters()) {
      if (p.name != std::string("mixture_conv.") + name) continue;
      Var var = p.var();
      var.mutable_value().fill(value);
    }
  }

  Avid avid;
  Tensor x_t = test::random_tensor({2, 3, 8, 8, 3}, DType::f64, 1),
         base = test::random_tensor({2, 3, 8, 8, 3}, DType::f64, 2);
  Tensor cond = test::random_tensor({2, 2, 8, 8, 3}, DType::f64, 3);
  Tensor t = ids({3, 150}, {2}), actions = ids({0, 5, 14, 7, 3, 3}, {2, 3});
};

}  // namespace

TEST_CASE("avid/property_29/fresh_mask_is_half") {
  for (const AvidVariant variant : {AvidVariant::mask, AvidVariant::no_conditioning}) {
    const Case c(variant);
    CHECK(c.avid.config().adapter.in_channels == (variant == AvidVariant::mask ? 12 : 9));
    const AvidOutput out = c.run();
    for (const double m : out.mask.to_doubles()) CHECK(m == 0.5);
    const std::vector<double> base = c.base.to_doubles(), adapter = c.adapter_colours(out),
                              got = out.prediction.value().to_doubles();
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == 0.5 * base[i] + 0.5 * adapter[i]);
  }
}

TEST_CASE("avid/property_29/fresh_no_mask_is_base") {
  const Case c(AvidVariant::no_mask);
  const AvidOutput out = c.run();
  CHECK(test::same_bits(out.prediction.value(), c.base));
  CHECK_FALSE(out.mask.defined());
  CHECK(out.adapter.dim(4) == 3);
}

TEST_CASE("avid/property_30/first_backward_pass") {
  const Case c(AvidVariant::mask);
  const Tensor target = test::random_tensor(c.x_t.shape(), DType::f64, 9);
  weighted_mse(c.run().prediction, target, Tensor::full({2}, 1.0, DType::f64)).backward();
  std::map<std::string, std::vector<double>> gradients;
  for (const auto& [name, tensor] : c.avid.export_gradients()) gradients[name] = tensor.to_doubles();

  const auto& head = gradients.at("adapter.final_conv.1.weight");  // [4,8,1,1,1], mask row last
  for (std::size_t i = 0; i < 24; ++i) CHECK(head[i] != 0);
  for (std::size_t i = 24; i < 32; ++i) CHECK(head[i] == 0);
  CHECK(gradients.at("adapter.final_conv.1.bias")[3] == 0);
  CHECK(gradients.at("mixture_conv.weight")[0] != 0);
  CHECK(gradients.at("mixture_conv.bias")[0] != 0);
  CHECK_FALSE(gradients.contains("adapter.null_action_emb"));
  CHECK(gradients.size() + 1 == c.avid.parameters().size());
  const auto& table = gradients.at("adapter.action_emb.weight");  // [15,8]
  for (std::size_t row = 0; row < 15; ++row) {
    const bool occurs = row == 0 || row == 5 || row == 14 || row == 7 || row == 3;
    CHECK((table[row * 8] != 0) == occurs);
  }
}

TEST_CASE("avid/property_31/saturated_masks") {
  Case c(AvidVariant::mask);
  c.set_mixture("bias", 30);
  CHECK(test::max_abs_diff(c.run().prediction.value(), c.base) < 1e-6);
  c.set_mixture("bias", -30);
  const AvidOutput out = c.run();
  const std::vector<double> adapter = c.adapter_colours(out), got = out.prediction.value().to_doubles();
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(std::abs(got[i] - adapter[i]) < 1e-6);
}

TEST_CASE("avid/property_32/who_sees_the_actions") {
  Unet3d base_net(kTiny);
  base_net.initialize(1, DType::f64);
  // A base that would follow actions, and remembers what it was asked.
  struct Recording : diffusion::Denoiser {
    explicit Recording(const Unet3d& net) : inner(net, diffusion::Objective::pred_x0, PixelDenoiser::Actions::use) {}
    Tensor predict(const diffusion::DenoiserInput& in) override {
      CHECK_FALSE(in.actions.defined());
      return answer = inner.predict(in);
    }
    diffusion::Objective objective() const override { return inner.objective(); }
    PixelDenoiser inner;
    Tensor answer;
  } base(base_net);
  Case c(AvidVariant::mask);
  AvidDenoiser avid(base, c.avid);
  diffusion::DenoiserInput input{.x_t = c.x_t, .t = c.t, .cond = c.cond, .actions = c.actions};
  const Tensor before = avid.predict(input), base_before = base.answer;
  CHECK(avid.objective() == diffusion::Objective::pred_x0);
  CHECK(avid.last_mask().shape() == Shape({2, 3, 8, 8, 1}));

  input.actions = ids({0, 5, 2, 7, 3, 3}, {2, 3});  // another action for frame 2 of clip 0
  const Tensor after = avid.predict(input);
  CHECK(test::same_bits(base.answer, base_before));
  CHECK(test::same_bits(after.select(1), before.select(1)));
  // Through FiLM the frame itself, through the temporal attentions also the others.
  for (std::int64_t t = 0; t < 3; ++t)
    CHECK_FALSE(test::same_bits(after.select(0).slice(t, t + 1), before.select(0).slice(t, t + 1)));

  // Without any temporal attention only that frame.
  for (const nn::NamedParameter& p : c.avid.parameters()) {
    if (!p.name.ends_with("fn.fn.fn.to_out.weight")) continue;
    Var var = p.var();
    var.mutable_value().fill(0);
  }
  const Tensor still_after = avid.predict(input);
  input.actions = c.actions;
  const Tensor still_before = avid.predict(input);
  for (std::int64_t t = 0; t < 3; ++t)
    CHECK(test::same_bits(still_after.select(0).slice(t, t + 1), still_before.select(0).slice(t, t + 1)) == (t != 2));
}

TEST_CASE("avid/property_34/base_stays_bit_identical") {
  Unet3d base_net(kTiny);
  base_net.initialize(1, DType::f64);  // trainable on purpose: AVID must not reach it even so
  PixelDenoiser base(base_net, diffusion::Objective::pred_x0, PixelDenoiser::Actions::ignore);
  const NamedTensors before = base_net.export_tensors();
  Case c(AvidVariant::mask);
  const Tensor target = test::random_tensor(c.x_t.shape(), DType::f64, 9), weight = Tensor::full({2}, 1.0, DType::f64);
  double first = 0, last = 0;
  for (int update = 0; update < 3; ++update) {
    c.base = base.predict({.x_t = c.x_t, .t = c.t, .cond = c.cond, .actions = {}});
    const Var loss = weighted_mse(c.run().prediction, target, weight);
    (update == 0 ? first : last) = loss.value().item();
    loss.backward();
    for (const nn::NamedParameter& p : c.avid.parameters()) {  // plain gradient descent
      Var var = p.var();
      if (!var.grad().defined()) continue;
      const Tensor gradient = var.grad();
      Tensor& value = var.mutable_value();
      for (std::int64_t i = 0; i < value.rows() * value.pitch(); ++i)
        value.data<double>()[i] -= 0.01 * gradient.data<double>()[i];
    }
    c.avid.zero_grad();
  }
  CHECK(last < first);
  CHECK(base_net.export_gradients().empty());
  const NamedTensors after = base_net.export_tensors();
  for (std::size_t i = 0; i < before.size(); ++i) CHECK(test::same_bits(before[i].second, after[i].second));
}

TEST_CASE("avid/mask_stats/small_example") {
  const MaskStats stats = mask_stats(Tensor::from_values(std::vector<float>{0.0f, 0.25f, 0.5f, 1.0f}, {2, 1, 2, 1, 1}));
  CHECK(stats.mean == 0.4375);
  CHECK(stats.std == doctest::Approx(std::sqrt((0.19140625 + 0.03515625 + 0.00390625 + 0.31640625) / 3)));
  CHECK(stats.min == 0);
  CHECK(stats.max == 1);
}

TEST_CASE("avid/infer/variant_from_shapes") {
  const auto tensors = [](AvidVariant variant) {
    Avid avid(make_avid_config(variant, kTiny));
    avid.initialize(1);
    const NamedTensors list = avid.export_tensors();
    return nn::TensorMap(list.begin(), list.end());
  };
  for (const AvidVariant variant : {AvidVariant::mask, AvidVariant::no_mask, AvidVariant::no_conditioning}) {
    for (const std::int64_t cond_frames : {std::int64_t{2}, std::int64_t{-1}}) {  // the base's K, or unknown
      const AvidConfig config = infer_avid_config(tensors(variant), "file", cond_frames);
      CHECK(config.variant == variant);
      CHECK(config.adapter == make_avid_config(variant, kTiny).adapter);
    }
  }
  // With a base of three frames the same 12 channels mean: no base output.
  CHECK(infer_avid_config(tensors(AvidVariant::mask), "file", 3).variant == AvidVariant::no_conditioning);
  CHECK_THROWS_AS(infer_avid_config(tensors(AvidVariant::no_mask), "file", 3), ShapeError);
  CHECK_THROWS_AS(infer_avid_config(tensors(AvidVariant::mask), "file", 5), ConfigError);
}

TEST_CASE("avid/errors/base_of_another_size") {
  Case c(AvidVariant::mask);
  c.base = Tensor::zeros({2, 3, 8, 4, 3}, DType::f64);
  CHECK_THROWS_AS(c.run(), ShapeError);
}

}  // namespace avid
