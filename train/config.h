// train/config.h -- what a training run is told: TOML file + --set overrides -> one typed, checked struct
//
// Every key is listed once, in config_keys.h (visit_keys), with its range and a line of help; reading, --set, hints to
// the nearest name, the resolved file in the run folder and the fingerprint all walk that list.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace avid::train {

struct TrainConfig {
  std::int64_t seed = 123;

  struct Run {
    std::string name;  // shown in the report
  } run;

  struct Data {
    std::vector<std::string> train, validation;  // episode stores (HDF5)
    std::int64_t size = 64;                      // frame height = width given to the model; frames are reduced to it
    std::int64_t cond_frames = 2, frames = 8;    // K and T
    std::string resets = "exclude";              // exclude | allow: may a window straddle a restart
    std::string windows = "full";                // full | reference: which starts exist
    std::int64_t levels = 0;                     // train on the first so many recorded levels; 0: all
  } data;

  struct Model {
    std::string kind;  // kModelKinds in config_keys.h
    std::int64_t width = 50;
    std::vector<std::int64_t> multipliers = {1, 2, 4, 8};
    std::int64_t heads = 4, head_dim = 50;
    std::int64_t actions = 15;
    std::int64_t mlp = 1024;                 // classifiers: width of the hidden layer
    std::string control_order = "reversed";  // controlnets: how the middle outputs enter the base (models/controlnet.h)
    bool zero_projection = false;            // controlnet_small: start from the base exactly
  } model;

  struct Base {
    std::string checkpoint;  // safetensors, torch checkpoint, or a run folder (its averaged weights)
  } base;

  struct Diffusion {
    std::string schedule = "sigmoid";
    std::int64_t timesteps = 200;
    std::string objective = "pred_x0";
    std::string loss_weight = "snr";
  } diffusion;

  struct Train {
    std::int64_t updates = 0;
    std::int64_t batch = 32, accumulate = 2;  // clips per micro-batch, micro-batches per update
    double lr = 1e-4;
    std::int64_t warmup = 1000, cooldown = 0;
    double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
    double clip = 1.0;
    double action_drop = 0.0;         // probability that a clip's actions are withheld (0.2 for guidance)
    std::int64_t max_bad_steps = 10;  // stop after so many non-finite updates in a row
    double time_limit_minutes = 0;    // 0: none
    std::string precision = "f32";    // f32 | bf16: type of the activations; weights and gradients are f32
    std::string graph = "auto";       // auto | on | off: on a device, record an update and repeat it
    std::string recompute = "none";   // none | blocks | levels: what is computed again on the way back
  } train;

  struct Ema {
    double decay = 0.995, power = 2.0 / 3.0;
    std::int64_t update_every = 10, update_after = 100;  // micro-batches
    std::int64_t start_counter = 0;  // 0: fresh start; the original continues the base run's counter
  } ema;

  struct Checkpoint {
    std::int64_t every = 1000, keep = 3;
  } checkpoint;

  struct Validation {
    std::int64_t every = 0, clips = 64;  // 0: never
    std::int64_t batch = 16;             // clips at once: see validation_batch()
  } validation;

  struct Samples {
    std::int64_t every = 0, clips = 4, steps = 20;
    std::int64_t batch = 16;  // clips at once: see samples_batch()
    double eta = 0.0;
  } samples;

  struct Log {
    std::int64_t every = 10;
    bool tensorboard = true;
  } log;

  bool is_avid() const { return model.kind.starts_with("avid"); }
  bool is_controlnet() const { return model.kind.starts_with("controlnet"); }
  bool is_classifier() const { return model.kind.ends_with("classifier"); }
  bool is_encoder() const { return model.kind == "clip_encoder"; }
  /// Trained to make videos; classifiers and encoders are not.
  bool is_denoiser() const { return !is_classifier() && !is_encoder(); }
  /// Trained on top of a frozen base.
  bool has_base() const { return is_avid() || is_controlnet(); }
  bool uses_actions() const { return model.kind != "base" && !is_encoder(); }
  /// Classifiers are used with the weights they were trained to, everything else with the average.
  bool uses_average() const { return !is_classifier(); }
  /// Clips that validation and samples go through at once: never more than training has room for. Fewer save memory and
  /// change no result; but a clip encoder's loss compares the clips of a batch, which is therefore that of training.
  std::int64_t validation_batch() const { return is_encoder() ? train.batch : at_most_train_batch(validation.batch); }
  std::int64_t samples_batch() const { return at_most_train_batch(samples.batch); }

  /// Whether files named in the configuration must exist; may_miss leaves unknown paths as they are (--dry-run).
  enum class Files { must_exist, may_miss };

  /// Reads and checks a file, then the overrides "a.b=value" in order. Relative paths in it are looked for from the
  /// current folder, then from the file's folder and those above it, and become absolute.
  /// Errors  FileError: cannot be read. ConfigError "config: key: expected X, got Y | file:line": syntax, unknown key
  ///         (with the nearest valid one), wrong type, out of range, keys that contradict each other, required key
  ///         missing.
  static TrainConfig load(
      const std::filesystem::path& file, const std::vector<std::string>& overrides = {},
      Files files = Files::must_exist);

  /// The same from text; `name` stands for the file in messages.
  static TrainConfig parse(
      const std::string& text, const std::string& name, const std::vector<std::string>& overrides = {},
      Files files = Files::must_exist);

  /// Every key with its value and a line of help, as TOML that parse() reads back to the same struct.
  std::string to_toml() const;

  /// sha256 over the keys that decide the numbers. How long, how often and where to log or save are left out:
  /// those may change when a run is resumed.
  std::string fingerprint() const;

  /// All keys, "train.lr" ..., in file order.
  static std::vector<std::string> keys();

 private:
  std::int64_t at_most_train_batch(std::int64_t clips) const {
    return clips == 0 ? train.batch : std::min(clips, train.batch);
  }
};

/// The candidate with the smallest edit distance to `word`; empty when none is near.
std::string nearest_name(const std::string& word, const std::vector<std::string>& candidates);

/// Of toml++, as "3.3.0".
std::string toml_library_version();

}  // namespace avid::train
