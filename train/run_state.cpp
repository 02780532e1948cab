// train/run_state.cpp -- state.json, digests, and checkpoints that appear whole or not at all
#include "train/run_state.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"

namespace avid::train {
namespace {

namespace fs = std::filesystem;

constexpr int kStateFormat = 1;
constexpr const char* kPrefix = "step_";
constexpr const char* kUnfinished = ".unfinished-";  // being written
constexpr const char* kDiscarded = ".discarded-";    // being removed

std::string folder_name(std::int64_t update) { return fmt::format("{}{:08}", kPrefix, update); }

std::optional<std::int64_t> update_of(const std::string& name) {
  const std::size_t length = std::strlen(kPrefix);
  std::int64_t update = 0;
  if (name.compare(0, length, kPrefix) != 0) return {};
  const auto [end, error] = std::from_chars(name.data() + length, name.data() + name.size(), update);
  if (error != std::errc{} || end != name.data() + name.size() || update < 0) return {};
  return update;
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  check<FileError>(!error, "run: {}: {} | choose a folder you may write to", path.string(), error.message());
}

void rename_or_fail(const fs::path& from, const fs::path& to) {
  // Two statements: the arguments of a message may be evaluated before its condition.
  const bool done = std::rename(from.c_str(), to.c_str()) == 0;
  check<FileError>(done, "checkpoint: {}: {} | check the disk", to.string(), std::strerror(errno));
}

// Makes renames inside a folder durable; a folder that cannot be opened for this is no error.
void sync_folder(const fs::path& folder) {
  const int file = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  fsync(file);
  close(file);
}

// The state's fields, once for both directions: visit(name, field).
template <class State, class Visit>
void visit_state(State& s, Visit&& visit) {
  visit("update", s.update);
  visit("optimizer_steps", s.optimizer_steps);
  visit("ema_counter", s.ema_counter);
  visit("ema_initialised", s.ema_initialised);
  visit("bad_in_a_row", s.bad_in_a_row);
  visit("bad_total", s.bad_total);
  visit("best_loss", s.best_loss);
  visit("best_update", s.best_update);
  visit("train_seconds", s.train_seconds);
  visit("fingerprint", s.fingerprint);
  visit("window_updates", s.window.updates);
  visit("window_loss", s.window.loss);
  visit("window_grad_norm", s.window.grad_norm);
  visit("window_mask_mean", s.window.mask_mean);
  visit("window_mask_std", s.window.mask_std);
  visit("window_mask_min", s.window.mask_min);
  visit("window_mask_max", s.window.mask_max);
  visit("window_accuracy", s.window.accuracy);
}

}  // namespace

std::string RunState::to_json() const {
  Json json;
  json["format"] = kStateFormat;
  visit_state(*this, [&](const char* name, const auto& field) { json[name] = field; });  // NaN becomes null
  return json_text(json, 1) + "\n";
}

RunState RunState::from_json(const std::string& text, const std::string& source) {
  const auto json = parse_json(text);
  check<FileError>(json.is_object(), "{}: damaged: not JSON | resume from another checkpoint", source);
  check<FileError>(
      json.value("format", Json()) == kStateFormat, "{}: expected format {} | written by another version of avid?",
      source, kStateFormat);
  RunState state;
  visit_state(state, [&]<class Field>(const char* name, Field& field) {
    const auto found = json.find(name);
    if (found == json.end() && std::string_view(name) == "window_accuracy") return;  // checkpoints without classifiers
    check<FileError>(found != json.end(), "{}: damaged: {} is missing | resume from another checkpoint", source, name);
    if constexpr (std::is_same_v<Field, double>) {
      if (found->is_null()) {
        field = std::numeric_limits<double>::quiet_NaN();
        return;
      }
    }
    try {
      field = found->template get<Field>();
    } catch (const Json::exception&) {
      fail<FileError>("{}: damaged: {} has the wrong type | resume from another checkpoint", source, name);
    }
  });
  return state;
}

std::string digest_of(const NamedTensors& tensors) {
  std::vector<const std::pair<std::string, Tensor>*> sorted;
  for (const auto& item : tensors) sorted.push_back(&item);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
  Sha256 digest;
  for (const auto* item : sorted) {
    digest.update(fmt::format("{} {} {}\n", item->first, name_of(item->second.dtype()), item->second.shape()));
    digest.update(item->second.to_dense_bytes());
  }
  return digest.hex();
}

bool is_run_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path / "run.json", ignored) && fs::is_directory(path / "checkpoints", ignored);
}

RunDigests checkpoint_digests(const fs::path& folder) {
  const Checkpoint checkpoint = CheckpointStore::load(folder);
  return {
      checkpoint.state.update, digest_of(checkpoint.weights), digest_of(checkpoint.ema),
      digest_of(checkpoint.optimizer)};
}

RunDigests run_digests(const fs::path& run) {
  const auto folder = CheckpointStore(run).latest();
  check<FileError>(
      folder.has_value(), "{}: the run has no checkpoint yet | let it train on: avid train --resume {}", run.string(),
      run.string());
  return checkpoint_digests(*folder);
}

CheckpointStore::CheckpointStore(fs::path run) : folder_(std::move(run) / "checkpoints") {}

std::map<std::int64_t, fs::path> CheckpointStore::all() const {
  std::map<std::int64_t, fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error))
    if (const auto update = update_of(it->path().filename().string()); update && it->is_directory())
      found[*update] = it->path();
  return found;
}

std::optional<fs::path> CheckpointStore::pointed_to(const char* pointer) const {
  std::error_code ignored;
  if (!fs::exists(folder_ / pointer, ignored)) return {};
  std::string name = read_text(folder_ / pointer, 4096);
  while (!name.empty() && name.back() == '\n') name.pop_back();
  if (!update_of(name) || !fs::is_directory(folder_ / name, ignored)) return {};
  return folder_ / name;
}

std::optional<fs::path> CheckpointStore::latest() const {
  if (auto named = pointed_to("latest")) return named;
  const auto complete = all();
  if (complete.empty()) return {};
  return complete.rbegin()->second;
}

std::optional<fs::path> CheckpointStore::best() const { return pointed_to("best"); }

void CheckpointStore::save(
    const Checkpoint& checkpoint, std::int64_t keep, const std::map<std::string, std::string>& metadata) {
  make_folder(folder_);
  const std::string name = folder_name(checkpoint.state.update);
  const fs::path unfinished = folder_ / (kUnfinished + name), target = folder_ / name;
  std::error_code ignored;
  fs::remove_all(unfinished, ignored);
  make_folder(unfinished);
  try {
    save_safetensors(unfinished / "weights.safetensors", checkpoint.weights, metadata);
    save_safetensors(unfinished / "ema.safetensors", checkpoint.ema, metadata);
    save_safetensors(unfinished / "optimizer.safetensors", checkpoint.optimizer, metadata);
    write_text_atomic(unfinished / "state.json", checkpoint.state.to_json());
  } catch (...) {
    fs::remove_all(unfinished, ignored);
    throw;
  }
  sync_folder(unfinished);
  // One of this name can exist: complete, but written by a process that died before it became the latest.
  if (fs::exists(target, ignored)) discard(target);
  rename_or_fail(unfinished, target);
  sync_folder(folder_);
  write_text_atomic(folder_ / "latest", name + "\n");
  // Also mends a pointer that a kill between the two writes left on an older checkpoint.
  const fs::path best_target = folder_ / folder_name(checkpoint.state.best_update);
  if (best() != best_target && fs::is_directory(best_target, ignored))
    write_text_atomic(folder_ / "best", best_target.filename().string() + "\n");

  const auto complete = all();
  std::int64_t surplus = static_cast<std::int64_t>(complete.size()) - keep;
  for (const auto& [update, path] : complete) {
    if (surplus-- <= 0) break;
    if (update != checkpoint.state.best_update && path != target) discard(path);
  }
}

void CheckpointStore::discard(const fs::path& checkpoint) {
  // Renamed first: a checkpoint under its real name is always complete.
  const fs::path aside = folder_ / (kDiscarded + checkpoint.filename().string());
  std::error_code ignored;
  fs::remove_all(aside, ignored);
  rename_or_fail(checkpoint, aside);
  fs::remove_all(aside, ignored);
}

void CheckpointStore::remove_leftovers() {
  std::error_code error, ignored;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(kUnfinished) || name.starts_with(kDiscarded)) fs::remove_all(it->path(), ignored);
  }
  remove_abandoned_temporaries(folder_);
}

RunState CheckpointStore::load_state(const fs::path& folder) {
  return RunState::from_json(read_text(folder / "state.json", 1 << 20), (folder / "state.json").string());
}

Checkpoint CheckpointStore::load(const fs::path& folder) {
  Checkpoint checkpoint;
  checkpoint.state = load_state(folder);
  checkpoint.weights = SafetensorsFile(folder / "weights.safetensors").load_all();
  checkpoint.ema = SafetensorsFile(folder / "ema.safetensors").load_all();
  checkpoint.optimizer = SafetensorsFile(folder / "optimizer.safetensors").load_all();
  return checkpoint;
}

}  // namespace avid::train
