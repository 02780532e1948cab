// train/frozen_base.h -- the frozen base of a run: a network from a file, or a denoiser in another process
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "diffusion/denoiser.h"
#include "models/cost.h"
#include "models/unet3d.h"

namespace avid::train {

/// What is known of a base. Everything but `unet` is there for a served one too.
struct FrozenBase {
  std::unique_ptr<Unet3d> unet;  // null for a served base; ControlNet and finetuning need it
  std::unique_ptr<diffusion::Denoiser> denoiser;
  std::int64_t cond_frames = 2;
  std::int64_t multiple = 1;  // height and width must be multiples of it
  std::int64_t parameters = 0;
  // Empty or 0 where the files do not say.
  std::string schedule, objective;
  std::int64_t timesteps = 0, frames = 0, size = 0;
  std::string source, sha256;
  double flops_per_pixel = 0;  // of one forward pass, for a served base
  /// Moves the network to a device and sets the type of its activations; nothing for a served base.
  void place(Device device, DType activations);
  /// FLOPs of one forward pass.
  double forward_flops(const VideoSize& size) const;
};

/// Opens a base as a Denoiser that is asked without actions (see_actions: with them, if they are given).
/// `place`   a weights file, a run folder (its averaged weights), or "http://host:port" of avid serve-denoiser.
/// Errors    FileError, ShapeError; ConfigError for a network with other than 3 output channels; those of
///           ServedDenoiser.
FrozenBase open_base(const std::string& place, const std::string& objective = {}, bool sees_actions = false);

/// The weights file that base.checkpoint means: the file itself, or for a run folder the averaged weights of its best
/// checkpoint, or of its newest when there was no validation. A classifier's run gives the weights themselves.
std::filesystem::path base_weights_path(const std::filesystem::path& checkpoint);

/// sha256 of the base that a run was trained on; empty where it noted none.
std::string base_digest_of_run(const std::filesystem::path& run);

/// sha256 of what base_weights_path names, or what a server says of its weights.
std::string base_digest(const std::string& place);

}  // namespace avid::train
