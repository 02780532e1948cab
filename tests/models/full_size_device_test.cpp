// tests/models/full_size_device_test.cpp -- the networks of the paper, whole, at their sizes, on a GPU against the CPU
//
// The base that is called 97M and AVID with the adapter called 71M (configs/base.toml, configs/avid_71m.toml), one clip
// of 2 + 8 frames of 64x64: prediction, loss and the gradients of one step. Widths of 100 and 800 channels, four levels
// and 40,960 positions reach tiles and sums that small networks do not. On the simulator the same test runs with
// micro networks.
//
// How much may differ is measured on the CPU, each time anew.
//   f32   The measure is what happens when every weight and input moves to a neighbouring number, which changes a sum
//         of products by about 1.4 x 2^-24 of it. An accumulator that takes K terms one by one and rounds each time to
//         nearest errs by about sqrt(K / 24) x 2^-24. Both sides may: 2 sqrt(K / 24) / 1.4 times the measure, with the
//         longest sums here, 9 x 2 x the widest level: 35 times at full size. Tensor cores that cut instead of rounding
//         are not allowed for; neither is a product with TF32's 10 bits, some thousand times the measure.
//   bf16  The measure is the CPU's emulation of the same roundings. Two devices that round at the same places differ
//         from f32 by about the same, and less than half of it is no bf16.
//
// At full size the CPU's part takes about 45 seconds on two cores, six passes there and back.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>

#include "autograd/ops/unet_input.h"
#include "diffusion/parameterisation.h"
#include "diffusion/training_loss.h"
#include "models/avid.h"
#include "models/pixel_denoiser.h"
#include "tensor/rng.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {
namespace {

const Device kDevice = test::device_under_test();
const bool kFullSize = kDevice.kind != DeviceKind::sim;

struct Sizes {
  Unet3dConfig base, adapter;
  std::int64_t frames, size;
};

Sizes sizes() {
  const auto unet = [](std::int64_t dim, std::vector<std::int64_t> dim_mults, std::int64_t heads, std::int64_t width) {
    return Unet3dConfig{.dim = dim, .dim_mults = std::move(dim_mults), .heads = heads, .head_dim = width};
  };
  if (kFullSize) return {unet(100, {1, 2, 4, 8}, 8, 64), unet(90, {1, 2, 4, 8}, 6, 50), 8, 64};
  return {unet(6, {1, 2}, 2, 6), unet(10, {1, 3}, 2, 6), 3, 4};
}

struct Outcome {
  Tensor prediction;
  double loss = 0;
  std::map<std::string, Tensor> gradients;
};

enum class Weights { as_they_are, moved };

/// Every number moves to one of its two neighbours in f32.
void move_to_neighbours(Tensor& t, std::uint64_t seed) {
  Tensor chance = Tensor::empty(t.shape());
  fill_uniform(chance, {.seed = seed}, -1, 1);
  float* values = t.data<float>();
  const float* signs = chance.data<float>();
  for (std::int64_t r = 0; r < t.rows(); ++r)
    for (std::int64_t c = 0; c < t.cols(); ++c)
      if (float& value = values[r * t.pitch() + c]; value != 0)
        value = std::nextafter(value, signs[r * chance.pitch() + c] < 0 ? -1e30f : 1e30f);
}

/// Initial values; what begins at zero (the last layers, the mask) gets some, too, so that gradients reach everything.
void give_values(nn::Module& module, std::uint64_t seed, Weights weights) {
  module.initialize(seed);
  std::uint64_t number = 1000 * seed;
  for (const nn::NamedParameter& p : module.parameters()) {
    Tensor& value = Var(p.var()).mutable_value();
    ++number;
    if (test::max_abs_diff(value, Tensor::zeros(value.shape())) == 0)
      fill_uniform(value, {.seed = number}, -0.05, 0.05);
    if (weights == Weights::moved) move_to_neighbours(value, number + 500);
  }
}

/// One forward and backward pass: of the base alone, or of an adapter on it.
Outcome run(bool adapter, Device device, DType activations, Weights weights = Weights::as_they_are) {
  const Sizes s = sizes();
  Unet3d base(s.base);
  Avid avid(make_avid_config(AvidVariant::mask, s.adapter));
  give_values(base, 1, weights);
  if (adapter) give_values(avid, 2, weights);
  base.set_trainable(!adapter);
  nn::Module& trained = adapter ? static_cast<nn::Module&>(avid) : base;
  for (nn::Module* module : {static_cast<nn::Module*>(&base), adapter ? &trained : nullptr})
    if (module != nullptr) {
      module->to(device);
      module->set_activation_dtype(activations);
    }

  Tensor given[] = {
      test::random_tensor({1, 2, s.size, s.size, 3}, DType::f32, 3),
      test::random_tensor({1, s.frames, s.size, s.size, 3}, DType::f32, 4),
      test::random_tensor({1, s.frames, s.size, s.size, 3}, DType::f32, 5, 1.7)};
  for (Tensor& t : given) {
    if (weights == Weights::moved) move_to_neighbours(t, 6);
    t = t.to(device);
  }
  const auto& [cond, x0, noise] = given;
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(s.frames));
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::int64_t>((7 * i + 3) % 15);
  const Tensor actions = Tensor::from_values(numbers, {1, s.frames});
  const Tensor t = Tensor::from_values(std::vector<std::int64_t>{400}, {1}).to(device);
  const diffusion::Schedule schedule(diffusion::ScheduleKind::sigmoid, 1000);
  const Tensor x_t = diffusion::q_sample(schedule, x0, noise, t);

  Var prediction;
  if (adapter) {
    PixelDenoiser frozen(base, diffusion::Objective::pred_x0, PixelDenoiser::Actions::ignore);
    prediction = avid.forward(x_t, t, cond, actions, frozen.predict({x_t, t, cond, {}}), {}).prediction;
  } else {
    prediction = base.forward(unet_input(cond, Var(x_t), Var()), t, {});
  }
  const Var loss = diffusion::training_loss(
      schedule, diffusion::Objective::pred_x0, diffusion::LossWeight::none, prediction, x0, noise, t);
  loss.backward();
  Outcome outcome{
      .prediction = prediction.value().to(Device()).to(DType::f32), .loss = loss.value().item(), .gradients = {}};
  for (auto& [name, tensor] : trained.export_gradients()) outcome.gradients.emplace(name, tensor.to(Device()));
  return outcome;
}

/// How far two outcomes are apart, relative to the second, in the l2 norm. Infinite for NaN and for missing gradients.
struct Difference {
  double prediction = 0, loss = 0;
  double gradients = 0;  ///< all of them as one vector
  double worst = 0;      ///< of a single one that has at least 1e-4 of the whole norm
  std::string worst_name = "none";

  std::string text() const {
    char line[256];
    std::snprintf(
        line, sizeof(line), "prediction %.2e, loss %.2e, gradients %.2e, worst of them %.2e (%s)", prediction, loss,
        gradients, worst, worst_name.c_str());
    return line;
  }
};

Difference difference(const Outcome& a, const Outcome& b) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Difference d{.prediction = test::rel_l2(a.prediction, b.prediction)};
  const double loss = std::abs(a.loss - b.loss) / std::abs(b.loss);
  d.loss = std::isnan(loss) ? kInfinity : loss;
  if (a.gradients.size() != b.gradients.size()) d.gradients = d.worst = kInfinity;
  struct Own {
    double error = 0, norm = 0;  // relative; itself
  };
  std::map<std::string, Own> all;
  double error = 0, norm = 0;
  for (const auto& [name, reference] : b.gradients) {
    Own& own = all[name];
    for (const double v : reference.to_doubles()) own.norm += v * v;
    own.norm = std::sqrt(own.norm);
    own.error = a.gradients.contains(name) ? test::rel_l2(a.gradients.at(name), reference) : kInfinity;
    if (own.error > 0) error += std::pow(own.error * std::max(own.norm, 1e-30), 2);
    norm += own.norm * own.norm;
  }
  d.gradients = std::max(d.gradients, std::sqrt(error / norm));
  for (const auto& [name, own] : all)
    if (own.norm >= 1e-4 * std::sqrt(norm) && own.error > d.worst) d.worst = own.error, d.worst_name = name;
  return d;
}

/// `found` is at most so many times what was measured.
void check_within(const Difference& found, const Difference& measured, double factor) {
  CHECK(found.prediction <= factor * measured.prediction);
  CHECK(found.gradients <= factor * measured.gradients);
  CHECK(found.worst <= factor * measured.worst);
}

void say(const std::string& line) {
  if (kFullSize) MESSAGE(line);
}

void check_network(bool adapter, std::int64_t parameters) {
  const Sizes s = sizes();
  const Unet3dConfig& net = adapter ? s.adapter : s.base;
  const std::int64_t count =
      adapter ? Avid(make_avid_config(AvidVariant::mask, net)).num_parameters() : Unet3d(net).num_parameters();
  if (kFullSize) CHECK(count == parameters);
  const double terms = 9.0 * 2.0 * static_cast<double>(net.dim * net.dim_mults.back());
  const double factor = 2 * std::sqrt(terms / 24) / 1.4;
  const Outcome cpu = run(adapter, {}, DType::f32), device = run(adapter, kDevice, DType::f32);
  {
    const Difference measured = difference(run(adapter, {}, DType::f32, Weights::moved), cpu),
                     found = difference(device, cpu);
    const std::string line = "f32: neighbouring weights: " + measured.text() + " | device: " + found.text();
    CAPTURE(line);
    say(line);
    CHECK(cpu.gradients.size() > 100);
    CHECK((measured.prediction > 0 && measured.prediction < 1e-5));
    CHECK((measured.gradients > 0 && measured.gradients < 3e-5));
    check_within(found, measured, factor);
    CHECK(found.loss <= 2 * factor * measured.prediction);
  }
  const Difference measured = difference(run(adapter, {}, DType::bf16), cpu),
                   found = difference(run(adapter, kDevice, DType::bf16), device);
  const std::string line = "bf16 from f32: CPU: " + measured.text() + " | device: " + found.text();
  CAPTURE(line);
  say(line);
  CHECK((measured.prediction > 1e-3 && measured.prediction < 5e-2));
  CHECK(measured.gradients < 0.2);
  check_within(found, measured, 2.5);
  CHECK(found.prediction >= 0.5 * measured.prediction);
  CHECK(found.loss <= 2.5 * measured.prediction);
}

}  // namespace

TEST_CASE("full_size/base/prediction, loss and gradients") { check_network(false, 91'975'875); }

TEST_CASE("full_size/avid/prediction, loss and gradients") { check_network(true, 72'241'594); }

}  // namespace avid
