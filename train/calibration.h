// train/calibration.h -- a classifier's calibration record: how far its probabilities can be trusted on held-out clips
//
// Written as calibration.json into the run's folder when training ends, shown in its report and by avid evaluate.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "train/batches.h"

namespace avid::train {

inline constexpr const char* kCalibrationFile = "calibration.json";
inline constexpr int kNoiseBands = 5;  ///< of equal width over the diffusion times

/// Predictions of `weights` (a classifier of this configuration) on all validation clips.
///
/// {"weights_sha256", "clips", "data", "all": {...}} with the values of eval/metrics/calibration.h; a noisy classifier
/// also has "noise_bands": [{"t_from", "t_to", ...}], because it sees each clip at one time, spread over the schedule.
/// Errors   those of loading the weights.
nlohmann::ordered_json calibrate(
    const TrainConfig& config, const std::filesystem::path& weights, const ValidationBatches& clips, Device device);

/// The record that belongs to these very weights: in the run `place`, in the run that the file `place` lies in, or
/// beside that file (judge.safetensors, judge.calibration.json). Null when there is none, or when it is of other
/// weights.
nlohmann::ordered_json find_calibration(const std::filesystem::path& place);

/// The same without bins and bands, for the record of a score: count, accuracy, confidence, probability, log_loss, ece.
nlohmann::ordered_json calibration_summary(const std::filesystem::path& place);

/// "accuracy 0.267, mean probability of the true action 0.201, calibration error 0.013 (8192 predictions)".
std::string calibration_text(const nlohmann::ordered_json& values);

/// A section of a run's report: summary, reliability plot and noise bands; empty without a record.
std::string calibration_html(const std::filesystem::path& run);

}  // namespace avid::train
