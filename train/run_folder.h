// train/run_folder.h -- everything a run leaves on the disk
//
//   config.toml         the resolved configuration; --resume reads it
//   run.json            seed, version, commit, device, threads, routes, start, digests of the inputs
//   lock                held while a process works here
//   log.jsonl log.csv events.out.tfevents.*
//   checkpoints/        step_XXXXXXXX/, latest, best
//   samples/  plots/*.svg  report.html
//   calibration.json    classifiers, when training has ended (calibration.h)
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/io/new_folder.h"
#include "train/config.h"
#include "train/run_lock.h"
#include "train/run_log.h"
#include "train/run_state.h"

namespace avid::train {

/// What run.json says.
struct RunInfo {
  std::int64_t seed = 0;
  std::string version, commit, device = "cpu", started;
  int threads = 0;
  // Whose kernels (kernels/vendor/route.h).
  std::string conv = "native", gemm = "native", attention = "native", norm = "native";
  std::map<std::string, std::string> inputs;  // sha256 of base.checkpoint, checksum of the training data
};

/// Version, commit and local time of this program, now.
RunInfo current_run_info();

/// What decides a run's bits beside its configuration and its device.
struct RunSetting {
  int threads = 0;                                              // 0: not chosen
  std::string conv = {}, gemm = {}, attention = {}, norm = {};  // empty: not chosen
};

/// How a run goes on: with the threads and routes that it started with, unless others were chosen. NVIDIA's libraries
/// stay behind where the device is not a GPU. `notes` has a line for everything that makes the bits differ from those
/// of a run that was never stopped.
struct Continuation {
  RunSetting setting;
  std::vector<std::string> notes;
};
/// `device` is the description of the one that the run goes on with, as in RunInfo.
Continuation continued(const RunInfo& started, const std::string& device, const RunSetting& chosen);

class RunFolder {
 public:
  /// Makes a folder for a new run and locks it. A folder that holds a checkpoint is refused.
  static RunFolder create(const std::filesystem::path& path, const TrainConfig& config, const RunInfo& info);
  /// Removes what create() wrote, for a run that could not start; nothing of a run that was there before.
  void take_back();
  /// Locks an existing run and reads its configuration; `overrides` may change keys that decide no numbers.
  static RunFolder open(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});

  const std::filesystem::path& path() const { return path_; }
  const TrainConfig& config() const { return config_; }
  const RunInfo& info() const { return info_; }
  CheckpointStore& checkpoints() { return checkpoints_; }
  const CheckpointStore& checkpoints() const { return checkpoints_; }

  /// Opens the logs, forgetting what lies past `last_update`.
  void open_log(std::int64_t last_update);
  RunLog& log() { return *log_; }

  /// Compares the inputs with those the run started with; throws ConfigError naming the one that changed.
  void check_inputs(const std::map<std::string, std::string>& inputs) const;

  /// Draws plots/*.svg and report.html from the log so far.
  void write_report(const RunState& state, const std::string& description) const;

 private:
  RunFolder(
      std::filesystem::path path, TrainConfig config, RunInfo info, std::unique_ptr<RunLock> lock, NewFolder made = {});

  NewFolder made_;  // first, so that it goes last, when the lock is no longer in it
  bool is_new_ = false;
  std::filesystem::path path_;
  TrainConfig config_;
  RunInfo info_;
  std::unique_ptr<RunLock> lock_;
  CheckpointStore checkpoints_;
  std::unique_ptr<RunLog> log_;
};

}  // namespace avid::train
