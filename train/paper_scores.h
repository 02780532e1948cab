// train/paper_scores.h -- files of avid evaluate as the report reads them: one row of each, by method
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "eval/metrics/bootstrap.h"
#include "eval/paper_tables.h"
#include "tensor/io/json.h"

namespace avid::train {

/// One column of our numbers. Substitutes are this project's own metrics on Procgen frames: they stand beside the
/// paper's column under their own names, never in it.
struct Measure {
  eval::PaperMetric paper;  ///< the column of the paper that it belongs to
  const char* key;          ///< in a row of avid evaluate
  const char* label;
  bool substitute = false;
};
inline constexpr std::array<Measure, 8> kMeasures = {{
    {eval::PaperMetric::aer, "aer", "Action Err. Ratio"},
    {eval::PaperMetric::fvd, "fvd_i3d", "FVD"},
    {eval::PaperMetric::fid, "fid_ref", "FID"},
    {eval::PaperMetric::ssim, "ssim", "SSIM"},
    {eval::PaperMetric::lpips, "lpips", "LPIPS"},
    {eval::PaperMetric::psnr, "psnr", "PSNR"},
    {eval::PaperMetric::fvd, "fvd_procgen", "fvd_procgen", true},
    {eval::PaperMetric::fid, "fid_procgen", "fid_procgen", true},
}};

/// What the networks of a method cost to train; unknown parts are 0.
struct TrainingCost {
  double flop = 0, base_flop = 0;      ///< of what the method trained itself, and of the base below it
  std::int64_t clips = 0, frames = 0;  ///< seen, and in the training data
};

/// One method's scores: the row chosen out of a file of avid evaluate.
struct MethodScores {
  std::string row;                                       // its name in the file
  std::string chosen_by;                                 // the metric that chose it out of a sweep; else empty
  std::map<std::string, eval::Interval> measures;        // by Measure::key
  Json extra;                                            // metrics that are no column: "mse", "acc_real", ...
  std::map<std::string, std::vector<double>> per_clip;   // "psnr", "ssim", "lpips", "acc"
  std::map<std::string, std::vector<double>> resamples;  // of distances between sets, by Measure::key
  std::string resampling;                                // seed and number: equal ones drew the same clips
  TrainingCost training;
  Json record, masks;

  std::optional<double> value(const Measure& measure) const;
  /// The paper's own metrics, without substitutes.
  eval::PaperValues paper_values() const;
};

/// Scores of every method that has a file DATASET__METHOD.json in the folder.
struct PaperScores {
  std::vector<eval::PaperTable> tables;
  std::map<std::string, MethodScores> methods;  // by PaperRow::id()
  std::vector<std::string> unknown;             // names of .json files that no row of any table stands for
  bool aer_is_blind = false;                    // a file warns of it; all have one judge and the same real clips

  const MethodScores* find(const eval::PaperRow& row) const;
  /// Whether anything may be concluded from a column. Otherwise its numbers stand in the tables and count nowhere.
  bool counts(const Measure& measure) const { return !aer_is_blind || measure.paper != eval::PaperMetric::aer; }
};

/// `only_tables` empty: all. Of a sweep the weight with the best FVD is taken as in the paper; without FVD by the
/// Procgen encoder, without that by PSNR.
/// Errors   FileError for a damaged file; ConfigError when two were scored on different clips, with different weights
///          of one network, or under different values of one switch; UsageError for no table.
PaperScores read_paper_scores(
    const std::filesystem::path& tables, const std::filesystem::path& scores, const std::vector<int>& only_tables);

/// How much better `a` is than `b` (positive: better), as an interval over the same resampled clips; nothing where the
/// files do not hold what that needs.
std::optional<eval::Interval> advantage(const MethodScores& a, const MethodScores& b, const Measure& measure);

}  // namespace avid::train
