// train/trainee.cpp -- a U-Net alone, or an AVID adapter on a frozen base
#include "train/trainee.h"

#include "autograd/ops/unet_input.h"
#include "models/avid.h"
#include "models/checkpoint.h"
#include "models/pixel_denoiser.h"
#include "models/unet3d.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/tensor_file.h"
#include "train/run_state.h"

namespace avid::train {
namespace {

std::string millions(std::int64_t n) { return fmt::format("{:.2f}M", static_cast<double>(n) / 1e6); }

Unet3dConfig unet_config(const TrainConfig& config) {
  Unet3dConfig c;
  c.dim = config.model.width;
  c.dim_mults = config.model.multipliers;
  c.heads = config.model.heads;
  c.head_dim = config.model.head_dim;
  c.cond_frames = config.data.cond_frames;
  c.num_actions = config.model.actions;
  c.in_channels = 3 * config.data.cond_frames + 3;
  c.out_channels = 3;
  return c;
}

void check_fits(const Unet3dConfig& base, const TrainConfig& config) {
  check<ConfigError>(
      base.cond_frames == config.data.cond_frames,
      "config: data.cond_frames: expected {} as in base.checkpoint, got {}", base.cond_frames, config.data.cond_frames);
  check<ConfigError>(
      base.out_channels == 3,
      "config: base.checkpoint: expected a network with 3 output channels, got {} | this is an adapter, not a base",
      base.out_channels);
  const std::int64_t step = std::int64_t{1} << (base.dim_mults.size() - 1);
  check<ConfigError>(
      config.data.size % step == 0, "config: data.size: expected a multiple of {} (the base has {} levels), got {}",
      step, base.dim_mults.size(), config.data.size);
}

// Weight files that avid train wrote say how they were trained; a base under another diffusion would predict nonsense.
void check_diffusion(const std::filesystem::path& weights, const TrainConfig& config) {
  const auto metadata = open_tensor_file(weights)->metadata();
  const auto same = [&](const std::string& key, const std::string& ours) {
    const auto found = metadata.find("avid." + key);
    check<ConfigError>(
        found == metadata.end() || found->second == ours,
        "config: diffusion.{}: expected {} as in base.checkpoint, got {}", key,
        found == metadata.end() ? "" : printable(found->second), ours);
  };
  same("schedule", config.diffusion.schedule);
  same("timesteps", std::to_string(config.diffusion.timesteps));
  same("objective", config.diffusion.objective);
}

// base, scratch, finetune: the network itself predicts.
class UnetTrainee final : public Trainee {
 public:
  UnetTrainee(std::unique_ptr<Unet3d> unet, diffusion::Objective objective, bool uses_actions)
      : unet_(std::move(unet)),
        uses_actions_(uses_actions),
        denoiser_(*unet_, objective, uses_actions ? PixelDenoiser::Actions::use : PixelDenoiser::Actions::ignore) {}

  nn::Module& module() override { return *unet_; }
  Tensor base_prediction(const NoisedClips&) override { return {}; }
  Output forward(const NoisedClips& clips, const Tensor&, const Probe& probe) override {
    const Var input = unet_input(clips.cond, Var(clips.x_t), Var());
    return {unet_->forward(input, clips.t, uses_actions_ ? clips.actions : Tensor(), clips.drop, probe), {}};
  }
  diffusion::Denoiser& denoiser() override { return denoiser_; }
  Cost forward_flops(const VideoSize& size) const override {
    return {static_cast<double>(forward_cost(unet_->config(), size).total), 0};
  }
  std::string description() const override {
    return fmt::format(
        "U-Net, {} parameters, {}", millions(unet_->num_parameters()),
        uses_actions_ ? "with actions" : "without actions");
  }

 private:
  std::unique_ptr<Unet3d> unet_;
  bool uses_actions_;
  PixelDenoiser denoiser_;
};

// avid, avid_no_mask, avid_no_cond: the base is a Denoiser, nothing else of it is known here.
class AvidTrainee final : public Trainee {
 public:
  AvidTrainee(std::unique_ptr<Unet3d> base, std::unique_ptr<Avid> avid, diffusion::Objective objective)
      : base_unet_(std::move(base)),
        base_(*base_unet_, objective, PixelDenoiser::Actions::ignore),
        avid_(std::move(avid)),
        denoiser_(base_, *avid_) {}

  nn::Module& module() override { return *avid_; }
  Tensor base_prediction(const NoisedClips& clips) override {
    return base_.predict({clips.x_t, clips.t, clips.cond, {}});
  }
  Output forward(const NoisedClips& clips, const Tensor& base, const Probe& probe) override {
    AvidOutput out = avid_->forward(clips.x_t, clips.t, clips.cond, clips.actions, base, clips.drop, probe);
    return {out.prediction, out.mask};
  }
  diffusion::Denoiser& denoiser() override { return denoiser_; }
  diffusion::Denoiser* base_denoiser() override { return &base_; }
  Cost forward_flops(const VideoSize& size) const override {
    return {
        static_cast<double>(forward_cost(avid_->config().adapter, size).total),
        static_cast<double>(forward_cost(base_unet_->config(), size).total)};
  }
  std::int64_t frozen_parameters() const override { return base_unet_->num_trainable(); }
  std::string description() const override {
    return fmt::format(
        "AVID ({}), adapter {} parameters, on a frozen base of {}", name_of(avid_->config().variant),
        millions(avid_->num_parameters()), millions(base_unet_->num_parameters()));
  }

 private:
  std::unique_ptr<Unet3d> base_unet_;
  PixelDenoiser base_;
  std::unique_ptr<Avid> avid_;
  AvidDenoiser denoiser_;
};

}  // namespace

std::filesystem::path base_weights_path(const std::filesystem::path& checkpoint) {
  if (!std::filesystem::is_directory(checkpoint)) return checkpoint;
  const CheckpointStore store(checkpoint);
  const auto folder = store.best() ? store.best() : store.latest();
  check<FileError>(
      folder.has_value(),
      "base.checkpoint: {}: a folder without checkpoints | give a weights file or a run of avid train",
      checkpoint.string());
  return *folder / "ema.safetensors";
}

std::unique_ptr<Trainee> make_avid_trainee(
    std::unique_ptr<Unet3d> base, std::unique_ptr<Avid> avid, diffusion::Objective objective) {
  base->set_trainable(false);
  avid->set_trainable(true);
  return std::make_unique<AvidTrainee>(std::move(base), std::move(avid), objective);
}

std::unique_ptr<Trainee> make_trainee(const TrainConfig& config) {
  const auto objective = diffusion::parse_objective(config.diffusion.objective);
  const auto seed = static_cast<std::uint64_t>(config.seed);
  const std::string& kind = config.model.kind;
  if (!config.base.checkpoint.empty()) check_diffusion(base_weights_path(config.base.checkpoint), config);
  if (config.has_base()) {
    auto base = load_unet3d(base_weights_path(config.base.checkpoint));
    check_fits(base->config(), config);
    const AvidVariant variant = kind == "avid"           ? AvidVariant::mask
                                : kind == "avid_no_mask" ? AvidVariant::no_mask
                                                         : AvidVariant::no_conditioning;
    auto avid = std::make_unique<Avid>(make_avid_config(variant, unet_config(config)));
    avid->initialize(seed);
    return make_avid_trainee(std::move(base), std::move(avid), objective);
  }
  std::unique_ptr<Unet3d> unet;
  if (kind == "finetune") {
    unet = load_unet3d(base_weights_path(config.base.checkpoint));
    check_fits(unet->config(), config);
  } else {
    unet = std::make_unique<Unet3d>(unet_config(config));
    unet->initialize(seed);
  }
  unet->set_trainable(true);
  return std::make_unique<UnetTrainee>(std::move(unet), objective, config.uses_actions());
}

}  // namespace avid::train
