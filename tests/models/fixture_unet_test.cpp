// tests/models/fixture_unet_test.cpp -- pixel.md section 11: base, adapter, AVID, their losses and gradients
#include <map>

#include "autograd/ops/unet_input.h"
#include "diffusion/parameterisation.h"
#include "diffusion/training_loss.h"
#include "models/avid.h"
#include "tests/doctest.h"
#include "tests/models/hash_weights.h"
#include "tests/support.h"

namespace avid {
namespace {

using namespace diffusion;
using test::Row;

const double kNone = std::nan("");

// Sections 11's networks and inputs in one dtype.
struct Fixture {
  explicit Fixture(DType dtype_)
      : dtype(dtype_),
        base(Unet3dConfig{.dim = 16, .dim_mults = {1, 2, 4, 8}, .heads = 2, .head_dim = 32}),
        avid(make_avid_config(AvidVariant::mask, {.dim = 16, .dim_mults = {1, 2, 4, 8}, .heads = 2, .head_dim = 40})) {
    test::set_hash_weights(base, "base.", 32, dtype);
    test::set_hash_weights(avid, "", 40, dtype);  // its names start with "adapter."
    x0 = test::hash_video("input.x0", {2, 3, 4, 16, 16}, 2, dtype);
    noise = test::hash_video("input.noise", {2, 3, 4, 16, 16}, 3, dtype);
    cond = test::hash_video("input.cond", {2, 3, 2, 16, 16}, 2, dtype);
    x_t = q_sample(schedule, x0, noise, t);
  }

  Tensor run_base(const Tensor& with_actions, const Probe& probe = {}) const {
    const NoGrad no_grad;
    return base.forward(unet_input(cond, Var(x_t), {}), t, with_actions, {}, probe).value();
  }
  // Printed digits in f64 (some single elements of the tables differ by a few units of the last one); f32 loses 1e-6 on
  // the way.
  double tolerance() const { return dtype == DType::f64 ? 1.5e-8 : 1e-5; }
  double element_tolerance() const { return dtype == DType::f64 ? 6e-8 : 1e-5; }

  DType dtype;
  Schedule schedule{ScheduleKind::sigmoid, 200};
  Unet3d base;
  Avid avid;
  Tensor t = Tensor::from_values(std::vector<std::int64_t>{3, 150}, {2});
  Tensor actions = Tensor::from_values(std::vector<std::int64_t>{0, 5, 14, 7, 3, 3, 1, 9}, {2, 4});
  Tensor x0, noise, cond, x_t;
};

void check_forward(DType dtype) {
  const Fixture f(dtype);
  const double tol = f.tolerance();
  CHECK(
      test::compare_video(f.x_t, {-0.003483808, 0.613426501, {0.54020875, 0.20713302, 0.72932248}, 0.24766463}, tol) ==
      "");

  const Tensor base = f.run_base({});
  CHECK(
      test::compare_video(base, {0.276296151, 0.405232899, {0.35418214, 1.11059601, 0.64619253}, 0.69304514}, tol) ==
      "");
  const NoGrad no_grad;
  const AvidOutput out = f.avid.forward(f.x_t, f.t, f.cond, f.actions, base);
  CHECK(
      test::compare_video(
          out.adapter.value(), {-0.015041276, 0.318227084, {-0.04850604, 0.21142858, -0.40129507}, 0.58731449}, tol) ==
      "");
  CHECK(
      test::compare_video(
          out.mask, {0.475182200, 0.475182200, {0.56898464, 0.47258732, 0.49602652}, 0.55258486}, tol) == "");
  const Tensor prediction = out.prediction.value();
  CHECK(
      test::compare_video(
          prediction, {0.096804711, 0.238135719, {0.18061735, 0.63636371, 0.11828655}, 0.06993701}, tol) == "");
  Tensor clamped = prediction.clone();
  clamp_to_unit(clamped);
  const Tensor mean = posterior_mean(f.schedule, clamped, f.x_t, f.t);
  CHECK(
      test::compare_video(mean, {0.009670147, 0.540379356, {0.44642364, 0.31907993, 0.56995825}, 0.24320803}, tol) ==
      "");

  const auto loss = [&](const Tensor& output) {
    return training_loss(f.schedule, Objective::pred_x0, LossWeight::snr, Var(output), f.x0, f.noise, f.t)
        .value()
        .item();
  };
  const double loss_tol = dtype == DType::f64 ? 2e-10 : 1e-6;
  CHECK(std::abs(loss(prediction) / 34.10829084 - 1) < loss_tol);
  CHECK(std::abs(loss(base) / 45.15666895 - 1) < loss_tol);
}

}  // namespace

TEST_CASE("fixture/hash/first_values") {
  const std::vector<double> u = test::hash_values("base.init_conv.weight", 3);
  CHECK(u[0] == -0.20312808523885906);
  CHECK(u[1] == -0.31954098236747086);
  CHECK(u[2] == 0.2688638484105468);
}

TEST_CASE("fixture/forward/f64") { check_forward(DType::f64); }
TEST_CASE("fixture/forward/f32") { check_forward(DType::f32); }

TEST_CASE("fixture/intermediate_outputs/base_with_actions") {
  const std::map<std::string, Row> table{
      {"init_conv", {-0.019305172, 0.260625398, {-0.04923919}, -0.36114762}},
      {"init_temporal_attn", {-0.017638977, 0.343054414, {-0.06862244}, -0.39121754}},
      {"time_mlp", {0.005928183, 0.122446100, {0.17614927}, 0.00286678}},
      {"action_mlp", {0.000741094, 0.098060293, {0.02151460}, -0.36790353}},
      {"downs.0.0", {0.226265824, 0.574575685, {0.31959346}, -0.57125557}},
      {"downs.0.1", {0.334515976, 0.699486471, {0.83204128}, -0.68334404}},
      {"downs.0.2", {0.342770634, 0.696926375, {0.81445960}, -0.74174704}},
      {"downs.0.3", {0.371173977, 0.744681461, {0.94005702}, -0.21971608}},
      {"downs.0.4", {-0.074698231, 0.406154784, {-0.14666220}, -0.25874697}},
      {"downs.1.3", {0.418855061, 0.698944277, {2.28916435}, -0.53629587}},
      {"downs.2.3", {0.404802353, 0.708113042, {-0.30716466}, 0.25977951}},
      {"downs.3.3", {0.436306886, 0.743485884, {-0.55872248}, 0.83305093}},
      {"mid_block1", {0.636974615, 0.925886450, {-0.38804491}, 2.66351108}},
      {"mid_spatial_attn", {0.634579592, 0.927796087, {-0.20489888}, 2.63722967}},
      {"mid_temporal_attn", {0.640205255, 0.977664501, {-0.10196841}, 2.82031979}},
      {"mid_block2", {0.914827895, 1.183424539, {-0.26752546}, 2.85905785}},
      {"ups.0.3", {0.285462077, 0.909540383, {-0.68620960}, -1.16538522}},
      {"ups.0.4", {0.009024399, 0.206252128, {0.06822341}, -0.14275960}},
      {"ups.1.3", {0.381125014, 0.779640022, {-0.11796582}, -0.27749818}},
      {"ups.2.3", {0.561765195, 0.858974060, {1.83767082}, 0.22928804}},
      {"ups.3.3", {0.591060958, 0.868401550, {1.18202839}, 1.86611609}},
      {"final_conv.0", {0.154485956, 0.627658561, {-0.32428075}, 0.12942018}},
      {"final_conv.1", {0.280190946, 0.408120168, {0.32853838}, 0.70688789}},
  };
  for (const DType dtype : {DType::f64, DType::f32}) {
    const Fixture f(dtype);
    std::size_t seen = 0;
    const Tensor out = f.run_base(f.actions, [&](std::string_view name, const Tensor& value) {
      const auto row = table.find(std::string(name));
      if (row == table.end()) return;
      ++seen;
      CHECK_MESSAGE(test::compare_video(value, row->second, f.tolerance(), f.element_tolerance()) == "", row->first);
    });
    CHECK(seen == table.size());
    CHECK(
        test::compare_video(
            out, {0.280190946, 0.408120168, {0.32853838, 1.10198097, 0.67109505}, 0.70688789}, f.tolerance()) == "");
  }
}

TEST_CASE("fixture/gradients/avid_loss") {
  const Fixture f(DType::f64);
  const Tensor base = f.run_base({});
  const AvidOutput out = f.avid.forward(f.x_t, f.t, f.cond, f.actions, base);
  training_loss(f.schedule, Objective::pred_x0, LossWeight::snr, out.prediction, f.x0, f.noise, f.t).backward();

  std::map<std::string, double> squares;  // by module
  double all = 0;
  std::map<std::string, std::pair<double, double>> tensors;  // norm, first element
  for (const auto& [name, gradient] : f.avid.export_gradients()) {
    double sum = 0;
    const std::vector<double> values = gradient.to_doubles();
    for (const double v : values) sum += v * v;
    all += sum;
    tensors[name] = {std::sqrt(sum), values[0]};
    if (!name.starts_with("adapter.")) continue;
    const std::string local = name.substr(8);
    std::size_t end = local.find('.');
    if (local.starts_with("downs.") || local.starts_with("ups.")) end = local.find('.', end + 1);
    squares[local.substr(0, end)] += sum;
  }
  const auto near = [](double got, double expected) {
    return std::abs(got - expected) <= 2e-9 * std::abs(expected) + 1e-15;
  };
  const auto near_element = [](double got, double expected) {
    return std::abs(got - expected) <= 2e-8 * std::abs(expected);
  };
  const std::map<std::string, double> norms{
      {"time_rel_pos_bias", 1.143399219e-01},
      {"init_conv", 3.374102942e+01},
      {"init_temporal_attn", 1.055295553e+01},
      {"time_mlp", 1.226558687e+00},
      {"action_emb", 6.984951509e-02},
      {"action_mlp", 8.284335375e-01},
      {"downs.0", 2.550734771e+01},
      {"downs.1", 7.763185067e+00},
      {"downs.2", 3.249199854e+00},
      {"downs.3", 9.311825578e-01},
      {"mid_block1", 3.482250009e-01},
      {"mid_spatial_attn", 3.874161465e-02},
      {"mid_temporal_attn", 6.127480972e-02},
      {"mid_block2", 3.251345714e-01},
      {"ups.0", 1.014911509e+00},
      {"ups.1", 3.637516452e+00},
      {"ups.2", 1.249720882e+01},
      {"ups.3", 4.377422531e+01},
      {"final_conv", 4.859027066e+01}};
  CHECK(squares.size() == norms.size());
  for (const auto& [module, norm] : norms) CHECK_MESSAGE(near(std::sqrt(squares[module]), norm), module);
  CHECK(near(tensors["mixture_conv.weight"].first, 0.314431991));
  CHECK(near(tensors["mixture_conv.bias"].first, 0.899722583));
  CHECK(near(std::sqrt(all), 80.14441009));

  struct TensorRow {
    std::string name;
    double norm, first;
  };
  for (const TensorRow& row : std::vector<TensorRow>{
           {"init_conv.weight", 3.346157989e+01, -3.892153971e-01},
           {"time_rel_pos_bias.relative_attention_bias.weight", 1.143399219e-01, -7.190286177e-02},
           {"action_emb.weight", 6.984951509e-02, 4.523820841e-03},
           {"downs.0.0.mlp.1.weight", 7.599356909e-01, 5.794255385e-04},
           {"downs.0.0.block1.norm.gamma", 9.108217004e-01, 6.835921325e-02},
           {"downs.0.2.fn.fn.to_qkv.weight", 2.361158314e-01, -2.354830944e-04},
           {"downs.0.3.fn.fn.fn.to_qkv.weight", 1.864189239e+00, -3.199809971e-03},
           {"downs.0.3.fn.norm.gamma", 2.474823827e-01, -1.484178620e-01},
           {"downs.0.4.weight", 5.439625908e+00, -5.140593512e-02},
           {"mid_spatial_attn.fn.fn.fn.to_qkv.weight", 3.155165981e-02, 4.930799423e-06},
           {"ups.0.4.weight", 6.569553118e-01, -7.036077193e-04},
           {"final_conv.1.weight", 1.615209360e+01, -3.899206096e-01}}) {
    const auto [norm, first] = tensors.at("adapter." + row.name);
    CHECK_MESSAGE(near(norm, row.norm), row.name);
    CHECK_MESSAGE(near_element(first, row.first), row.name);
  }
}

}  // namespace avid
