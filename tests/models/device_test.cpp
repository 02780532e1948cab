// tests/models/device_test.cpp -- whole networks on a device (the simulator, or a GPU) against the CPU
//
// The CPU path is checked against reference files and differences elsewhere; here the same numbers must come out of the
// device kernels, through every layer, backward pass, optimiser step and sampler step. Nothing may be computed on the
// host on the way: host code cannot touch the device's memory.
#include <cmath>
#include <map>

#include "diffusion/parameterisation.h"
#include "diffusion/sampler.h"
#include "diffusion/training_loss.h"
#include "kernels/device/conv_products.h"
#include "kernels/device/weight_grad_plan.h"
#include "models/audit.h"
#include "models/avid.h"
#include "models/pixel_denoiser.h"
#include "tensor/io/safetensors.h"
#include "tensor/ops/adam.h"
#include "tensor/rng.h"
#include "tests/doctest.h"
#include "tests/sim/arch.h"
#include "tests/support.h"

namespace avid {
namespace {

const Device kDevice = test::device_under_test();

// Two levels, widths and a head width that fill no register (10, 30; 6).
Unet3dConfig micro_unet(std::int64_t dim, std::vector<std::int64_t> dim_mults = {1, 3}) {
  return {
      .dim = dim,
      .dim_mults = std::move(dim_mults),
      .heads = 2,
      .head_dim = 6,
      .cond_frames = 2,
      .num_actions = 5,
      .in_channels = 9,
      .out_channels = 3};
}

struct Outcome {
  std::vector<double> losses, norms;
  std::map<std::string, Tensor> weights, gradients;
  Tensor sample;
};

struct Sizes {
  std::int64_t B = 2, T = 3, H = 4, W = 6;
  Unet3dConfig adapter = micro_unet(10);
};

// Three updates of an adapter on a frozen base, then a sample of it.
Outcome train_and_sample(
    Device device, DType activations, int updates = 3, int sample_steps = 3, const Sizes& sizes = {}) {
  const diffusion::Schedule schedule(diffusion::ScheduleKind::sigmoid, 20);
  Unet3d base(micro_unet(6));
  Avid avid(make_avid_config(AvidVariant::mask, sizes.adapter));
  base.initialize(1);
  avid.initialize(2);
  base.set_trainable(false);
  for (nn::Module* module : {static_cast<nn::Module*>(&base), static_cast<nn::Module*>(&avid)}) {
    module->to(device);
    module->set_activation_dtype(activations);
  }
  PixelDenoiser frozen(base, diffusion::Objective::pred_x0, PixelDenoiser::Actions::ignore);

  const auto [B, T, H, W, config] = sizes;
  const Tensor cond = test::random_tensor({B, 2, H, W, 3}, DType::f32, 3).to(device);
  std::vector<std::int64_t> numbers{0, 1, 4, 2, 2, 3};
  numbers.resize(static_cast<std::size_t>(B * T));
  const Tensor actions = Tensor::from_values(numbers, {B, T});
  const auto parameters = avid.parameters();
  std::vector<Tensor> m, v;
  for (const nn::NamedParameter& p : parameters)
    for (std::vector<Tensor>* moments : {&m, &v})
      moments->push_back(Tensor::zeros(p.var().shape(), DType::f32, device));

  Outcome outcome;
  for (int k = 0; k < updates; ++k) {
    const auto seed = static_cast<std::uint64_t>(10 * k);
    const Tensor x0 = test::random_tensor({B, T, H, W, 3}, DType::f32, seed + 5).to(device);
    Tensor noise = Tensor::empty(x0.shape(), DType::f32, device);
    fill_normal(noise, {.seed = seed, .purpose = RngPurpose::test});
    const Tensor t = Tensor::from_values(std::vector<std::int64_t>{3 + 5 * k, 17 - 4 * k}, {B}).to(device);
    const Tensor drop = Tensor::from_values(std::vector<std::int64_t>{0, k == 1}, {B});
    const Tensor x_t = diffusion::q_sample(schedule, x0, noise, t);
    const Tensor base_output = frozen.predict({x_t, t, cond, {}});
    const AvidOutput out = avid.forward(x_t, t, cond, actions, base_output, drop);
    const Var loss = diffusion::training_loss(
        schedule, diffusion::Objective::pred_x0, diffusion::LossWeight::none, out.prediction, x0, noise, t);
    loss.backward();
    outcome.losses.push_back(loss.value().item());
    std::vector<Tensor> grads;
    for (const nn::NamedParameter& p : parameters) grads.push_back(p.var().grad());
    outcome.norms.push_back(grad_norm(grads).norm);
    if (k == 0)
      for (auto& [name, tensor] : avid.export_gradients()) outcome.gradients.emplace(name, tensor);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      Var leaf = parameters[i].var();
      adam_step(leaf.mutable_value(), leaf.grad(), m[i], v[i], {.lr = 1e-3, .num_steps = k + 1, .grad_scale = 0.5});
    }
    avid.zero_grad();
  }
  for (auto& [name, tensor] : avid.export_tensors()) outcome.weights.emplace(name, tensor);
  if (sample_steps == 0) return outcome;
  AvidDenoiser denoiser(frozen, avid);
  outcome.sample =
      diffusion::sample(denoiser, schedule, cond, actions, T, {.num_steps = sample_steps, .eta = 0.5, .seed = 9})
          .to(Device());
  return outcome;
}

double largest_error(const std::map<std::string, Tensor>& got, const std::map<std::string, Tensor>& expected) {
  double worst = 0;
  std::string worst_name;
  for (const auto& [name, reference] : expected) {
    const double error = got.contains(name) ? test::rel_l2(got.at(name), reference) : INFINITY;
    if (!(error <= worst)) {
      worst = error;
      worst_name = name;
    }
  }
  CAPTURE(worst_name);
  CHECK(worst < 1);  // names it when it is far off
  return got.size() == expected.size() ? worst : INFINITY;
}

}  // namespace

TEST_CASE("device/avid/trains and samples as on the CPU") {
  const Outcome cpu = train_and_sample({}, DType::f32), sim = train_and_sample(kDevice, DType::f32);
  REQUIRE(sim.losses.size() == 3);
  for (std::size_t k = 0; k < 3; ++k) {
    CAPTURE(k);
    CHECK(std::abs(sim.losses[k] - cpu.losses[k]) <= 1e-4 * cpu.losses[k]);
    CHECK(std::abs(sim.norms[k] - cpu.norms[k]) <= 1e-4 * cpu.norms[k]);
  }
  CHECK(largest_error(sim.gradients, cpu.gradients) < 1e-4);
  // Adam divides by the gradient's size: where a gradient is nearly zero its sign decides a step of 1e-3.
  CHECK(largest_error(sim.weights, cpu.weights) < 1e-3);
  CHECK(test::max_abs_diff(sim.sample, cpu.sample) < 1e-4);
  CHECK(cpu.losses[0] != cpu.losses[2]);
}

TEST_CASE("device/avid/bf16 agrees with the CPU's emulation") {
  const Outcome f32 = train_and_sample({}, DType::f32, 1, 0), cpu = train_and_sample({}, DType::bf16, 1, 0),
                sim = train_and_sample(kDevice, DType::bf16, 1, 0);
  // Both round at the same places, but sums of different order may round to neighbours.
  CHECK(std::abs(sim.losses[0] - cpu.losses[0]) <= 1e-2 * cpu.losses[0]);
  CHECK(std::abs(cpu.losses[0] - f32.losses[0]) <= 3e-2 * f32.losses[0]);
  CHECK(std::abs(sim.norms[0] - cpu.norms[0]) <= 5e-2 * cpu.norms[0]);
  CHECK(cpu.losses[0] != f32.losses[0]);
}

// As large as it must be for the rules of compute capability 9.0 to take products of warpgroups. The simulator is such
// a device here; a GPU is what it is.
TEST_CASE("device/avid/bf16 of a size for products of warpgroups agrees with the CPU's emulation") {
  if (!test::full_level() && kDevice.kind == DeviceKind::sim) return;  // 30 seconds
  const Sizes sizes{.B = 2, .T = 2, .H = 64, .W = 64, .adapter = micro_unet(40, {1, 1})};
  // Its 3x3 layers at full resolution run on them, in both directions.
  kernels::Conv3dSize layer{.B = 2, .in = {2, 64, 64}, .I = 40, .O = 40, .kernel = {1, 3, 3}, .padding = {0, 1, 1}};
  layer.out = layer.in;
  const auto gradient = kernels::conv_products::weight_grad<bf16>("test", layer, {}, {}, {}, {}, nullptr);
  CHECK(kernels::plan_weight_grad(gradient, kernels::kGradHopper).tile >= kernels::kFirstWgmmaTile);
  kernels::GatherGemm<bf16> product;
  kernels::conv_products::set_axes(product, kernels::conv_products::axes_of("test", layer, false));
  product.source[0].chunks = 5;
  CHECK(kernels::choose_hopper_tile(product, layer.out_positions(), 40) >= kernels::kFirstWgmmaTile);

  const test::OnArch on(90);
  const Outcome cpu = train_and_sample({}, DType::bf16, 1, 0, sizes),
                sim = train_and_sample(kDevice, DType::bf16, 1, 0, sizes);
  CHECK(std::abs(sim.losses[0] - cpu.losses[0]) <= 1e-2 * cpu.losses[0]);
  CHECK(std::abs(sim.norms[0] - cpu.norms[0]) <= 5e-2 * cpu.norms[0]);
  CHECK(largest_error(sim.gradients, cpu.gradients) < 5e-2);
}

// Sampling with other start frames, actions, times and noise in every step; the steps are recorded once.
TEST_CASE("device/graph/a repeated sampling step has the bits of one that is not") {
  const diffusion::Schedule schedule(diffusion::ScheduleKind::sigmoid, 20);
  Unet3d base(micro_unet(4));
  Avid avid(make_avid_config(AvidVariant::mask, micro_unet(6)));
  base.initialize(1);
  avid.initialize(2);
  base.to(kDevice);
  avid.to(kDevice);
  PixelDenoiser frozen(base, diffusion::Objective::pred_x0, PixelDenoiser::Actions::ignore);
  AvidDenoiser denoiser(frozen, avid);
  for (const nn::NamedParameter& p : avid.parameters())  // a fresh mask is 0.5 everywhere
    if (p.name == "mixture_conv.weight") Var(p.var()).mutable_value().fill(3);
  const std::int64_t B = 5, T = 2;
  const Tensor cond = test::random_tensor({B, 2, 2, 2, 3}, DType::f32, 3).to(kDevice);
  const Tensor actions = Tensor::from_values(std::vector<std::int64_t>{0, 1, 4, 2, 2, 3, 1, 1, 0, 3}, {B, T});
  struct Made {
    Tensor videos;
    std::vector<double> masks, estimates;
  };
  const auto run = [&](UseGraph graph, diffusion::SamplerKind kind, double eta) {
    Made made;
    diffusion::SamplerOptions options{
        .kind = kind,
        .num_steps = kind == diffusion::SamplerKind::ddim ? 4 : 0,
        .eta = eta,
        .seed = 9,
        .batch_clips = 2};
    options.graph = graph;
    options.on_step = [&](const diffusion::StepReport& step) {
      made.masks.push_back(step.mask.to_doubles()[1]);
      made.estimates.push_back(step.x0_hat.to_doubles()[5]);
    };
    made.videos =
        diffusion::sample(denoiser, schedule, cond, actions, T, options).to(Device());  // batches of 2, 2 and 1
    return made;
  };
  for (const auto& [kind, eta] :
       {std::pair{diffusion::SamplerKind::ddim, 0.5},
        {diffusion::SamplerKind::ddim, 0.0},
        {diffusion::SamplerKind::ddpm, 0.0}}) {
    CAPTURE(name_of(kind));
    CAPTURE(eta);
    if (eta == 0 && !test::full_level()) continue;
    const Made with = run(UseGraph::on, kind, eta), without = run(UseGraph::off, kind, eta);
    CHECK(test::same_bits(with.videos, without.videos));
    CHECK(with.masks == without.masks);
    CHECK(with.estimates == without.estimates);
    CHECK(with.masks[0] != with.masks[1]);
  }

  // A network that breaks down is noticed after the last step.
  for (const nn::NamedParameter& p : avid.parameters())
    if (p.name == "mixture_conv.bias") Var(p.var()).mutable_value().fill(std::nan(""));
  for (const UseGraph graph : {UseGraph::on, UseGraph::off})
    CHECK_THROWS_WITH_AS(
        run(graph, diffusion::SamplerKind::ddim, 0.0), doctest::Contains("not finite in one of the steps"), Error);
}

TEST_CASE("device/graph/sampling that cannot be recorded says so or goes on without") {
  // Looks at the time on the host, as a network in another process does.
  struct Looking : diffusion::Denoiser {
    Tensor predict(const diffusion::DenoiserInput& input) override {
      return input.t.to(Device()).to_values<std::int64_t>()[0] > 3 ? input.x_t.clone() : Tensor(input.x_t);
    }
    diffusion::Objective objective() const override { return diffusion::Objective::pred_x0; }
  } looking;
  const diffusion::Schedule schedule(diffusion::ScheduleKind::sigmoid, 20);
  const Tensor cond = Tensor::zeros({1, 1, 2, 2, 3}, DType::f32, kDevice);
  std::vector<std::string> said;
  diffusion::SamplerOptions options{.num_steps = 4};
  options.say = [&](const std::string& line) { said.push_back(line); };
  const Tensor plain = diffusion::sample(looking, schedule, cond, {}, 2, options).to(Device());
  options.graph = UseGraph::automatic;
  CHECK(test::same_bits(diffusion::sample(looking, schedule, cond, {}, 2, options).to(Device()), plain));
  REQUIRE(said.size() == 1);
  CHECK(said[0].find("recorded work cannot copy to the host") != std::string::npos);
  options.graph = UseGraph::on;
  CHECK_THROWS_AS(diffusion::sample(looking, schedule, cond, {}, 2, options), DeviceError);
  CHECK_THROWS_WITH_AS(
      diffusion::sample(looking, schedule, cond.to(Device()), {}, 2, options),
      doctest::Contains("graph: expected auto or off, got on"), ConfigError);
}

TEST_CASE("device/golden/avid_mask on the simulator") {
  AuditRequest request;
  request.base = test::golden("pixel/avid_mask/base.safetensors");
  request.adapter = test::golden("pixel/avid_mask/adapter.safetensors");
  request.input = test::golden("pixel/avid_mask/input.safetensors");
  request.device = kDevice;
  const NamedTensors list = audit(request);
  const std::map<std::string, Tensor> outputs(list.begin(), list.end());
  const auto file = open_tensor_file(test::golden("pixel/avid_mask/expected.safetensors"));
  for (const char* name : {"base", "adapter", "mask", "prediction"}) {
    CAPTURE(name);
    CHECK(test::rel_l2(outputs.at(name), file->load(name)) < 5e-6);
  }
  // The weight of the least noisy clip magnifies the prediction's rounding.
  CHECK(std::abs(outputs.at("loss").item() - file->load("loss").item()) < 1e-5 * file->load("loss").item());
}

TEST_CASE("device/checkpoint/moves between devices") {
  Unet3d there(micro_unet(6)), back(micro_unet(6));
  there.initialize(5);
  const NamedTensors before = there.export_tensors();
  there.to(kDevice);
  CHECK(there.device() == kDevice);
  const test::TempDir dir;
  save_safetensors(dir / "a.safetensors", there.export_tensors());
  back.initialize(6);
  const auto file = open_tensor_file(dir / "a.safetensors");
  const NamedTensors loaded = file->load_all();
  back.import_tensors(nn::TensorMap(loaded.begin(), loaded.end()), "a");
  const NamedTensors after = back.export_tensors();
  REQUIRE(after.size() == before.size());
  for (std::size_t i = 0; i < after.size(); ++i) CHECK(test::same_bits(after[i].second, before[i].second));
  // Values imported into a network on a device stay there.
  there.import_tensors(nn::TensorMap(loaded.begin(), loaded.end()), "a");
  CHECK(there.device() == kDevice);
}

}  // namespace avid
