// train/trainer.h -- a run: updates one after the other, with logs, validation, samples and checkpoints between them
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "train/batches.h"
#include "train/learner.h"
#include "train/run_folder.h"
#include "train/training_record.h"

namespace avid::train {

/// Why Trainer::run returned.
enum class TrainEnd { finished, time_limit, stopped };

/// What the caller is told between updates.
struct TrainProgress {
  std::int64_t update = 0, num_updates = 0;
  UpdateReport report;
  double clips_per_s = 0;  // over the last updates
  double seconds_left = 0;
  double memory_mib = 0;  // peak of tensors so far
};

struct TrainHooks {
  std::function<bool()> should_stop;                   // asked before every update
  std::function<void(const TrainProgress&)> progress;  // after every update
  std::function<void(const std::string&)> say;         // things worth a line: validation, skipped updates, checkpoints
};

class Trainer {
 public:
  /// Builds the networks and opens the data; goes on from the folder's newest checkpoint, if it has one.
  /// Networks compute on `device`; what is saved does not depend on it.
  Trainer(RunFolder& folder, TrainHooks hooks, Device device = {});

  /// Trains until train.updates, the time limit or should_stop; the folder then holds a checkpoint of exactly this
  /// state.
  /// Errors   Error after train.max_bad_steps non-finite updates in a row; FileError (disk full ...): the newest
  ///          checkpoint stays whole.
  TrainEnd run();

  const RunState& state() const { return state_; }
  /// The windows it draws from.
  const data::WindowSampler& windows() const { return batches_->loader().sampler(); }
  Learner& learner() { return *learner_; }
  const Trainee& trainee() const { return *trainee_; }
  double peak_memory_mib() const;
  /// The last logged value of this name, NaN if there is none.
  double last_logged(const std::string& name) const;

 private:
  void restore(const std::filesystem::path& checkpoint);
  void save();
  TrainingRecord cost_so_far() const;
  void after_update(std::int64_t k, const UpdateReport& report);
  void write_log_line(const UpdateReport& report);
  bool validate();  // true if it is the best so far
  void write_samples();
  void write_calibration();

  RunFolder& folder_;
  const TrainConfig& config_;
  TrainHooks hooks_;
  std::unique_ptr<Trainee> trainee_;
  std::unique_ptr<TrainingBatches> batches_;
  std::unique_ptr<ValidationBatches> validation_;
  std::unique_ptr<Learner> learner_;
  RunState state_;
  std::int64_t saved_update_ = -1;
  double window_seconds_ = 0;  // since the last log line, of this process
  std::int64_t window_updates_ = 0;
  double recent_clips_per_s_ = 0;
};

/// The learner's part of a configuration.
LearnerOptions learner_options(const TrainConfig& config);

/// The type that train.precision names.
DType activation_dtype(const TrainConfig& config);

/// Digests of what decides a run's numbers besides its configuration: "data.train" (over the frame checksums of all
/// shards) and "base.checkpoint" (sha256 of the file). Errors: FileError for anything missing or damaged at first
/// sight.
std::map<std::string, std::string> input_digests(const TrainConfig& config);

}  // namespace avid::train
