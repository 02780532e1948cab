// train/training_record.h -- what a training has cost so far, kept in the metadata of the weights that it made
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace avid::train {

struct TrainingRecord {
  double flop = 0;          ///< forward and backward (3x) of what was trained, forward of what was frozen
  std::int64_t clips = 0;   ///< clips seen, repeats counted
  std::int64_t frames = 0;  ///< frames of the training data
};

/// avid.training_flop, avid.training_clips, avid.training_frames.
void add_training_record(std::map<std::string, std::string>& metadata, const TrainingRecord& record);

/// Of a weights file; nothing when it does not say (other programs' files, older ones) or when there is no such file.
/// Errors   FileError for a damaged file or number.
std::optional<TrainingRecord> read_training_record(const std::filesystem::path& weights);

}  // namespace avid::train
