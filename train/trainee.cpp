// train/trainee.cpp -- what can be trained: U-Nets, AVID adapters, ControlNets, action classifiers, clip encoders
#include "train/trainee.h"

#include "autograd/ops/cross_entropy.h"
#include "autograd/ops/unet_input.h"
#include "kernels/op_timer.h"
#include "models/action_classifier.h"
#include "models/avid.h"
#include "models/clip_encoder.h"
#include "models/controlnet.h"
#include "models/pixel_denoiser.h"
#include "models/unet3d.h"
#include "tensor/error.h"

namespace avid::train {
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

namespace {

std::string millions(std::int64_t n) { return fmt::format("{:.2f}M", static_cast<double>(n) / 1e6); }

// A base under another diffusion would predict nonsense; files of avid train and servers say which one it was.
void check_fits(const FrozenBase& base, const TrainConfig& config) {
  const auto same = [](const char* key, const std::string& found, const std::string& ours) {
    check<ConfigError>(
        found.empty() || found == ours, "config: diffusion.{}: expected {} as in base.checkpoint, got {}", key, found,
        ours);
  };
  same("schedule", base.schedule, config.diffusion.schedule);
  same(
      "timesteps", base.timesteps == 0 ? "" : std::to_string(base.timesteps),
      std::to_string(config.diffusion.timesteps));
  same("objective", base.objective, config.diffusion.objective);
  check<ConfigError>(
      base.cond_frames == config.data.cond_frames,
      "config: data.cond_frames: expected {} as in base.checkpoint, got {}", base.cond_frames, config.data.cond_frames);
  check<ConfigError>(
      config.data.size % base.multiple == 0,
      "config: data.size: expected a multiple of {} (what the base's levels need), got {}", base.multiple,
      config.data.size);
}

void place_module(nn::Module& module, Device device, DType activations) {
  module.to(device);
  module.set_activation_dtype(activations);
}

// base, scratch, finetune: the network itself predicts.
class UnetTrainee final : public Trainee {
 public:
  UnetTrainee(std::unique_ptr<Unet3d> unet, diffusion::Objective objective, bool uses_actions)
      : unet_(std::move(unet)),
        uses_actions_(uses_actions),
        denoiser_(*unet_, objective, uses_actions ? PixelDenoiser::Actions::use : PixelDenoiser::Actions::ignore) {}

  nn::Module& module() override { return *unet_; }
  void place(Device device, DType activations) override { place_module(*unet_, device, activations); }
  Tensor base_prediction(const NoisedClips&) override { return {}; }
  Output forward(const NoisedClips& clips, const Tensor&, const Probe& probe) override {
    const Var input = unet_input(clips.cond, Var(clips.x_t), Var());
    return {unet_->forward(input, clips.t, uses_actions_ ? clips.actions : Tensor(), clips.drop, probe), {}};
  }
  diffusion::Denoiser& denoiser() override { return denoiser_; }
  Cost forward_flops(const VideoSize& size) const override {
    return {static_cast<double>(forward_cost(unet_->config(), size).total), 0};
  }
  std::int64_t num_actions() const override { return unet_->config().num_actions; }
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
  AvidTrainee(FrozenBase base, std::unique_ptr<Avid> avid)
      : base_(std::move(base)), avid_(std::move(avid)), denoiser_(*base_.denoiser, *avid_) {}

  nn::Module& module() override { return *avid_; }
  void place(Device device, DType activations) override {
    base_.place(device, activations);
    place_module(*avid_, device, activations);
  }
  Tensor base_prediction(const NoisedClips& clips) override {
    const kernels::ModuleRange range("base");
    return base_.denoiser->predict({clips.x_t, clips.t, clips.cond, {}});
  }
  Output forward(const NoisedClips& clips, const Tensor& base, const Probe& probe) override {
    AvidOutput out = avid_->forward(clips.x_t, clips.t, clips.cond, clips.actions, base, clips.drop, probe);
    return {out.prediction, out.mask};
  }
  diffusion::Denoiser& denoiser() override { return denoiser_; }
  diffusion::Denoiser* base_denoiser() override { return base_.denoiser.get(); }
  Cost forward_flops(const VideoSize& size) const override {
    return {static_cast<double>(forward_cost(avid_->config().adapter, size).total), base_.forward_flops(size)};
  }
  std::int64_t frozen_parameters() const override {
    return base_.unet ? base_.unet->num_trainable() : base_.parameters;
  }
  std::int64_t num_actions() const override { return avid_->config().adapter.num_actions; }
  std::string host_work() const override {
    return base_.unet ? "" : "the base answers from another process, " + base_.source;
  }
  std::string description() const override {
    return fmt::format(
        "AVID ({}), adapter {} parameters, on a frozen base of {}{}", name_of(avid_->config().variant),
        millions(avid_->num_parameters()), millions(base_.parameters), base_.unet ? "" : " served by " + base_.source);
  }

 private:
  FrozenBase base_;
  std::unique_ptr<Avid> avid_;
  AvidDenoiser denoiser_;
};

// controlnet, controlnet_small: gradients pass through the frozen base's decoder to the copy.
class ControlNetTrainee final : public Trainee {
 public:
  ControlNetTrainee(
      FrozenBase base, std::unique_ptr<ControlNet> control, diffusion::Objective objective, ControlOrder order)
      : base_(std::move(base)),
        control_(std::move(control)),
        order_(order),
        denoiser_(*base_.unet, *control_, objective, order) {}

  nn::Module& module() override { return *control_; }
  void place(Device device, DType activations) override {
    base_.place(device, activations);
    place_module(*control_, device, activations);
  }
  Tensor base_prediction(const NoisedClips&) override { return {}; }
  Output forward(const NoisedClips& clips, const Tensor&, const Probe& probe) override {
    return {
        run_controlled(*base_.unet, *control_, clips.x_t, clips.t, clips.cond, clips.actions, order_, probe).prediction,
        {}};
  }
  diffusion::Denoiser& denoiser() override { return denoiser_; }
  diffusion::Denoiser* base_denoiser() override { return base_.denoiser.get(); }
  Cost forward_flops(const VideoSize& size) const override {
    const ForwardCost base = forward_cost(base_.unet->config(), size);
    Cost cost{static_cast<double>(forward_cost(control_->config(), size).total), static_cast<double>(base.total)};
    // Backward through the base: the gradient of the inputs (one forward's worth) from the output to the first place
    // where a control tensor enters; its weights get none.
    for (const auto& [block, flops] : base.by_block)
      if (block.starts_with("ups.") || block.starts_with("final_conv") || block == "mid_block2")
        cost.frozen += static_cast<double>(flops);
    return cost;
  }
  std::int64_t frozen_parameters() const override { return base_.unet->num_trainable(); }
  std::int64_t num_actions() const override { return base_.unet->config().num_actions; }
  void set_recompute(nn::Recompute what) override {
    control_->set_recompute(what);
    base_.unet->set_recompute(what);  // gradients pass through its decoder
  }
  std::string description() const override {
    return fmt::format(
        "ControlNet{}, copy of {} parameters, on a frozen base of {}",
        control_->config().base_dim > 0 ? " (small)" : "", millions(control_->num_parameters()),
        millions(base_.parameters));
  }

 private:
  FrozenBase base_;
  std::unique_ptr<ControlNet> control_;
  ControlOrder order_;
  ControlledDenoiser denoiser_;
};

// classifier, noisy_classifier: which action led to each frame.
class ClassifierTrainee final : public Trainee {
 public:
  ClassifierTrainee(std::unique_ptr<ActionClassifier> network, bool noisy)
      : network_(std::move(network)), noisy_(noisy) {}

  nn::Module& module() override { return *network_; }
  void place(Device device, DType activations) override { place_module(*network_, device, activations); }
  Tensor base_prediction(const NoisedClips&) override { return {}; }
  Output forward(const NoisedClips& clips, const Tensor&, const Probe& probe) override {
    return {network_->forward(Var(join_frames(clips.cond, clips.x_t)), clips.t, probe), {}};
  }
  bool sees_clean_frames() const override { return !noisy_; }
  OwnLoss own_loss(const Output& out, const NoisedClips& clips) const override {
    const Tensor& logits = out.prediction.value();
    return {cross_entropy(out.prediction, clips.actions.to(logits.device())), action_accuracy(logits, clips.actions)};
  }
  diffusion::Denoiser& denoiser() override { fail<GraphError>("a classifier makes no videos"); }
  Cost forward_flops(const VideoSize& size) const override {
    return {static_cast<double>(forward_cost(network_->config(), size).total), 0};
  }
  std::string host_work() const override { return "a classifier's right answers are counted on the host"; }
  std::string description() const override {
    return fmt::format(
        "action classifier of {} frames, {} parameters", noisy_ ? "noisy" : "clean",
        millions(network_->num_parameters()));
  }

 private:
  std::unique_ptr<ActionClassifier> network_;
  bool noisy_;
};

// clip_encoder: features of clean clips; "accuracy" is that of telling speeds apart.
class EncoderTrainee final : public Trainee {
 public:
  EncoderTrainee(std::unique_ptr<ClipEncoder> network, std::int64_t cond_frames)
      : network_(std::move(network)), cond_frames_(cond_frames) {}

  nn::Module& module() override { return *network_; }
  void place(Device device, DType activations) override { place_module(*network_, device, activations); }
  Tensor base_prediction(const NoisedClips&) override { return {}; }
  Output forward(const NoisedClips& clips, const Tensor&, const Probe& probe) override {
    const Var trunk = network_->trunk(Var(join_frames(clips.cond, clips.x_t)));
    if (probe) probe("trunk", trunk.value());
    return {trunk, {}};
  }
  bool sees_clean_frames() const override { return true; }
  bool compares_clips() const override { return true; }
  OwnLoss own_loss(const Output& out, const NoisedClips&) const override {
    const ClipEncoderLoss loss = clip_encoder_loss(*network_, out.prediction);
    return {loss.total, loss.accuracy};
  }
  diffusion::Denoiser& denoiser() override { fail<GraphError>("a clip encoder makes no videos"); }
  Cost forward_flops(const VideoSize& size) const override {
    return {network_->training_flops(size.batch, cond_frames_ + size.frames), 0};
  }
  std::string host_work() const override { return "a clip encoder's right answers are counted on the host"; }
  std::string description() const override {
    return fmt::format(
        "clip encoder of {} features, {} parameters", network_->config().features,
        millions(network_->num_parameters()));
  }

 private:
  std::unique_ptr<ClipEncoder> network_;
  std::int64_t cond_frames_;
};

}  // namespace

std::unique_ptr<Trainee> make_avid_trainee(
    std::unique_ptr<Unet3d> base, std::unique_ptr<Avid> avid, diffusion::Objective objective) {
  base->set_trainable(false);
  avid->set_trainable(true);
  FrozenBase frozen;
  frozen.cond_frames = base->config().cond_frames;
  frozen.parameters = base->num_parameters();
  frozen.denoiser = std::make_unique<PixelDenoiser>(*base, objective, PixelDenoiser::Actions::ignore);
  frozen.unet = std::move(base);
  return std::make_unique<AvidTrainee>(std::move(frozen), std::move(avid));
}

namespace {

std::unique_ptr<Trainee> make_avid(const TrainConfig& config, FrozenBase base) {
  const std::string& kind = config.model.kind;
  const AvidVariant variant = kind == "avid"           ? AvidVariant::mask
                              : kind == "avid_no_mask" ? AvidVariant::no_mask
                                                       : AvidVariant::no_conditioning;
  auto avid = std::make_unique<Avid>(make_avid_config(variant, unet_config(config)));
  avid->initialize(static_cast<std::uint64_t>(config.seed));
  avid->set_trainable(true);
  return std::make_unique<AvidTrainee>(std::move(base), std::move(avid));
}

// Deviation: the original copies the base's online weights; we copy the averaged ones, which the frozen base uses too.
std::unique_ptr<Trainee> make_controlnet(const TrainConfig& config, FrozenBase base) {
  check<ConfigError>(
      base.unet != nullptr,
      "config: base.checkpoint: {}: a ControlNet needs the base's weights | give a file, or use "
      "model.kind = avid, which only needs its predictions",
      base.source);
  const Unet3dConfig& sizes = base.unet->config();
  ControlNetConfig c{
      .dim = sizes.dim,
      .dim_mults = sizes.dim_mults,
      .heads = sizes.heads,
      .head_dim = sizes.head_dim,
      .cond_frames = sizes.cond_frames,
      .num_actions = sizes.num_actions};
  const bool small = config.model.kind == "controlnet_small";
  if (small) {
    c.dim = config.model.width;
    c.heads = config.model.heads;
    c.head_dim = config.model.head_dim;
    c.base_dim = sizes.dim;
  }
  auto control = std::make_unique<ControlNet>(c);
  control->initialize(static_cast<std::uint64_t>(config.seed));
  if (!small) control->copy_from_base(*base.unet);
  if (config.model.zero_projection) control->zero_projection_biases();
  control->set_trainable(true);
  return std::make_unique<ControlNetTrainee>(
      std::move(base), std::move(control), diffusion::parse_objective(config.diffusion.objective),
      parse_control_order(config.model.control_order));
}

std::unique_ptr<Trainee> make_classifier(const TrainConfig& config) {
  auto network = std::make_unique<ActionClassifier>(ActionClassifierConfig{
      .dim = config.model.width,
      .dim_mults = config.model.multipliers,
      .heads = config.model.heads,
      .head_dim = config.model.head_dim,
      .cond_frames = config.data.cond_frames,
      .num_actions = config.model.actions,
      .mlp_dim = config.model.mlp,
      .image_size = config.data.size});
  network->initialize(static_cast<std::uint64_t>(config.seed));
  network->set_trainable(true);
  return std::make_unique<ClassifierTrainee>(std::move(network), config.model.kind == "noisy_classifier");
}

std::unique_ptr<Trainee> make_encoder(const TrainConfig& config) {
  auto network = std::make_unique<ClipEncoder>(ClipEncoderConfig{.width = config.model.width});
  network->initialize(static_cast<std::uint64_t>(config.seed));
  network->set_trainable(true);
  return std::make_unique<EncoderTrainee>(std::move(network), config.data.cond_frames);
}

std::unique_ptr<Trainee> make_kind(const TrainConfig& config) {
  if (config.is_encoder()) return make_encoder(config);
  if (config.is_classifier()) return make_classifier(config);
  if (!config.base.checkpoint.empty()) {
    FrozenBase base = open_base(config.base.checkpoint, config.diffusion.objective);
    check_fits(base, config);
    if (config.is_avid()) return make_avid(config, std::move(base));
    if (config.is_controlnet()) return make_controlnet(config, std::move(base));
    check<ConfigError>(
        base.unet != nullptr, "config: base.checkpoint: {}: finetuning needs the base's weights | give a file",
        base.source);
    base.unet->set_trainable(true);
    return std::make_unique<UnetTrainee>(
        std::move(base.unet), diffusion::parse_objective(config.diffusion.objective), true);
  }
  auto unet = std::make_unique<Unet3d>(unet_config(config));
  unet->initialize(static_cast<std::uint64_t>(config.seed));
  unet->set_trainable(true);
  return std::make_unique<UnetTrainee>(
      std::move(unet), diffusion::parse_objective(config.diffusion.objective), config.uses_actions());
}

}  // namespace

std::unique_ptr<Trainee> make_trainee(const TrainConfig& config) {
  auto trainee = make_kind(config);
  trainee->set_recompute(nn::parse_recompute(config.train.recompute, "config: train.recompute"));
  return trainee;
}

}  // namespace avid::train
