// train/frozen_base.cpp -- the frozen base of a run: a network from a file, or a denoiser in another process
#include "train/frozen_base.h"

#include <charconv>

#include "diffusion/served/client.h"
#include "models/checkpoint.h"
#include "models/pixel_denoiser.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/sha256.h"
#include "tensor/io/tensor_file.h"
#include "train/run_state.h"

namespace avid::train {
namespace {

FrozenBase open_served(const std::string& url) {
  auto served = std::make_unique<diffusion::ServedDenoiser>(url);
  const diffusion::ModelCard& card = served->card();
  FrozenBase base;
  base.cond_frames = card.cond_frames;
  base.multiple = card.multiple;
  base.parameters = card.parameters;
  base.schedule = name_of(card.schedule);
  base.objective = name_of(card.objective);
  base.timesteps = card.timesteps;
  base.frames = card.frames;
  base.size = card.size;
  base.source = url;
  base.sha256 = card.sha256;
  base.flops_per_pixel = card.flops_per_pixel;
  base.denoiser = std::move(served);
  return base;
}

void read_hints(const std::filesystem::path& file, FrozenBase& base) {
  const auto metadata = open_tensor_file(file)->metadata();
  const auto text = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  const auto number = [&](const char* key) {
    std::int64_t value = 0;
    const std::string digits = text(key);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    check<FileError>(
        digits.empty() || (error == std::errc() && end == digits.data() + digits.size() && value > 0),
        "{}: metadata: {}: expected a positive number, got '{}'", file.string(), key, printable(digits));
    return value;
  };
  base.schedule = text("avid.schedule");
  base.objective = text("avid.objective");
  base.timesteps = number("avid.timesteps");
  base.frames = number("avid.frames");
  base.size = number("avid.size");
}

}  // namespace

double FrozenBase::forward_flops(const VideoSize& video) const {
  if (unet) return static_cast<double>(forward_cost(unet->config(), video).total);
  return flops_per_pixel * static_cast<double>(video.batch * video.frames * video.height * video.width);
}

void FrozenBase::place(Device device, DType activations) {
  if (!unet) return;  // a served base computes where its server does
  unet->to(device);
  unet->set_activation_dtype(activations);
}

FrozenBase open_base(const std::string& place, const std::string& objective, bool sees_actions) {
  if (diffusion::is_served(place)) {
    check<ConfigError>(!sees_actions, "{}: a served base is asked without actions | give its weights file", place);
    FrozenBase base = open_served(place);
    check<ConfigError>(
        objective.empty() || objective == base.objective, "{}: expected objective {}, got {}", place, objective,
        base.objective);
    return base;
  }
  check<ConfigError>(
      !place.starts_with("https://"), "{}: expected http://host:port | put a tunnel around it where others listen",
      place);
  check<FileError>(
      std::filesystem::exists(place),
      "{}: no such weights, and no such run | train it first (avid train), or name another", place);
  const std::filesystem::path file = base_weights_path(place);
  FrozenBase base;
  read_hints(file, base);
  base.unet = load_unet3d(file);
  base.unet->set_trainable(false);
  const Unet3dConfig& config = base.unet->config();
  check<ConfigError>(
      config.out_channels == 3,
      "{}: expected a network with 3 output channels, got {} | this is an adapter, not a base", file.string(),
      config.out_channels);
  base.cond_frames = config.cond_frames;
  base.multiple = std::int64_t{1} << (config.dim_mults.size() - 1);
  base.parameters = base.unet->num_parameters();
  base.source = file.string();
  base.sha256 = sha256_of_file(file);
  const std::string& meaning = !objective.empty() ? objective : base.objective.empty() ? "pred_x0" : base.objective;
  base.denoiser = std::make_unique<PixelDenoiser>(
      *base.unet, diffusion::parse_objective(meaning),
      sees_actions ? PixelDenoiser::Actions::use : PixelDenoiser::Actions::ignore);
  return base;
}

std::filesystem::path base_weights_path(const std::filesystem::path& checkpoint) {
  if (!std::filesystem::is_directory(checkpoint)) return checkpoint;
  const CheckpointStore store(checkpoint);
  const auto folder = store.best() ? store.best() : store.latest();
  check<FileError>(
      folder.has_value(),
      "base.checkpoint: {}: a folder without checkpoints | give a weights file or a run of avid train",
      checkpoint.string());
  const auto metadata = open_tensor_file(*folder / "weights.safetensors")->metadata();
  const auto kind = metadata.find("avid.kind");
  const bool classifier = kind != metadata.end() && kind->second.ends_with("classifier");
  return *folder / (classifier ? "weights.safetensors" : "ema.safetensors");
}

std::string base_digest_of_run(const std::filesystem::path& run) {
  const Json info = parse_json(read_text(run / "run.json", 1 << 20));
  if (!info.is_object() || !info.contains("inputs") || !info["inputs"].is_object()) return {};
  return info["inputs"].value("base.checkpoint", "");
}

std::string base_digest(const std::string& place) {
  if (diffusion::is_served(place)) return diffusion::ServedDenoiser(place).card().sha256;
  return sha256_of_file(base_weights_path(place));
}

}  // namespace avid::train
