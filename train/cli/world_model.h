// train/cli/world_model.h -- what `avid sample` and `avid evaluate` load: a run or weight files, as one Denoiser
#pragma once

#include <CLI/CLI.hpp>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "diffusion/sampler.h"
#include "models/avid.h"
#include "models/pixel_denoiser.h"

namespace avid::cli {

/// How a model was named on the command line.
struct ModelFiles {
  std::filesystem::path run;        ///< a folder of avid train: everything below comes from its config.toml
  std::filesystem::path adapter;    ///< AVID adapter; needs base
  std::filesystem::path base;       ///< U-Net without actions, a weights file or a run
  std::filesystem::path model;      ///< U-Net that takes actions itself
  std::string schedule, objective;  ///< empty: from the files' metadata, else sigmoid and pred_x0
  std::int64_t timesteps = 0;       ///< 0: from the files' metadata, else 200
  std::string device = "cpu";       ///< where the networks compute
  std::string dtype = "f32";        ///< of their activations: f32 or bf16
};
/// Declares --run, --adapter, --base, --model, --schedule, --timesteps, --objective, --device, --dtype.
void add_model_options(CLI::App* command, ModelFiles& files);

/// A trained model with averaged weights, ready to sample.
class WorldModel {
 public:
  /// Errors   UsageError when the files do not name a model; FileError, ShapeError for what cannot be loaded.
  static std::unique_ptr<WorldModel> load(const ModelFiles& files);
  /// Another adapter on the same base.
  std::unique_ptr<WorldModel> with_adapter(const std::filesystem::path& adapter) const;

  diffusion::Denoiser& denoiser() { return avid_ ? static_cast<diffusion::Denoiser&>(*composed_) : *unet_denoiser_; }
  /// The frozen base, or null when the model has none.
  diffusion::Denoiser* base() { return avid_ ? unet_denoiser_.get() : nullptr; }
  bool uses_actions() const { return avid_ != nullptr || takes_actions_; }
  const diffusion::Schedule& schedule() const { return *schedule_; }
  /// Where conditioning frames must be; actions stay on the host.
  Device device() const { return device_; }
  std::int64_t cond_frames() const { return unet_->config().cond_frames; }
  std::int64_t num_actions() const { return avid_ ? avid_->config().adapter.num_actions : unet_->config().num_actions; }
  /// Frames it was trained to generate, and their size; 0 when the files do not say.
  std::int64_t trained_frames() const { return trained_frames_; }
  std::int64_t trained_size() const { return trained_size_; }
  /// Throws ConfigError unless frames of this size go through the networks.
  void check_size(std::int64_t height, std::int64_t width) const;
  /// "base" -> path and "sha256.base" -> digest, and so on: for metadata.
  const std::map<std::string, std::string>& sources() const { return sources_; }

 private:
  WorldModel() = default;
  void load_unet(
      const std::filesystem::path& path, const char* role, bool takes_actions, diffusion::Objective objective);
  void load_adapter(const std::filesystem::path& path);

  std::shared_ptr<Unet3d> unet_;  // shared by with_adapter
  std::unique_ptr<PixelDenoiser> unet_denoiser_;
  std::unique_ptr<Avid> avid_;
  std::unique_ptr<AvidDenoiser> composed_;
  std::shared_ptr<const diffusion::Schedule> schedule_;
  bool takes_actions_ = false;
  Device device_;
  DType activations_ = DType::f32;
  std::int64_t trained_frames_ = 0, trained_size_ = 0;
  std::map<std::string, std::string> sources_;
};

/// How to sample, from the command line.
struct SamplingFlags {
  std::string sampler = "ddim";
  std::int64_t steps = 0;  ///< 0: 20 for ddim, all for ddpm
  double eta = 0;
  std::uint64_t seed = 0;
  std::int64_t batch = 8;
};
/// Declares --sampler, --steps, --eta, --seed, --batch.
void add_sampling_options(CLI::App* command, SamplingFlags& flags);
/// Errors   UsageError for a sampler or number of steps that the schedule does not allow.
diffusion::SamplerOptions sampler_options(const SamplingFlags& flags, const diffusion::Schedule& schedule);

/// Reports steps on stderr, on one line that is redrawn when it is a terminal; silent otherwise.
void show_sampling_progress(diffusion::SamplerOptions& options, const std::string& what);

}  // namespace avid::cli
