// train/batches.h -- from episodes to micro-batches, with every random number keyed by (seed, update, clip)
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/loader.h"
#include "kernels/device/runtime.h"
#include "train/config.h"
#include "train/learner.h"

namespace avid::train {

/// u8 [b,K+T,H,W,3] -> cond [b,K,H,W,3] and x0 [b,T,H,W,3], in [-1,1], where the frames are.
struct SplitClips {
  Tensor cond, x0;
};
SplitClips split_clips(const Tensor& frames, std::int64_t num_cond);

/// The clips of an update are numbered through its micro-batches, and each clip's window, noise, time and drop decision
/// belong to (seed, update, number): 2 micro-batches of 32 are the same clips as one of 64.
class TrainingBatches {
 public:
  /// Errors   FileError, ConfigError: data missing, damaged, too short, of another size, actions the model does not
  ///          have.
  /// Noise and clips are on `device`, times, actions and drops on the host.
  explicit TrainingBatches(const TrainConfig& config, Device device = {});

  /// Begins to read ahead.
  void start(std::int64_t update);
  /// Sends the bytes of an update's frames on their way to a device, beside what it is doing; nothing on the CPU. To be
  /// called for the next update once the device has its work, before micro_batch() is asked for it.
  void send_ahead(std::int64_t update);
  /// Micro-batch i of update k. Ask in order after start(); anything else works too, more slowly.
  TrainBatch micro_batch(std::int64_t update, std::int64_t i);

  const data::Loader& loader() const { return *loader_; }

 private:
  /// The clips of an update. On a device there are two, one in use and one on its way.
  struct Clips {
    std::int64_t update = -1;
    data::Batch host;
    Tensor frames;  // of a device: host.frames there
    std::unique_ptr<kernels::Upload> upload;
    bool arrived = false;
  };
  data::Batch read(std::int64_t update);
  Clips& clips_of(std::int64_t update);
  SplitClips part_of(Clips& clips, std::int64_t first, std::int64_t end) const;

  TrainConfig config_;
  Device device_;
  std::unique_ptr<data::Loader> loader_;
  std::array<Clips, 2> clips_;
  std::int64_t next_update_ = -1;
};

/// The same held-out clips every time, with fixed noise and times spread evenly over the schedule; in batches of
/// TrainConfig::validation_batch() clips.
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

}  // namespace avid::train
