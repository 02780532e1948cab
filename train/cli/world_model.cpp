// train/cli/world_model.cpp -- what `avid sample` and `avid evaluate` load: networks and a method, as one Denoiser
#include "train/cli/world_model.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "models/checkpoint.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/sha256.h"
#include "train/cli/classifier_file.h"
#include "train/config.h"
#include "train/run_state.h"

namespace avid::cli {
namespace {

using std::filesystem::path;

/// Settings that training wrote beside the weights (Trainer::save); what is known already stays as it is.
struct Hints {
  std::string schedule, objective;
  std::int64_t timesteps = 0, frames = 0, size = 0;
  std::string base_sha256 = {};  ///< of the base that a run was trained on

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
          "{}: metadata: {}: expected a positive number, got '{}'", file.string(), key, printable(digits));
    };
    text("avid.schedule", schedule);
    text("avid.objective", objective);
    number("avid.timesteps", timesteps);
    number("avid.frames", frames);
    number("avid.size", size);
  }
};

/// What training wrote into its weights under this key; empty where it did not.
std::string noted(const path& file, const char* key) {
  const auto opened = open_tensor_file(file);
  const auto found = opened->metadata().find(key);
  return found == opened->metadata().end() ? std::string() : found->second;
}

/// A base has tables for actions too, but they were never trained: what it makes of actions means nothing.
void check_knows_actions(const path& file, const char* option) {
  check<ConfigError>(
      noted(file, "avid.kind") != "base",
      "{}: a base, trained without actions | {} needs a network trained with them: model.kind scratch or finetune",
      file.string(), option);
}

/// Runs that were named where a weights file may stand, as their weights; a ControlNet's run also knows its order.
void expand_folders(ModelFiles& files) {
  if (!files.controlnet.empty() && files.control_order.empty() && train::is_run_folder(files.controlnet)) {
    const train::TrainConfig config = train::TrainConfig::load(files.controlnet / "config.toml");
    if (config.is_controlnet()) files.control_order = config.model.control_order;
  }
  for (path* place : {&files.adapter, &files.controlnet})
    if (!place->empty()) *place = train::base_weights_path(*place);
}

/// The networks of a run, as if they had been named one by one.
void expand_run(ModelFiles& files, Hints& hints) {
  if (files.run.empty()) return;
  check<FileError>(
      train::is_run_folder(files.run),
      "{}: not a folder made by avid train | weight files go with --base and --adapter", files.run.string());
  const train::TrainConfig config = train::TrainConfig::load(files.run / "config.toml");
  check<ConfigError>(
      !config.is_classifier(), "{}: a classifier makes no videos | it goes with --classifier", files.run.string());
  check<ConfigError>(config.is_denoiser(), "{}: a {} makes no videos", files.run.string(), config.model.kind);
  const path weights = train::base_weights_path(files.run);
  if (config.has_base()) {
    files.base = config.base.checkpoint;
    (config.is_avid() ? files.adapter : files.controlnet) = weights;
    if (config.is_controlnet() && files.control_order.empty()) files.control_order = config.model.control_order;
    hints.base_sha256 = train::base_digest_of_run(files.run);
  } else if (config.uses_actions()) {
    files.model = weights;
  } else {
    files.base = weights.string();
  }
  if (hints.schedule.empty()) hints.schedule = config.diffusion.schedule;
  if (hints.objective.empty()) hints.objective = config.diffusion.objective;
  if (hints.timesteps == 0) hints.timesteps = config.diffusion.timesteps;
  hints.frames = config.data.frames;
  hints.size = config.data.size;
}

}  // namespace

void WorldModel::note(const std::string& role, const std::string& place, const std::string& sha256) {
  sources_[role] = place;
  sources_["sha256." + role] = sha256;
}

void WorldModel::load_adapter(const path& file) {
  avid_ = load_avid(file, DType::f32, network_->cond_frames);
  avid_->set_trainable(false);
  avid_->to(device_);
  avid_->set_activation_dtype(activations_);
  adapted_ = std::make_unique<AvidDenoiser>(*network_->denoiser, *avid_);
  top_ = adapted_.get();
  kind_ = "avid";
  has_base_ = takes_actions_ = uses_actions_ = true;
  num_actions_ = avid_->config().adapter.num_actions;
  multiple_ = std::max(multiple_, std::int64_t{1} << (avid_->config().adapter.dim_mults.size() - 1));
  note("adapter", file.string(), sha256_of_file(file));
}

void WorldModel::load_controlnet(const path& file, const std::string& order) {
  check<ConfigError>(
      network_->unet != nullptr, "{}: a ControlNet needs the base's weights | give --base a file", network_->source);
  control_ = avid::load_controlnet(file);
  control_->set_trainable(false);
  control_->to(device_);
  control_->set_activation_dtype(activations_);
  check_controls(control_->config(), network_->unet->config(), file.string());
  const std::string trained = noted(file, "avid.control_order");
  const std::string entering = !order.empty() ? order : !trained.empty() ? trained : "reversed";
  adapted_ = std::make_unique<ControlledDenoiser>(
      *network_->unet, *control_, network_->denoiser->objective(), parse_control_order(entering));
  top_ = adapted_.get();
  kind_ = "controlnet";
  has_base_ = takes_actions_ = uses_actions_ = true;
  num_actions_ = control_->config().num_actions;
  note("controlnet", file.string(), sha256_of_file(file));
  sources_["control_order"] = entering;
}

void WorldModel::load_action_model(const path& place, bool answers_without) {
  const path file = train::base_weights_path(place);
  check_knows_actions(file, "--action-model");
  check<ConfigError>(
      !answers_without || noted(file, "avid.action_drop") != "0",
      "{}: trained with actions only, so what --action-cfg subtracts means nothing | train one with "
      "train.action_drop=0.2 (configs/paper/coinrun500k_cfg_22m.toml)",
      file.string());
  action_model_ = std::make_unique<train::FrozenBase>(
      train::open_base(place.string(), name_of(network_->denoiser->objective()), true));
  action_model_->place(device_, activations_);
  check<ConfigError>(
      action_model_->cond_frames == network_->cond_frames, "{}: expected {} conditioning frames as in the base, got {}",
      place.string(), network_->cond_frames, action_model_->cond_frames);
  check<ConfigError>(
      action_model_->timesteps == 0 || action_model_->timesteps == schedule_->num_steps(),
      "{}: trained with {} diffusion steps, the base with {} | mix networks of one schedule", place.string(),
      action_model_->timesteps, schedule_->num_steps());
  multiple_ = std::max(multiple_, action_model_->multiple);
  num_actions_ = num_actions_ == 0 || !takes_actions_
                     ? action_model_->unet->config().num_actions
                     : std::min(num_actions_, action_model_->unet->config().num_actions);
  uses_actions_ = true;
  has_base_ = kind_ != "model";
  note("action_model", action_model_->source, action_model_->sha256);
}

void WorldModel::load_guidance(const path& place) {
  const path file = train::base_weights_path(place);
  classifier_ = load_guide(file, network_->cond_frames);
  classifier_->to(device_);
  classifier_->set_activation_dtype(activations_);
  image_size_ = classifier_->config().image_size;
  num_actions_ =
      uses_actions_ ? std::min(num_actions_, classifier_->config().num_actions) : classifier_->config().num_actions;
  uses_actions_ = true;
  has_base_ = kind_ != "model";
  note("guidance_classifier", file.string(), sha256_of_file(file));
}

void WorldModel::set_weights(const MethodWeights& weights) {
  weights_ = weights;
  experts_.reset();
  action_guidance_.reset();
  top_ = adapted_ ? adapted_.get() : network_->denoiser.get();
  bool takes = takes_actions_;  // whether what is below the next mixture wants the actions
  if (weights.poe) {
    experts_ = std::make_unique<diffusion::ProductOfExperts>(
        *schedule_, *top_, *action_model_->denoiser,
        diffusion::ComposeOptions{.weight = *weights.poe, .first_t = first_t_, .base_actions = takes});
    top_ = experts_.get();
    takes = true;
  }
  if (weights.action_cfg) {
    action_guidance_ = std::make_unique<diffusion::ActionGuidance>(
        *schedule_, *top_, *action_model_->denoiser,
        diffusion::ComposeOptions{.weight = *weights.action_cfg, .first_t = first_t_, .base_actions = takes});
    top_ = action_guidance_.get();
  }
}

void WorldModel::guide(diffusion::SamplerOptions& options) const {
  if (classifier_ && weights_.guidance) {
    check<UsageError>(
        options.kind == diffusion::SamplerKind::ddpm,
        "--guidance: it shifts the mean of a DDPM step | use --sampler ddpm (all {} steps)", schedule_->num_steps());
    options.guidance.weight = *weights_.guidance;
    options.guidance.first_t = first_t_;
    options.guidance.gradient = [this](const diffusion::DenoiserInput& in) {
      return classifier_guidance(*classifier_, in.x_t, in.t, in.cond, in.actions).gradient;
    };
  }
  const char* reason = diffusion::why_no_graph(options, device_);
  check<UsageError>(
      options.graph != UseGraph::on || reason == nullptr,
      "--graph: expected auto or off, got on | {}, so there is nothing to record", reason);
}

std::unique_ptr<WorldModel> WorldModel::load(const ModelFiles& given) {
  check_model_files(given);
  ModelFiles files = given;
  Hints hints{.schedule = files.schedule, .objective = files.objective, .timesteps = files.timesteps};
  expand_folders(files);
  expand_run(files, hints);
  check<UsageError>(
      files.control_order.empty() || !files.controlnet.empty(),
      "--control-order: this model has no ControlNet | leave it out");
  const std::string place = files.model.empty() ? files.base : files.model.string();
  if (!files.adapter.empty()) hints.take(files.adapter);
  if (!files.controlnet.empty()) hints.take(files.controlnet);

  std::unique_ptr<WorldModel> world(new WorldModel);
  const bool takes_actions = !files.model.empty() || files.base_sees_actions;
  check<UsageError>(
      !files.base_sees_actions || files.model.empty(),
      "--base-sees-actions: this model takes actions anyway | leave it out");
  world->device_ = Device::parse(files.device);
  use_routes(*files.routes, world->device_);
  world->activations_ = files.dtype == "bf16" ? DType::bf16 : DType::f32;
  if (!files.model.empty()) check_knows_actions(train::base_weights_path(files.model), "--model");
  auto network = train::open_base(place, hints.objective, takes_actions);
  check<ConfigError>(
      hints.base_sha256.empty() || hints.base_sha256 == network.sha256,
      "{}: its base.checkpoint {} holds other weights than it was trained on (sha256 {} then, {} now) | restore them, "
      "or put it on another base with --base and {}",
      files.run.string(), place, hints.base_sha256.substr(0, 12), network.sha256.substr(0, 12),
      files.adapter.empty() ? "--controlnet" : "--adapter");
  network.place(world->device_, world->activations_);
  if (hints.schedule.empty()) hints.schedule = network.schedule;
  if (hints.timesteps == 0) hints.timesteps = network.timesteps;
  if (hints.frames == 0) hints.frames = network.frames;
  if (hints.size == 0) hints.size = network.size;
  world->schedule_ = std::make_shared<diffusion::Schedule>(
      diffusion::parse_schedule(hints.schedule.empty() ? "sigmoid" : hints.schedule),
      hints.timesteps == 0 ? 200 : hints.timesteps);
  check<UsageError>(
      files.first_t < world->schedule_->num_steps(),
      "--method-first-t: expected less than the {} diffusion steps, got {}", world->schedule_->num_steps(),
      files.first_t);
  world->trained_frames_ = hints.frames;
  world->trained_size_ = hints.size;
  world->multiple_ = network.multiple;
  world->kind_ = files.model.empty() ? "base" : "model";
  world->takes_actions_ = world->uses_actions_ = takes_actions;
  world->num_actions_ = network.unet ? network.unet->config().num_actions : 0;
  world->first_t_ = files.first_t;
  world->note(world->kind_, network.source, network.sha256);
  if (files.base_sees_actions) world->sources_["base_sees_actions"] = "true";
  world->network_ = std::make_shared<train::FrozenBase>(std::move(network));
  world->top_ = world->network_->denoiser.get();
  if (!files.adapter.empty()) world->load_adapter(files.adapter);
  if (!files.controlnet.empty()) world->load_controlnet(files.controlnet, files.control_order);
  if (!files.action_model.empty()) world->load_action_model(files.action_model, !files.action_cfg.empty());
  if (!files.guidance_classifier.empty()) world->load_guidance(files.guidance_classifier);
  world->set_weights(sweep(files)[0]);
  return world;
}

std::unique_ptr<WorldModel> WorldModel::with_adapter(const path& adapter) const {
  check<UsageError>(kind_ != "model", "{}: this model has no base to put another adapter on", adapter.string());
  std::unique_ptr<WorldModel> world(new WorldModel);
  world->network_ = network_;
  world->schedule_ = schedule_;
  world->trained_frames_ = trained_frames_;
  world->trained_size_ = trained_size_;
  world->multiple_ = network_->multiple;
  world->device_ = device_;
  world->activations_ = activations_;
  for (const char* key : {"base", "sha256.base"}) world->sources_[key] = sources_.at(key);
  world->load_adapter(train::base_weights_path(adapter));
  return world;
}

std::map<std::string, std::string> WorldModel::sources() const {
  auto all = sources_;
  const auto weight = [&](const char* name, const std::optional<double>& value) {
    if (value) all[name] = fmt::format("{:g}", *value);
  };
  weight("poe", weights_.poe);
  weight("action_cfg", weights_.action_cfg);
  weight("guidance", weights_.guidance);
  if (first_t_ > 0) all["method_first_t"] = std::to_string(first_t_);
  return all;
}

void WorldModel::check_size(std::int64_t height, std::int64_t width) const {
  check<ConfigError>(
      height % multiple_ == 0 && width % multiple_ == 0,
      "frames: expected sides that are multiples of {} (what the model's levels need), got {}x{} | use --size",
      multiple_, height, width);
  check<ConfigError>(
      image_size_ == 0 || (height == image_size_ && width == image_size_),
      "frames: expected {}x{} as the guiding classifier was trained on, got {}x{} | use --size {}", image_size_,
      image_size_, height, width, image_size_);
}

void add_sampling_options(Command* command, SamplingFlags& flags) {
  command->add_option("--sampler", flags.sampler, "ddim or ddpm")->capture_default_str();
  command->add_option("--steps", flags.steps, "sampling steps (default: 20 for ddim, all for ddpm)")->positive();
  command->add_option("--eta", flags.eta, "noise of ddim, 0 to 1")->capture_default_str();
  command->add_option("--seed", flags.seed, "of windows and noise")->capture_default_str();
  command->add_option("--batch", flags.batch, "clips at once; does not change the result's noise")
      ->positive()
      ->capture_default_str();
  command->add_option("--graph", flags.graph, "on a device, record a step and repeat it: auto, on or off")
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
    options.graph = parse_use_graph(flags.graph, "--graph");
  } catch (const ConfigError& error) {  // words on the command line, not a file's
    throw UsageError(error.what());
  }
  check<UsageError>(flags.eta >= 0 && flags.eta <= 1, "--eta: expected 0 to 1, got {}", flags.eta);
  check<UsageError>(
      flags.eta == 0 || options.kind == diffusion::SamplerKind::ddim,
      "--eta: {} has noise of its own | leave it out, or use --sampler ddim", name_of(options.kind));
  options.eta = flags.eta;
  options.seed = flags.seed;
  options.batch_clips = flags.batch;
  options.say = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
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
