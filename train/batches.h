// train/batches.h -- from episodes to micro-batches, with every random number keyed by (seed, update, clip)
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/loader.h"
#include "train/config.h"
#include "train/learner.h"

namespace avid::train {

/// The clips of an update are numbered through its micro-batches, and each clip's window, noise, time and drop decision belong
/// to (seed, update, number): 2 micro-batches of 32 are the same clips as one of 64.
class TrainingBatches {
 public:
  /// Errors   FileError, ConfigError: data missing, damaged, too short, of another size, actions the model does not have.
  /// Noise is drawn on `device`; everything else is on the host.
  explicit TrainingBatches(const TrainConfig& config, Device device = {});

  /// Begins to read ahead.
  void start(std::int64_t update);
  /// Micro-batch i of update k. Ask in order after start(); anything else works too, more slowly.
  TrainBatch micro_batch(std::int64_t update, std::int64_t i);

  const data::Loader& loader() const { return *loader_; }

 private:
  TrainConfig config_;
  Device device_;
  std::unique_ptr<data::Loader> loader_;
  data::Batch current_;
  std::int64_t current_update_ = -1, next_update_ = -1;
};

/// The same held-out clips every time, with fixed noise and times spread evenly over the schedule.
class ValidationBatches {
 public:
  explicit ValidationBatches(const TrainConfig& config, Device device = {});
  std::int64_t num_batches() const;
  TrainBatch batch(std::int64_t i) const;
  std::int64_t num_clips() const { return static_cast<std::int64_t>(starts_.size()); }
  const data::Loader& loader() const { return *loader_; }
  /// Frames and actions of the first `count` clips.
  data::Batch clips(std::int64_t count) const;

 private:
  TrainConfig config_;
  Device device_;
  std::unique_ptr<data::Loader> loader_;
  std::vector<std::int64_t> starts_;
};

/// u8 [b,K+T,H,W,3] -> cond [b,K,H,W,3] and x0 [b,T,H,W,3], in [-1,1].
struct SplitClips {
  Tensor cond, x0;
};
SplitClips split_clips(const Tensor& frames, std::int64_t num_cond);

}  // namespace avid::train
