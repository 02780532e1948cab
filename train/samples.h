// train/samples.h -- pictures of what the model makes of held-out clips, during training
#pragma once

#include <filesystem>

#include "data/loader.h"
#include "diffusion/schedule.h"
#include "train/config.h"
#include "train/trainee.h"

namespace avid::train {

/// Samples every clip, TrainConfig::samples_batch() at once, with the weights the trainee now has and writes clip_N.png
/// (a strip) and clip_N.gif into `folder`: real frames, the base's and the model's samples from the same noise, and the
/// mask of the last step (white = the base is used).
void write_training_samples(
    const std::filesystem::path& folder, const TrainConfig& config, Trainee& trainee,
    const diffusion::Schedule& schedule, const data::Batch& clips);

}  // namespace avid::train
