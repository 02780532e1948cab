// train/cli/cmd_inspect.cpp -- `avid inspect`: what is in a file of tensors, a dataset, or a run folder
#include <cstdio>

#include "data/episode_store.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "tensor/io/sha256.h"
#include "tensor/io/tensor_file.h"
#include "tensor/io/torch_zip.h"
#include "train/cli/command.h"
#include "train/run_state.h"

namespace avid::cli {
namespace {

struct Settings {
  std::filesystem::path path;
  bool sha = false, json = false, skip_unknown = false, verify = false;
  std::string select;
};

// Names in files need not be UTF-8; JSON has to be.
void print(const Json& json) { print_json(json, 2); }

/// "1.5 MiB"
std::string bytes_text(std::uint64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, units[unit]);
}

// ---- files of tensors ----

void inspect_tensors(const Settings& s) {
  const auto file = open_tensor_file(s.path, s.skip_unknown ? UnknownObjects::skip : UnknownObjects::refuse);
  const std::uint64_t file_bytes = std::filesystem::file_size(s.path);
  std::vector<const TensorInfo*> shown;
  std::uint64_t numel = 0;
  for (const TensorInfo& info : file->tensors()) {
    if (!info.name.starts_with(s.select)) continue;
    shown.push_back(&info);
    numel += info.numel();
  }
  std::vector<std::string> skipped;
  if (const auto* torch = dynamic_cast<const TorchCheckpoint*>(file.get())) skipped = torch->skipped();

  if (s.json) {
    Json json{
        {"path", s.path.string()},
        {"kind", file->format()},
        {"bytes", file_bytes},
        {"num_tensors", shown.size()},
        {"num_elements", numel}};
    if (s.sha) json["sha256"] = sha256_of_file(s.path);
    json["metadata"] = file->metadata();
    if (!skipped.empty()) json["skipped"] = skipped;
    json["tensors"] = Json::array();
    for (const TensorInfo* info : shown)
      json["tensors"].push_back(
          {{"name", info->name},
           {"dtype", info->dtype ? Json(name_of(*info->dtype)) : Json(nullptr)},
           {"file_dtype", info->file_dtype},
           {"shape", info->shape}});
    return print(json);
  }
  std::printf(
      "%s: %s, %zu tensors, %llu elements, %s\n", s.path.c_str(), file->format(), shown.size(),
      static_cast<unsigned long long>(numel), bytes_text(file_bytes).c_str());
  std::size_t name_width = 4, shape_width = 5;
  for (const TensorInfo* info : shown) {
    name_width = std::max(name_width, std::min<std::size_t>(printable(info->name).size(), 80));
    shape_width = std::max(shape_width, info->shape_text().size());
  }
  for (const TensorInfo* info : shown) {
    const std::string type = info->dtype ? name_of(*info->dtype) : printable(info->file_dtype) + " (cannot be loaded)";
    fmt::print("  {:<{}}  {:<{}}  {}\n", printable(info->name), name_width, info->shape_text(), shape_width, type);
  }
  if (!file->metadata().empty()) std::printf("metadata\n");
  for (const auto& [key, value] : file->metadata()) fmt::print("  {}: {}\n", printable(key), printable(value, 200));
  for (const std::string& name : skipped) fmt::print("skipped: {}\n", printable(name));
}

// ---- datasets ----

void inspect_dataset(const Settings& s) {
  data::StoreOptions options;
  // Frames that are played again need no game library as long as nobody looks at them.
  if (!s.verify) options.make_source = []() -> std::unique_ptr<data::FrameSource> { return nullptr; };
  const data::EpisodeStore store({s.path.string()}, options);
  if (s.verify) store.verify_frames();
  if (!s.json) {
    std::string text = store.describe();
    while (text.ends_with('\n')) text.pop_back();
    fmt::print("{}\n", text);
    if (s.verify) fmt::print("verified: {} frames are those of their checksums\n", store.num_frames());
    return;
  }
  Json json{{"path", s.path.string()}};
  json.update(parse_json(store.describe_json()));
  if (s.verify) json["verified_frames"] = store.num_frames();
  if (s.sha)
    for (const data::ShardInfo& shard : store.shards())
      json["sha256"][shard.path.string()] = sha256_of_file(shard.path);
  print(json);
}

// ---- run folders and their checkpoints ----

constexpr const char* kParts[] = {"weights", "ema", "optimizer"};

bool is_checkpoint_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path / "state.json", ignored) &&
         std::filesystem::is_regular_file(path / "weights.safetensors", ignored);
}

std::filesystem::path newest_checkpoint(const std::filesystem::path& run) {
  const auto latest = train::CheckpointStore(run).latest();
  if (!latest) fail_file(run, "the run has no checkpoint yet | let it train on: avid train --resume {}", run.string());
  return *latest;
}

Json digests_json(const train::RunDigests& d) {
  return {{"weights", d.weights}, {"ema", d.ema}, {"optimizer", d.optimizer}};
}

void inspect_checkpoint(const Settings& s) {
  const train::RunState state = train::CheckpointStore::load_state(s.path);
  Json json{
      {"path", s.path.string()},
      {"kind", "checkpoint"},
      {"state", parse_json(state.to_json())},
      {"files", Json::array()}};
  if (!s.json)
    fmt::print(
        "{}: checkpoint after {} updates, {:.0f} s of training\n", s.path.string(), state.update, state.train_seconds);
  for (const char* part : kParts) {
    const std::filesystem::path path = s.path / (std::string(part) + ".safetensors");
    const auto file = open_tensor_file(path);
    std::uint64_t numel = 0;
    for (const TensorInfo& info : file->tensors()) numel += info.numel();
    json["files"].push_back(
        {{"path", path.string()}, {"num_tensors", file->tensors().size()}, {"num_elements", numel}});
    if (!s.json)
      fmt::print("  {:<22} {} tensors, {} elements\n", path.filename().string(), file->tensors().size(), numel);
  }
  if (s.sha) json["sha256"] = digests_json(train::checkpoint_digests(s.path));
  if (s.json) print(json);
}

void inspect_run(const Settings& s) {
  const train::CheckpointStore store(s.path);
  const std::filesystem::path latest = newest_checkpoint(s.path);
  const auto best = store.best();
  const train::RunState state = train::CheckpointStore::load_state(latest);
  const Json info = parse_json(read_text(s.path / "run.json"));
  check_file(info.is_object(), s.path / "run.json", "damaged: expected a JSON object | restore it from a copy");
  std::vector<std::int64_t> updates;
  for (const auto& [update, folder] : store.all()) updates.push_back(update);
  if (s.json) {
    Json json{
        {"path", s.path.string()},
        {"kind", "run"},
        {"info", info},
        {"latest", latest.string()},
        {"best", best ? Json(best->string()) : Json(nullptr)},
        {"checkpoints", updates},
        {"state", parse_json(state.to_json())}};
    if (s.sha) json["sha256"] = digests_json(train::run_digests(s.path));
    return print(json);
  }
  fmt::print(
      "{}: run, {} updates done, {} skipped, {:.0f} s of training\n", s.path.string(), state.update, state.bad_total,
      state.train_seconds);
  for (const char* key : {"started", "version", "commit", "device", "threads", "seed"})
    if (info.contains(key))
      fmt::print(
          "{:<12} {}\n", key, printable(info[key].is_string() ? info[key].get<std::string>() : json_text(info[key])));
  fmt::print("{:<12} {}\n", "latest", latest.string());
  if (best)
    fmt::print(
        "{:<12} {} (update {}, validation loss {:.6g})\n", "best", best->string(), state.best_update, state.best_loss);
  fmt::print("{:<12} after update {}\n", "checkpoints", fmt::join(updates, ", "));
  fmt::print("Look at one: avid inspect {}\n", (latest / "ema.safetensors").string());
}

// ---- the command ----

enum class PathKind { run, checkpoint, folder, file };

void print_digests(const Settings& s, PathKind kind) {
  if (kind == PathKind::run || kind == PathKind::checkpoint) {
    const Json digests =
        digests_json(kind == PathKind::run ? train::run_digests(s.path) : train::checkpoint_digests(s.path));
    for (const auto& [part, digest] : digests.items()) fmt::print("{}  {}\n", digest.get<std::string>(), part);
  } else if (kind == PathKind::file) {
    fmt::print("{}  {}\n", sha256_of_file(s.path), s.path.string());
  } else {
    for (const auto& shard : data::find_shards({s.path.string()}))
      fmt::print("{}  {}\n", sha256_of_file(shard), shard.string());
  }
}

void run_inspect(const Settings& s) {
  std::error_code error;
  const auto status = std::filesystem::status(s.path, error);
  if (!std::filesystem::exists(status)) fail_file(s.path, "no such file or folder | check the path");
  PathKind kind = std::filesystem::is_directory(status) ? PathKind::folder : PathKind::file;
  if (kind == PathKind::folder && train::is_run_folder(s.path)) kind = PathKind::run;
  if (kind == PathKind::folder && is_checkpoint_folder(s.path)) kind = PathKind::checkpoint;
  const bool dataset =
      kind == PathKind::folder || (kind == PathKind::file && detect_file_kind(s.path) == FileKind::hdf5);
  check<UsageError>(dataset || !s.verify, "inspect: --verify: expected a dataset, {} is none", s.path.string());
  check<UsageError>(
      (kind == PathKind::file && !dataset) || (s.select.empty() && !s.skip_unknown),
      "inspect: --select, --skip-unknown: expected a file of tensors, {} is none", s.path.string());
  if (s.sha && !s.json) return print_digests(s, kind);
  switch (kind) {
    case PathKind::run: return inspect_run(s);
    case PathKind::checkpoint: return inspect_checkpoint(s);
    case PathKind::folder: return inspect_dataset(s);
    case PathKind::file: return detect_file_kind(s.path) == FileKind::hdf5 ? inspect_dataset(s) : inspect_tensors(s);
  }
}

const CommandRegistrar inspect_command(
    "inspect", "what is in a run, checkpoint, safetensors, torch zip, npz or dataset", [](Command* app) {
      auto s = std::make_shared<Settings>();
      app->add_option("path", s->path, "a file or folder")->required();
      app->add_flag(
          "--sha", s->sha,
          "print SHA-256: of a file, or of the weights, ema and optimizer state of a run or checkpoint");
      app->add_flag(
          "--verify", s->verify,
          "datasets: read every frame and compare with the checksums; frames that are not stored are played again");
      app->add_flag("--json", s->json, "print one JSON value");
      app->add_option("--select", s->select, "only tensors whose names start with this");
      app->add_flag(
          "--skip-unknown", s->skip_unknown,
          "torch checkpoints: leave out objects of unknown classes (nothing is ever run)");
      set_example(app, "avid inspect runs/demo --sha\n  avid inspect model.ckpt --select state_dict.");
      app->callback([s] { run_inspect(*s); });
    });

}  // namespace
}  // namespace avid::cli
