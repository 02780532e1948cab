// train/cli/classifier_file.h -- action classifiers of the command line: a judge reads clean frames, a guide noisy ones
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "models/action_classifier.h"

namespace avid::cli {

/// The classifier that reads actions off finished clips, for the Action Error Ratio. Frozen, f32.
/// `file`   its weights (train::base_weights_path of a run); `cond_frames` those before the clips
/// Errors   those of load_action_classifier; ConfigError for one trained on noisy frames.
std::unique_ptr<ActionClassifier> load_judge(const std::filesystem::path& file, std::int64_t cond_frames);

/// The classifier whose gradient guides a sampler. Frozen, f32; ConfigError for one trained on clean frames.
std::unique_ptr<ActionClassifier> load_guide(const std::filesystem::path& file, std::int64_t cond_frames);

}  // namespace avid::cli
