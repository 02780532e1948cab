// train/cli/world_model.h -- what `avid sample` and `avid evaluate` load: networks and a method, as one Denoiser
//
// Methods stack, each on what the ones before it made:
//   1. a network:   a base, a U-Net that takes actions, an AVID adapter on a base, or a ControlNet on a base
//   2. mixtures:    product of experts with an action model, then action guidance by it
//   3. guidance of the DDPM sampler by a classifier
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/compose.h"
#include "diffusion/sampler.h"
#include "models/action_classifier.h"
#include "models/avid.h"
#include "models/controlnet.h"
#include "models/pixel_denoiser.h"
#include "train/cli/command.h"
#include "train/cli/model_files.h"
#include "train/frozen_base.h"

namespace avid::cli {

/// A trained model with averaged weights, ready to sample.
class WorldModel {
 public:
  /// With the first weights of every sweep.
  /// Errors   UsageError when the files do not name a model, or ones that do not go together; FileError, ShapeError
  ///          for what cannot be loaded; ConfigError for networks that do not fit each other.
  static std::unique_ptr<WorldModel> load(const ModelFiles& files);
  /// Another adapter on the same base, without mixtures and guidance.
  std::unique_ptr<WorldModel> with_adapter(const std::filesystem::path& adapter) const;
  /// Other weights of the mixtures and the guidance.
  void set_weights(const MethodWeights& weights);
  const MethodWeights& weights() const { return weights_; }

  diffusion::Denoiser& denoiser() { return *top_; }
  /// The frozen base alone, or null when there is none beside the model.
  diffusion::Denoiser* base() { return has_base_ ? network_->denoiser.get() : nullptr; }
  /// Sets the sampler's guidance; nothing without a guiding classifier. UsageError for another sampler than DDPM, and
  /// for graph = on where no step can be recorded.
  void guide(diffusion::SamplerOptions& options) const;
  /// Refuses now what guide() would refuse once there is data to sample from.
  void check_sampling(diffusion::SamplerOptions options) const { guide(options); }
  bool uses_actions() const { return uses_actions_; }
  const diffusion::Schedule& schedule() const { return *schedule_; }
  /// Where conditioning frames must be; actions stay on the host.
  Device device() const { return device_; }
  std::int64_t cond_frames() const { return network_->cond_frames; }
  std::int64_t num_actions() const { return num_actions_; }
  /// Frames it was trained to generate, and their size; 0 when the files do not say.
  std::int64_t trained_frames() const { return trained_frames_; }
  std::int64_t trained_size() const { return trained_size_; }
  /// "avid", "controlnet", "model", "base": what the first network is.
  const std::string& kind() const { return kind_; }
  /// The method in a word or two, for pictures: "avid", "poe 0.4".
  std::string label() const { return weights_.text().empty() ? kind_ : weights_.text(); }
  /// Throws ConfigError unless frames of this size go through the networks.
  void check_size(std::int64_t height, std::int64_t width) const;
  /// "base" -> path and "sha256.base" -> digest, and so on, and the method's weights: for metadata.
  std::map<std::string, std::string> sources() const;

 private:
  WorldModel() = default;
  void load_adapter(const std::filesystem::path& path);
  void load_controlnet(const std::filesystem::path& path, const std::string& order);
  /// `answers_without`: it will be asked without actions as well.
  void load_action_model(const std::filesystem::path& path, bool answers_without);
  void load_guidance(const std::filesystem::path& path);
  void note(const std::string& role, const std::string& place, const std::string& sha256);

  std::shared_ptr<train::FrozenBase> network_;  // shared by with_adapter
  std::unique_ptr<Avid> avid_;
  std::unique_ptr<ControlNet> control_;
  std::unique_ptr<diffusion::Denoiser> adapted_;  // AVID or ControlNet on network_
  std::unique_ptr<train::FrozenBase> action_model_;
  std::unique_ptr<diffusion::Denoiser> experts_, action_guidance_;
  std::unique_ptr<ActionClassifier> classifier_;
  diffusion::Denoiser* top_ = nullptr;
  std::shared_ptr<const diffusion::Schedule> schedule_;
  Device device_;
  DType activations_ = DType::f32;
  MethodWeights weights_;
  std::int64_t first_t_ = 0;
  bool takes_actions_ = false, uses_actions_ = false, has_base_ = false;
  std::int64_t num_actions_ = 0, multiple_ = 1, image_size_ = 0;
  std::int64_t trained_frames_ = 0, trained_size_ = 0;
  std::string kind_;
  std::map<std::string, std::string> sources_;
};

/// How to sample, from the command line.
struct SamplingFlags {
  std::string sampler = "ddim";
  std::int64_t steps = 0;  ///< 0: 20 for ddim, all for ddpm
  double eta = 0;
  std::uint64_t seed = 0;
  std::int64_t batch = 8;
  std::string graph = "auto";
};
/// Declares --sampler, --steps, --eta, --seed, --batch, --graph.
void add_sampling_options(Command* command, SamplingFlags& flags);
/// Errors   UsageError for a sampler or number of steps that the schedule does not allow, or that guidance does not.
diffusion::SamplerOptions sampler_options(const SamplingFlags& flags, const diffusion::Schedule& schedule);

/// Reports steps on stderr, on one line that is redrawn when it is a terminal; silent otherwise.
void show_sampling_progress(diffusion::SamplerOptions& options, const std::string& what);

}  // namespace avid::cli
