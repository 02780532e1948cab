// train/run_state.h -- what a run must remember to go on as if it had never stopped, and its fingerprint
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>

#include "tensor/io/tensor_file.h"

namespace avid::train {

/// Everything beside tensors. The next batch, noise and time follow from (seed, update), so no generator state is kept.
struct RunState {
  std::int64_t update = 0;           // updates done = cursor of the loader
  std::int64_t optimizer_steps = 0;  // updates applied (without the skipped ones): Adam's bias correction
  std::int64_t ema_counter = 0;
  bool ema_initialised = false;
  std::int64_t bad_in_a_row = 0, bad_total = 0;
  double best_loss = std::numeric_limits<double>::quiet_NaN();  // lowest validation loss so far
  std::int64_t best_update = -1;
  double train_seconds = 0;
  std::string fingerprint;  // TrainConfig::fingerprint()

  /// Sums since the last log line, so that a line is the same whether or not the run stopped in between.
  struct Window {
    std::int64_t updates = 0;
    double loss = 0, grad_norm = 0, mask_mean = 0, mask_std = 0, accuracy = 0;
    double mask_min = 1, mask_max = 0;
  } window;

  std::string to_json() const;
  /// Throws FileError naming `source` when something is missing or of the wrong type.
  static RunState from_json(const std::string& text, const std::string& source);
};

/// One checkpoint. Tensors of weights and ema carry the original's names and shapes; optimizer holds
/// "m.<name>" and "v.<name>".
struct Checkpoint {
  RunState state;
  NamedTensors weights, ema, optimizer;
};

/// Digests of a checkpoint's tensors: equal if and only if names, shapes, types and all bits are. The files also carry
/// metadata, which may differ between equal states.
struct RunDigests {
  std::int64_t update = 0;
  std::string weights, ema, optimizer;
};
RunDigests checkpoint_digests(const std::filesystem::path& folder);
/// Those of a run's newest checkpoint. Throws FileError when there is none.
RunDigests run_digests(const std::filesystem::path& run);

/// sha256 over name, type, shape and dense values of every tensor, in the order of the names.
std::string digest_of(const NamedTensors& tensors);

/// True when the folder was made by `avid train`.
bool is_run_folder(const std::filesystem::path& path);

/// RUN/checkpoints/step_XXXXXXXX/{weights,ema,optimizer}.safetensors + state.json, and the pointers
/// RUN/checkpoints/latest, best.
///
/// A checkpoint is written under a temporary name and renamed when all of it is on the disk; then `latest` is replaced
/// the same way. A kill at any instant leaves the older checkpoint or the newer one, never a part.
class CheckpointStore {
 public:
  explicit CheckpointStore(std::filesystem::path run);

  /// Writes a checkpoint, makes it the latest, and removes all but the newest `keep` and the best one.
  /// `metadata` goes into the weight files. Errors: FileError; older checkpoints are then untouched.
  void save(const Checkpoint& checkpoint, std::int64_t keep, const std::map<std::string, std::string>& metadata);
  /// The folder that `latest` names, or the newest complete one if that pointer is lost. Empty when there is none.
  std::optional<std::filesystem::path> latest() const;
  /// The folder with the lowest validation loss, if any.
  std::optional<std::filesystem::path> best() const;
  /// Throws FileError when anything is missing or damaged.
  static Checkpoint load(const std::filesystem::path& folder);
  static RunState load_state(const std::filesystem::path& folder);
  /// Removes what killed processes left behind. Only for the holder of the run's lock.
  void remove_leftovers();
  /// Complete checkpoints by update.
  std::map<std::int64_t, std::filesystem::path> all() const;

  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::optional<std::filesystem::path> pointed_to(const char* pointer) const;
  void discard(const std::filesystem::path& checkpoint);

  std::filesystem::path folder_;
};

}  // namespace avid::train
