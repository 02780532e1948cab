// train/cli/cmd_inspect.cpp -- `avid inspect`: what is in a file of tensors, a dataset, or a run folder
#include <cstdio>
#include <nlohmann/json.hpp>

#include "data/episode_store.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/sha256.h"
#include "tensor/io/tensor_file.h"
#include "tensor/io/torch_zip.h"
#include "train/cli/command.h"
#include "train/run_state.h"

namespace avid::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Settings {
  std::filesystem::path path;
  bool sha = false, json = false, skip_unknown = false;
  std::string select;
};

// Names in files need not be UTF-8; JSON has to be.
void print(const Json& json) { std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str()); }

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
  if (const auto* torch = dynamic_cast<const TorchZipFile*>(file.get())) skipped = torch->skipped();

  if (s.json) {
    Json json{{"path", s.path.string()}, {"kind", file->format()}, {"bytes", file_bytes}, {"num_tensors", shown.size()}, {"num_elements", numel}};
    if (s.sha) json["sha256"] = sha256_of_file(s.path);
    json["metadata"] = file->metadata();
    if (!skipped.empty()) json["skipped"] = skipped;
    json["tensors"] = Json::array();
    for (const TensorInfo* info : shown)
      json["tensors"].push_back({{"name", info->name},
                                 {"dtype", info->dtype ? Json(name_of(*info->dtype)) : Json(nullptr)},
                                 {"file_dtype", info->file_dtype},
                                 {"shape", info->shape}});
    return print(json);
  }
  std::printf("%s: %s, %zu tensors, %llu elements, %s\n", s.path.c_str(), file->format(), shown.size(), static_cast<unsigned long long>(numel),
              bytes_text(file_bytes).c_str());
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
  const data::EpisodeStore store(s.path);
  if (!s.json) {
    fmt::print("{}\n", store.describe());
    return;
  }
  Json json = Json::parse(store.describe_json());
  if (s.sha)
    for (const data::ShardInfo& shard : store.shards()) json["sha256"][shard.path.string()] = sha256_of_file(shard.path);
  print(json);
}

// ---- run folders ----

void inspect_run(const Settings& s) {
  const train::CheckpointStore store(s.path);
  const auto latest = store.latest(), best = store.best();
  if (!latest) fail_file(s.path, "the run has no checkpoint yet | let it train on: avid train --resume {}", s.path.string());
  const train::RunState state = train::CheckpointStore::load_state(*latest);
  std::vector<std::int64_t> updates;
  for (const auto& [update, folder] : store.all()) updates.push_back(update);
  if (s.json) {
    Json json{{"path", s.path.string()}, {"kind", "run"}, {"latest", latest->string()}, {"best", best ? Json(best->string()) : Json(nullptr)},
              {"checkpoints", updates}, {"state", Json::parse(state.to_json())}};
    if (s.sha) {
      const train::RunDigests digests = train::run_digests(s.path);
      json["sha256"] = {{"weights", digests.weights}, {"ema", digests.ema}, {"optimizer", digests.optimizer}};
    }
    return print(json);
  }
  fmt::print("{}: run, {} updates done, {} skipped, {:.0f} s of training\n", s.path.string(), state.update, state.bad_total, state.train_seconds);
  fmt::print("latest       {}\n", latest->string());
  if (best) fmt::print("best         {} (update {}, validation loss {:.6g})\n", best->string(), state.best_update, state.best_loss);
  fmt::print("checkpoints  updates {}\n", fmt::join(updates, ", "));
  fmt::print("Look at one: avid inspect {}\n", (*latest / "ema.safetensors").string());
}

void print_digests(const Settings& s, bool is_run, bool is_folder) {
  if (is_run) {
    const train::RunDigests digests = train::run_digests(s.path);
    fmt::print("{}  weights\n{}  ema\n{}  optimizer\n", digests.weights, digests.ema, digests.optimizer);
    return;
  }
  if (!is_folder) return fmt::print("{}  {}\n", sha256_of_file(s.path), s.path.string());
  for (const auto& shard : data::find_shards({s.path.string()})) fmt::print("{}  {}\n", sha256_of_file(shard), shard.string());
}

void run_inspect(const Settings& s) {
  std::error_code error;
  const auto status = std::filesystem::status(s.path, error);
  if (!std::filesystem::exists(status)) fail_file(s.path, "no such file or folder | check the path");
  const bool is_folder = std::filesystem::is_directory(status), is_run = is_folder && train::is_run_folder(s.path);
  if (s.sha && !s.json) return print_digests(s, is_run, is_folder);
  if (is_run) return inspect_run(s);
  if (is_folder || detect_file_kind(s.path) == FileKind::hdf5) return inspect_dataset(s);
  inspect_tensors(s);
}

const CommandRegistrar inspect_command("inspect", "what is in a run, checkpoint, safetensors, torch zip, npz or dataset", [](CLI::App* app) {
  auto s = std::make_shared<Settings>();
  app->add_option("path", s->path, "a file or folder")->required();
  app->add_flag("--sha", s->sha, "print SHA-256: of a file, or of a run's current weights, ema and optimizer state");
  app->add_flag("--json", s->json, "print one JSON value");
  app->add_option("--select", s->select, "only tensors whose names start with this");
  app->add_flag("--skip-unknown", s->skip_unknown, "torch checkpoints: leave out objects of unknown classes (nothing is ever run)");
  set_example(app, "avid inspect runs/demo\n  avid inspect model.ckpt --select state_dict.");
  app->callback([s] { run_inspect(*s); });
});

}  // namespace
}  // namespace avid::cli
