// train/config_keys.h -- the one list of all keys of a configuration, with range and help (private to config*.cpp)
//
// config_toml.cpp reads by it, config.cpp writes and fingerprints by it, config_rules.cpp says which keys go together.
#pragma once

#include <limits>
#include <map>
#include <string>
#include <vector>

#include <fmt/ranges.h>

#include "train/config.h"

namespace avid::train {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// What a value may be.
struct Rule {
  double low = -kInfinity, high = kInfinity;
  bool above = false;  // low itself is not allowed
  std::vector<std::string> choices;
  bool path = false;  // looked for and made absolute

  std::string text() const {
    if (!choices.empty()) return fmt::format("one of {}", fmt::join(choices, ", "));
    if (high == kInfinity) return fmt::format("{} {}", above ? ">" : ">=", low);
    return fmt::format("{} {} and <= {}", above ? ">" : ">=", low, high);
  }
};

/// What can be trained (train/README.md says what each is).
inline const std::vector<std::string> kModelKinds = {
    "base",        "avid",       "avid_no_mask",     "avid_no_cond", "scratch",
    "finetune",    "controlnet", "controlnet_small", "classifier",   "noisy_classifier",
    "clip_encoder"};

inline Rule any() { return {}; }
inline Rule at_least(double low) { return {.low = low, .choices = {}}; }
inline Rule more_than(double low) { return {.low = low, .above = true, .choices = {}}; }
inline Rule between(double low, double high) { return {.low = low, .high = high, .choices = {}}; }
inline Rule one_of(std::vector<std::string> choices) { return {.choices = std::move(choices)}; }
inline Rule file_path() { return {.choices = {}, .path = true}; }

/// The one list. Config is TrainConfig or const TrainConfig; visit is called as visit(key, value, rule, help).
template <class Config, class Visit>
void visit_keys(Config& c, Visit&& visit) {
  visit("seed", c.seed, at_least(0), "every random number of the run follows from it");
  visit("run.name", c.run.name, any(), "shown in the report");
  visit("data.train", c.data.train, file_path(), "episode stores to train on");
  visit("data.validation", c.data.validation, file_path(), "held-out episode stores");
  visit("data.size", c.data.size, between(4, 1024), "frame height and width in pixels; frames are reduced to it");
  visit("data.cond_frames", c.data.cond_frames, between(1, 64), "K: clean frames that start a clip");
  visit("data.frames", c.data.frames, between(1, 256), "T: frames the model generates");
  visit(
      "data.resets", c.data.resets, one_of({"exclude", "allow"}),
      "whether a window may straddle a restart of the level");
  visit("data.windows", c.data.windows, one_of({"full", "reference"}), "every start, or only those the original uses");
  visit("data.levels", c.data.levels, at_least(0), "train on the first so many recorded levels of data.train; 0: all");
  visit("model.kind", c.model.kind, one_of(kModelKinds), "what is trained");
  visit("model.width", c.model.width, between(4, 4096), "base width d of the trained U-Net");
  visit("model.multipliers", c.model.multipliers, between(1, 64), "width of each level, in units of d");
  visit("model.heads", c.model.heads, between(1, 256), "attention heads");
  visit("model.head_dim", c.model.head_dim, between(2, 1024), "width of a temporal attention head");
  visit("model.actions", c.model.actions, between(1, 1e6), "number of discrete actions");
  visit("model.mlp", c.model.mlp, between(1, 1e6), "classifiers: width of the hidden layer");
  visit(
      "model.control_order", c.model.control_order, one_of({"reversed", "natural"}),
      "controlnets: how the two middle outputs enter the base; reversed as in the original");
  visit(
      "model.zero_projection", c.model.zero_projection, any(),
      "controlnet_small: zero the biases of the projections, so that it starts as the base");
  visit(
      "base.checkpoint", c.base.checkpoint, file_path(),
      "frozen base (avid*, controlnet*) or starting weights (finetune): file, run folder or http://host:port");
  visit("diffusion.schedule", c.diffusion.schedule, one_of({"sigmoid", "cosine", "linear"}), "noise schedule");
  visit("diffusion.timesteps", c.diffusion.timesteps, between(2, 100000), "N: diffusion steps");
  visit(
      "diffusion.objective", c.diffusion.objective, one_of({"pred_x0", "pred_noise", "pred_v"}),
      "what the network's output means");
  visit(
      "diffusion.loss_weight", c.diffusion.loss_weight, one_of({"snr", "min_snr", "none"}),
      "weight of a clip in the loss");
  visit("train.updates", c.train.updates, at_least(1), "optimiser updates");
  visit("train.batch", c.train.batch, between(1, 1e6), "clips per micro-batch");
  visit("train.accumulate", c.train.accumulate, between(1, 1e6), "micro-batches per update");
  visit("train.lr", c.train.lr, at_least(0), "learning rate of Adam after the warm-up");
  visit("train.warmup", c.train.warmup, at_least(0), "update k (from 0) uses lr * min(1, k / warmup); 0: no warm-up");
  visit(
      "train.cooldown", c.train.cooldown, at_least(0),
      "the last so many updates lower the rate to 0 in a straight line; 0: none (the paper)");
  visit("train.beta1", c.train.beta1, between(0, 0.9999999), "Adam: decay of the mean");
  visit("train.beta2", c.train.beta2, between(0, 0.9999999), "Adam: decay of the mean square");
  visit("train.eps", c.train.eps, more_than(0), "Adam: added to the root");
  visit("train.clip", c.train.clip, more_than(0), "largest global gradient norm; inf: no clipping");
  visit(
      "train.action_drop", c.train.action_drop, between(0, 1),
      "probability that a clip's actions are withheld (0.2 for guidance)");
  visit("train.max_bad_steps", c.train.max_bad_steps, at_least(1), "stop after so many non-finite updates in a row");
  visit(
      "train.time_limit_minutes", c.train.time_limit_minutes, at_least(0),
      "stop after so many minutes of training; 0: no limit");
  visit(
      "train.precision", c.train.precision, one_of({"f32", "bf16"}),
      "type of the activations; weights, gradients and losses are f32");
  visit(
      "train.graph", c.train.graph, one_of({"auto", "on", "off"}),
      "on a device, record one update and repeat it; auto: where that is possible");
  visit(
      "train.recompute", c.train.recompute, one_of({"none", "blocks", "levels"}),
      "forget activations inside U-Net blocks or levels and compute them again on the way back: less memory, "
      "more time");
  visit("ema.decay", c.ema.decay, between(0, 1), "largest decay of the averaged weights");
  visit("ema.power", c.ema.power, more_than(0), "decay grows as 1 - (1 + s - update_after)^-power");
  visit("ema.update_every", c.ema.update_every, at_least(1), "micro-batches from one average to the next");
  visit("ema.update_after", c.ema.update_after, at_least(0), "micro-batches during which the average is a copy");
  visit(
      "ema.start_counter", c.ema.start_counter, at_least(0),
      "0: fresh start; the original goes on from the base run's counter (520000)");
  visit("checkpoint.every", c.checkpoint.every, at_least(1), "updates from one checkpoint to the next");
  visit("checkpoint.keep", c.checkpoint.keep, at_least(1), "newest checkpoints to keep, besides the best");
  visit("validation.every", c.validation.every, at_least(0), "updates from one validation to the next; 0: never");
  visit("validation.clips", c.validation.clips, at_least(1), "held-out clips per validation, always the same");
  visit(
      "validation.batch", c.validation.batch, between(0, 1e6),
      "clips evaluated at once, at most train.batch; 0: train.batch. Decides memory, not the result");
  visit("samples.every", c.samples.every, at_least(0), "updates from one set of samples to the next; 0: never");
  visit("samples.clips", c.samples.clips, between(1, 64), "clips to sample");
  visit(
      "samples.batch", c.samples.batch, between(0, 1e6),
      "clips sampled at once, at most train.batch; 0: train.batch. Decides memory, not the result");
  visit("samples.steps", c.samples.steps, at_least(1), "DDIM steps");
  visit("samples.eta", c.samples.eta, between(0, 1), "DDIM noise; 0: deterministic");
  visit("log.every", c.log.every, at_least(1), "updates from one log line to the next");
  visit("log.tensorboard", c.log.tensorboard, any(), "write TensorBoard events as well");
}

/// Whether a clip encoder lacks this part of the architecture ("heads").
bool absent_in_encoder(const TrainConfig& c, const std::string& name);

/// Whether this part of the architecture comes from base.checkpoint instead of the configuration.
bool architecture_from_base(const TrainConfig& c, const std::string& name);

/// Refuses keys that exclude each other or miss one another. `given` has a place ("file:line") for every key that the
/// user wrote, as opposed to defaults; `name` stands for the file. Throws ConfigError.
void check_together(const TrainConfig& c, const std::map<std::string, std::string>& given, const std::string& name);

}  // namespace avid::train
