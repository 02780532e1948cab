// train/cli/evaluation.h -- rows of avid evaluate: samples of each method on the same clips, and all their scores
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "eval/metrics/action_predictor.h"
#include "eval/score_table.h"
#include "tensor/io/json.h"
#include "train/cli/held_out_clips.h"
#include "train/cli/kept_clips.h"
#include "train/cli/metric_options.h"
#include "train/cli/world_model.h"

namespace avid::cli {

/// How rows are made and scored.
struct ScoringOptions {
  SamplingFlags sampling;
  std::filesystem::path classifier;  ///< for the Action Error Ratio; empty: without it
  std::filesystem::path keep_clips;  ///< folder of KeptClips; empty: nothing is kept
  std::string dtype = "f32";         ///< of the networks' activations, for the record
  eval::BootstrapOptions bootstrap;
};

/// Collects rows, and for each the mean mask per diffusion step. Everything passed in outlives it.
class Evaluation {
 public:
  /// Fails at once, not after the sampling, when a metric that was asked for cannot be computed.
  Evaluation(const ScoringOptions& options, const MetricChoice& choice, const HeldOutClips& clips);

  /// Samples, unless the clips are kept from before, and scores. `world` guides the sampler where it has guidance; null
  /// for a base alone. `sources`: WorldModel::sources() of the networks that take part.
  void add(
      const std::string& name, diffusion::Denoiser& denoiser, const diffusion::Schedule& schedule,
      const Tensor& actions, const WorldModel* world, const std::map<std::string, std::string>& sources);
  void add_repeat_last_frame();
  /// A paired difference between two rows.
  void compare(const std::string& a, const std::string& b) { table_.compare(a, b); }

  /// Rows, paired differences, weights, switches, masks, seconds, and what later comparisons need (scores per clip and
  /// per resample), into `report`.
  void write(Json& report) const;
  /// Lines for people: the table, and the scores behind it.
  std::string text() const;

  static constexpr const char* kRepeat = "repeat-last-frame";

 private:
  /// What a row has beside the frame metrics of the table.
  struct MoreScores {
    eval::NetworkScores networks;
    eval::ActionScores actions;  ///< empty without a classifier
  };

  /// `actions`: those that the clips were generated with; the data's when undefined.
  void add_clips(const std::string& name, const Tensor& made, const Tensor& actions);
  /// Everything that the frames of a row depend on, for KeptClips.
  Json made_from(
      diffusion::Denoiser& denoiser, const diffusion::Schedule& schedule, const diffusion::SamplerOptions& sampler,
      const Tensor& actions, const std::map<std::string, std::string>& sources) const;
  KeptClips::Clips sample(
      const std::string& name, diffusion::Denoiser& denoiser, const diffusion::Schedule& schedule,
      diffusion::SamplerOptions sampler, const Tensor& actions) const;
  void add_scores(Json& row) const;
  void add_difference(Json& difference) const;
  /// Per row: both accuracies, mean probability of the true action, and their ratio with its interval over clips.
  Json action_errors() const;
  /// Per row and metric one number per clip: what paired differences between reports need.
  Json per_clip() const;

  const ScoringOptions& options_;
  const MetricChoice& choice_;
  const HeldOutClips& clips_;
  eval::ScoreTable table_;
  eval::NetworkScorer scorer_;
  std::unique_ptr<ActionClassifier> classifier_;
  eval::ActionScores real_actions_;
  std::map<std::string, MoreScores> more_;
  std::map<std::string, std::string> unavailable_;
  std::vector<std::string> warnings_;
  KeptClips kept_;
  Json masks_ = Json::object(), seconds_ = Json::object(), reused_ = Json::object();
};

}  // namespace avid::cli
