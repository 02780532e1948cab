// train/config_rules.cpp -- keys that exclude or need each other
#include "tensor/error.h"
#include "train/config_keys.h"

namespace avid::train {

bool absent_in_encoder(const TrainConfig& c, const std::string& name) {
  return c.is_encoder() && (name == "multipliers" || name == "heads" || name == "head_dim" || name == "actions");
}

bool architecture_from_base(const TrainConfig& c, const std::string& name) {
  if (c.model.kind == "finetune" || c.model.kind == "controlnet")
    return name == "width" || name == "multipliers" || name == "heads" || name == "head_dim" || name == "actions";
  return c.model.kind == "controlnet_small" && (name == "multipliers" || name == "actions");
}

void check_together(const TrainConfig& c, const std::map<std::string, std::string>& given, const std::string& name) {
  const auto where = [&](const char* key) { return given.count(key) ? given.at(key) : name; };
  const auto need = [&](const char* key, const std::string& why) {
    check<ConfigError>(given.count(key) > 0, "config: {}: missing, {} | {}", key, why, name);
  };
  const auto clash = [&](bool bad, const char* key, const std::string& why) {
    check<ConfigError>(!bad, "config: {}: {} | {}", key, why, where(key));
  };
  need("model.kind", fmt::format("it says what to train: {}", fmt::join(kModelKinds, ", ")));
  need("data.train", "it names the episodes to train on");
  need("train.updates", "it says how long to train");
  const std::string& kind = c.model.kind;
  if (c.has_base() || kind == "finetune") {
    need("base.checkpoint", fmt::format("model.kind = {} starts from a trained base", kind));
    clash(
        c.base.checkpoint.empty(), "base.checkpoint",
        fmt::format("empty, model.kind = {} starts from a trained base", kind));
  } else {
    clash(
        given.count("base.checkpoint") > 0, "base.checkpoint",
        fmt::format("not used by model.kind = {} | leave it out", kind));
  }
  for (const char* key : {"model.width", "model.multipliers", "model.heads", "model.head_dim", "model.actions"})
    clash(
        given.count(key) > 0 && architecture_from_base(c, key + 6), key,
        fmt::format("model.kind = {} takes the architecture from base.checkpoint | leave it out", kind));
  for (const char* key : {"model.multipliers", "model.heads", "model.head_dim", "model.actions"})
    clash(
        given.count(key) > 0 && absent_in_encoder(c, key + 6), key,
        "model.kind = clip_encoder has only model.width | leave it out");
  clash(
      c.is_encoder() && c.data.size != 32, "data.size",
      fmt::format("a clip encoder sees frames of 32x32, got {}", c.data.size));
  clash(
      c.is_encoder() && c.data.cond_frames + c.data.frames < 9, "data.frames",
      fmt::format(
          "a clip encoder learns from clips of 9 frames or more, got {} + {}", c.data.cond_frames, c.data.frames));
  clash(c.is_encoder() && c.train.batch < 2, "train.batch", "a clip encoder tells clips apart, expected >= 2, got 1");
  clash(
      c.is_encoder() && c.train.recompute != "none", "train.recompute",
      "a clip encoder has no U-Net, expected none | leave it out");
  clash(
      c.is_encoder() && given.count("validation.batch") > 0, "validation.batch",
      "a clip encoder's loss compares the clips of a batch, so that validation takes train.batch | leave it out");
  clash(given.count("model.mlp") > 0 && !c.is_classifier(), "model.mlp", "only classifiers have it | leave it out");
  clash(
      given.count("model.control_order") > 0 && !c.is_controlnet(), "model.control_order",
      "only controlnet and controlnet_small have it | leave it out");
  clash(
      given.count("model.zero_projection") > 0 && kind != "controlnet_small", "model.zero_projection",
      "only controlnet_small has projections | leave it out");
  clash(c.data.train.empty(), "data.train", "expected at least one file, got an empty list");
  clash(c.model.multipliers.empty(), "model.multipliers", "expected at least one level, got an empty list");
  clash(c.model.width % 2 != 0, "model.width", fmt::format("expected an even number, got {}", c.model.width));
  clash(c.model.head_dim % 2 != 0, "model.head_dim", fmt::format("expected an even number, got {}", c.model.head_dim));
  // A classifier halves its frames once more.
  const std::int64_t step = std::int64_t{1}
                            << std::min<std::size_t>(c.model.multipliers.size() - (c.is_classifier() ? 0 : 1), 20);
  clash(
      !architecture_from_base(c, "multipliers") && c.data.size % step != 0, "data.size",
      fmt::format(
          "expected a multiple of {} (model.multipliers has {} levels), got {}", step, c.model.multipliers.size(),
          c.data.size));
  clash(
      kind == "base" && c.train.action_drop > 0, "train.action_drop",
      "model.kind = base never sees actions | leave it out");
  clash(
      (c.is_controlnet() || !c.is_denoiser()) && c.train.action_drop > 0, "train.action_drop",
      fmt::format("model.kind = {} is never asked without actions | leave it out", kind));
  clash(
      !c.is_denoiser() && c.samples.every > 0, "samples.every",
      fmt::format("model.kind = {} makes no videos | leave it out", kind));
  clash(
      c.validation.every > 0 && c.data.validation.empty(), "validation.every",
      "validation needs held-out episodes | set data.validation, or validation.every = 0");
  clash(
      c.samples.steps > c.diffusion.timesteps, "samples.steps",
      fmt::format("expected <= diffusion.timesteps = {}, got {}", c.diffusion.timesteps, c.samples.steps));
}

}  // namespace avid::train
