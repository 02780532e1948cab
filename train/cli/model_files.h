// train/cli/model_files.h -- which networks and which method a command line names
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/cli/command.h"
#include "train/cli/route_options.h"

namespace avid::cli {

/// How a model was named on the command line.
struct ModelFiles {
  std::filesystem::path run;            ///< a folder of avid train: networks and settings come from its config.toml
  std::filesystem::path adapter;        ///< AVID adapter; needs base
  std::filesystem::path controlnet;     ///< ControlNet; needs base
  std::string base;                     ///< U-Net without actions: a weights file, a run, or http://host:port
  std::filesystem::path model;          ///< U-Net that takes actions itself
  std::string control_order;            ///< empty: as trained, else reversed
  std::filesystem::path action_model;   ///< second network of the mixtures
  std::vector<double> poe, action_cfg;  ///< weights; more than one is a sweep
  std::filesystem::path guidance_classifier;
  std::vector<double> guidance;     ///< weights of classifier guidance
  std::int64_t first_t = 0;         ///< mixtures and guidance have weight 0 for t below it
  bool base_sees_actions = false;   ///< the reference's quirk: a base whose action table was never trained gets actions
  std::string schedule, objective;  ///< empty: from the files' metadata, else sigmoid and pred_x0
  std::int64_t timesteps = 0;       ///< 0: from the files' metadata, else 200
  std::string device = "cpu";       ///< where the networks compute
  std::shared_ptr<RouteOptions> routes = std::make_shared<RouteOptions>();  ///< and with whose kernels
  std::string dtype = "f32";                                                ///< of their activations: f32 or bf16
};
/// Declares the options of everything above. `guidance_names`: what the guiding classifier's option is called.
void add_model_options(
    Command* command, ModelFiles& files, const std::string& guidance_names = "--guidance-classifier");

/// One choice of weights out of the sweeps.
struct MethodWeights {
  std::optional<double> poe, action_cfg, guidance;
  /// "poe 0.4", "poe 0.4, guidance 0.1", empty without any.
  std::string text() const;
};
/// Every combination of the listed weights; one without weights when nothing is mixed.
std::vector<MethodWeights> sweep(const ModelFiles& files);

/// What goes together, before anything is loaded. Throws UsageError.
void check_model_files(const ModelFiles& files);

}  // namespace avid::cli
