// train/cli/world_model.cpp -- what `avid sample` and `avid evaluate` load: a run or weight files, as one Denoiser
#include "train/cli/world_model.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "models/checkpoint.h"
#include "tensor/error.h"
#include "tensor/io/sha256.h"
#include "train/config.h"
#include "train/run_state.h"
#include "train/trainee.h"

namespace avid::cli {
namespace {

using std::filesystem::path;

/// Settings that training wrote beside the weights (Trainer::save); what is not there stays as it is.
struct Hints {
  std::string schedule, objective;
  std::int64_t timesteps = 0, frames = 0, size = 0;

  void take(const path& file) {
    const auto opened = open_tensor_file(file);
    const auto& metadata = opened->metadata();
    const auto text = [&](const char* key, std::string& value) {
      if (const auto found = metadata.find(key); value.empty() && found != metadata.end()) value = found->second;
    };
    const auto number = [&](const char* key, std::int64_t& value) {
      const auto found = metadata.find(key);
      if (value != 0 || found == metadata.end()) return;
      const std::string& digits = found->second;
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
      check<FileError>(
          error == std::errc() && end == digits.data() + digits.size() && value > 0,
          "{}: metadata: {}: expected a positive number, got '{}'", file.string(), key, digits);
    };
    text("avid.schedule", schedule);
    text("avid.objective", objective);
    number("avid.timesteps", timesteps);
    number("avid.frames", frames);
    number("avid.size", size);
  }
};

}  // namespace

void add_model_options(CLI::App* command, ModelFiles& files) {
  CLI::Option* run = command->add_option("--run", files.run, "a folder made by avid train")->type_name("DIR");
  CLI::Option* adapter =
      command->add_option("--adapter", files.adapter, "AVID adapter weights; needs --base")->type_name("F");
  CLI::Option* base =
      command->add_option("--base", files.base, "base model weights, or its run folder")->type_name("F");
  CLI::Option* model =
      command->add_option("--model", files.model, "weights of a U-Net that takes actions itself")->type_name("F");
  adapter->needs(base);
  run->excludes(adapter)->excludes(base)->excludes(model);
  model->excludes(adapter)->excludes(base);
  command->add_option("--schedule", files.schedule, "linear, cosine or sigmoid (default: as trained, else sigmoid)");
  command->add_option("--timesteps", files.timesteps, "diffusion steps N (default: as trained, else 200)")
      ->check(CLI::PositiveNumber);
  command->add_option(
      "--objective", files.objective, "pred_noise, pred_x0 or pred_v (default: as trained, else pred_x0)");
  command->add_option("--device", files.device, "cpu, cuda, cuda:N or sim (the kernel simulator)")
      ->capture_default_str();
  command->add_option("--dtype", files.dtype, "of activations: f32 or bf16 (weights are f32)")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
}

void WorldModel::load_unet(const path& file, const char* role, bool takes_actions, diffusion::Objective objective) {
  unet_ = load_unet3d(file);
  unet_->set_trainable(false);
  unet_->to(device_);
  unet_->set_activation_dtype(activations_);
  check<ConfigError>(
      unet_->config().out_channels == 3,
      "{}: expected a network with 3 output channels, got {} | an adapter goes with --adapter", file.string(),
      unet_->config().out_channels);
  takes_actions_ = takes_actions;
  unet_denoiser_ = std::make_unique<PixelDenoiser>(
      *unet_, objective, takes_actions ? PixelDenoiser::Actions::use : PixelDenoiser::Actions::ignore);
  sources_[role] = file.string();
  sources_[std::string("sha256.") + role] = sha256_of_file(file);
}

void WorldModel::load_adapter(const path& file) {
  avid_ = load_avid(file, DType::f32, unet_->config().cond_frames);
  avid_->set_trainable(false);
  avid_->to(device_);
  avid_->set_activation_dtype(activations_);
  composed_ = std::make_unique<AvidDenoiser>(*unet_denoiser_, *avid_);
  sources_["adapter"] = file.string();
  sources_["sha256.adapter"] = sha256_of_file(file);
}

std::unique_ptr<WorldModel> WorldModel::load(const ModelFiles& files) {
  check<UsageError>(
      !files.run.empty() || !files.base.empty() || !files.model.empty(),
      "no model given | use --run DIR, or --adapter F --base F, or --base F, or --model F");
  path base = files.base, adapter = files.adapter, model = files.model;
  Hints hints{.schedule = files.schedule, .objective = files.objective, .timesteps = files.timesteps};
  if (!files.run.empty()) {
    check<FileError>(
        train::is_run_folder(files.run),
        "{}: not a folder made by avid train | weight files go with --base and --adapter", files.run.string());
    const train::TrainConfig config = train::TrainConfig::load(files.run / "config.toml");
    const path weights = train::base_weights_path(files.run);
    if (config.has_base()) {
      base = config.base.checkpoint;
      adapter = weights;
    } else {
      (config.uses_actions() ? model : base) = weights;
    }
    if (hints.schedule.empty()) hints.schedule = config.diffusion.schedule;
    if (hints.objective.empty()) hints.objective = config.diffusion.objective;
    if (hints.timesteps == 0) hints.timesteps = config.diffusion.timesteps;
    hints.frames = config.data.frames;
    hints.size = config.data.size;
  }
  if (!base.empty()) base = train::base_weights_path(base);
  for (const path& file : {adapter, base, model})
    if (!file.empty()) hints.take(file);
  const auto objective = diffusion::parse_objective(hints.objective.empty() ? "pred_x0" : hints.objective);

  std::unique_ptr<WorldModel> world(new WorldModel);
  world->schedule_ = std::make_shared<diffusion::Schedule>(
      diffusion::parse_schedule(hints.schedule.empty() ? "sigmoid" : hints.schedule),
      hints.timesteps == 0 ? 200 : hints.timesteps);
  world->trained_frames_ = hints.frames;
  world->trained_size_ = hints.size;
  world->device_ = Device::parse(files.device);
  world->activations_ = files.dtype == "bf16" ? DType::bf16 : DType::f32;
  world->load_unet(model.empty() ? base : model, model.empty() ? "base" : "model", !model.empty(), objective);
  if (!adapter.empty()) world->load_adapter(adapter);
  return world;
}

std::unique_ptr<WorldModel> WorldModel::with_adapter(const path& adapter) const {
  check<UsageError>(!takes_actions_, "{}: this model has no base to put another adapter on", adapter.string());
  std::unique_ptr<WorldModel> world(new WorldModel);
  world->unet_ = unet_;
  world->unet_denoiser_ =
      std::make_unique<PixelDenoiser>(*unet_, unet_denoiser_->objective(), PixelDenoiser::Actions::ignore);
  world->schedule_ = schedule_;
  world->trained_frames_ = trained_frames_;
  world->trained_size_ = trained_size_;
  world->device_ = device_;
  world->activations_ = activations_;
  for (const char* key : {"base", "sha256.base"}) world->sources_[key] = sources_.at(key);
  world->load_adapter(adapter);
  return world;
}

void WorldModel::check_size(std::int64_t height, std::int64_t width) const {
  std::size_t levels = unet_->config().dim_mults.size();
  if (avid_) levels = std::max(levels, avid_->config().adapter.dim_mults.size());
  const std::int64_t step = std::int64_t{1} << (levels - 1);
  check<ConfigError>(
      height % step == 0 && width % step == 0,
      "frames: expected sides that are multiples of {} (the model has {} levels), got {}x{} | use --size", step, levels,
      height, width);
}

void add_sampling_options(CLI::App* command, SamplingFlags& flags) {
  command->add_option("--sampler", flags.sampler, "ddim or ddpm")->capture_default_str();
  command->add_option("--steps", flags.steps, "sampling steps (default: 20 for ddim, all for ddpm)")
      ->check(CLI::PositiveNumber);
  command->add_option("--eta", flags.eta, "noise of ddim, 0 to 1")->capture_default_str();
  command->add_option("--seed", flags.seed, "of windows and noise")->capture_default_str();
  command->add_option("--batch", flags.batch, "clips at once; does not change the result's noise")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

diffusion::SamplerOptions sampler_options(const SamplingFlags& flags, const diffusion::Schedule& schedule) {
  diffusion::SamplerOptions options;
  try {
    options.kind = diffusion::parse_sampler(flags.sampler);
    options.num_steps = flags.steps != 0 || options.kind == diffusion::SamplerKind::ddpm
                            ? flags.steps
                            : std::min<std::int64_t>(20, schedule.num_steps());
    diffusion::sampling_times(schedule, options);
  } catch (const ConfigError& error) {  // words on the command line, not a file's
    throw UsageError(error.what());
  }
  check<UsageError>(flags.eta >= 0 && flags.eta <= 1, "--eta: expected 0 to 1, got {}", flags.eta);
  options.eta = flags.eta;
  options.seed = flags.seed;
  options.batch_clips = flags.batch;
  return options;
}

void show_sampling_progress(diffusion::SamplerOptions& options, const std::string& what) {
  if (!isatty(STDERR_FILENO)) return;
  options.on_step = [what, earlier = options.on_step](const diffusion::StepReport& step) {
    if (earlier) earlier(step);
    const std::int64_t clips = step.first_clip + step.x.dim(0);
    std::fprintf(
        stderr, "\r\033[K%s: clips %lld-%lld of %lld, step %lld/%lld", what.c_str(),
        static_cast<long long>(step.first_clip + 1), static_cast<long long>(clips),
        static_cast<long long>(step.num_clips), static_cast<long long>(step.index + 1),
        static_cast<long long>(step.num_steps));
    if (clips == step.num_clips && step.index + 1 == step.num_steps) std::fprintf(stderr, "\r\033[K");
  };
}

}  // namespace avid::cli
