// train/run_folder.cpp -- making, finding and checking a run's folder
#include "train/run_folder.h"

#include <ctime>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/json.h"
#include "train/report.h"
#include "train/version.h"

namespace avid::train {
namespace {

namespace fs = std::filesystem;

void make_subfolder(const fs::path& path) {
  std::error_code error;
  fs::create_directory(path, error);
  check<FileError>(!error, "run: {}: cannot make this folder: {}", path.string(), error.message());
}

constexpr const char* kSubfolders[] = {"checkpoints", "samples", "plots"};
// run.json first: a folder with a configuration is one that --resume takes.
constexpr const char *kInfo = "run.json", *kConfig = "config.toml";

std::string to_json(const RunInfo& info) {
  Json json;
  json["seed"] = info.seed;
  json["version"] = info.version;
  json["commit"] = info.commit;
  json["device"] = info.device;
  json["threads"] = info.threads;
  json["routes"] = {{"conv", info.conv}, {"gemm", info.gemm}, {"attention", info.attention}, {"norm", info.norm}};
  json["started"] = info.started;
  json["inputs"] = info.inputs;
  return json_text(json, 1) + "\n";
}

RunInfo info_from_json(const std::string& text, const std::string& source) {
  const auto json = parse_json(text);
  check<FileError>(json.is_object(), "{}: damaged: not JSON", source);
  RunInfo info;
  try {
    json.at("seed").get_to(info.seed);
    json.at("version").get_to(info.version);
    json.at("commit").get_to(info.commit);
    json.at("device").get_to(info.device);
    json.at("threads").get_to(info.threads);
    if (json.contains("routes")) {  // not in older runs
      json.at("routes").at("conv").get_to(info.conv);
      json.at("routes").at("gemm").get_to(info.gemm);
      if (json.at("routes").contains("attention")) {
        json.at("routes").at("attention").get_to(info.attention);
        json.at("routes").at("norm").get_to(info.norm);
      }
    }
    json.at("started").get_to(info.started);
    json.at("inputs").get_to(info.inputs);
  } catch (const Json::exception& error) {
    fail<FileError>("{}: damaged: {}", source, error.what());
  }
  return info;
}

/// "cuda:1 (NVIDIA H100)" -> "cuda (NVIDIA H100)": any GPU of the kind computes the same bits.
std::string without_number(const std::string& device) {
  const std::size_t colon = device.find(':'), space = device.find(' ');
  if (colon == std::string::npos || (space != std::string::npos && colon > space)) return device;
  return device.substr(0, colon) + (space == std::string::npos ? "" : device.substr(space));
}

}  // namespace

Continuation continued(const RunInfo& started, const std::string& device, const RunSetting& chosen) {
  Continuation on{.setting = chosen, .notes = {}};
  if (without_number(device) != without_number(started.device))
    on.notes.push_back(fmt::format("this run started on {}: it goes on here, but not bit for bit", started.device));
  if (chosen.threads == 0) {
    on.setting.threads = started.threads;
  } else if (chosen.threads != started.threads && device == "cpu") {  // sums of another split round differently
    on.notes.push_back(fmt::format(
        "this run started with {} threads: it goes on with {}, but not bit for bit", started.threads, chosen.threads));
  }
  const bool gpu = device.starts_with("cuda");
  const auto route = [&](const char* option, const std::string& before, std::string& now) {
    const bool asked = !now.empty();
    if (!asked) now = gpu ? before : "native";
    if (now != before)
      on.notes.push_back(fmt::format(
          "this run started with --{} {}: it goes on with {}{}, but not bit for bit", option, before, now,
          asked ? "" : ", as that is for cuda alone"));
    else if (now == "auto")
      on.notes.push_back(fmt::format(
          "--{} auto measures anew which kernels are faster: where it finds otherwise, bits differ", option));
  };
  route("conv", started.conv, on.setting.conv);
  route("gemm", started.gemm, on.setting.gemm);
  route("attention", started.attention, on.setting.attention);
  route("norm", started.norm, on.setting.norm);
  return on;
}

RunInfo current_run_info() {
  RunInfo info;
  info.version = program_version();
  info.commit = program_commit();
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[40];
  info.started = std::string(text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S %z", &local));
  return info;
}

RunFolder::RunFolder(fs::path path, TrainConfig config, RunInfo info, std::unique_ptr<RunLock> lock, NewFolder made)
    : made_(std::move(made)),
      path_(std::move(path)),
      config_(std::move(config)),
      info_(std::move(info)),
      lock_(std::move(lock)),
      checkpoints_(path_) {
  checkpoints_.remove_leftovers();
  remove_abandoned_temporaries(path_);
  std::error_code error, ignored;
  for (fs::recursive_directory_iterator it(path_, error), end; !error && it != end; it.increment(error))
    if (it->is_directory(ignored)) remove_abandoned_temporaries(it->path());
}

RunFolder RunFolder::create(const fs::path& path, const TrainConfig& config, const RunInfo& info) {
  NewFolder made(path);
  auto lock = std::make_unique<RunLock>(path);
  check<FileError>(
      !CheckpointStore(path).latest(),
      "run: {}: holds a run already | go on with it: avid train --resume {}, or choose another folder", path.string(),
      path.string());
  RunFolder folder(fs::absolute(path).lexically_normal(), config, info, std::move(lock), std::move(made));
  folder.is_new_ = !fs::exists(path / kInfo) && !fs::exists(path / kConfig);
  try {
    for (const char* name : kSubfolders) make_subfolder(path / name);
    write_text_atomic(path / kInfo, to_json(info));
    write_text_atomic(path / kConfig, config.to_toml());
  } catch (...) {
    folder.take_back();
    throw;
  }
  return folder;
}

void RunFolder::take_back() {
  if (!is_new_) return;
  log_.reset();
  std::error_code ignored;  // of folders that are not empty
  for (const char* name : {kConfig, kInfo}) fs::remove(path_ / name, ignored);
  for (const char* name : kSubfolders) fs::remove(path_ / name, ignored);
}

RunFolder RunFolder::open(const fs::path& path, const std::vector<std::string>& overrides) {
  std::error_code ignored;
  check<FileError>(
      fs::is_directory(path, ignored), "run: {}: no such folder | start a run: avid train --config FILE --run DIR",
      path.string());
  for (const char* name : {kConfig, kInfo})
    check<FileError>(
        fs::exists(path / name, ignored), "run: {}: no {} in it | is this a folder that avid train made?",
        path.string(), name);
  auto lock = std::make_unique<RunLock>(path);
  const TrainConfig before = TrainConfig::load(path / kConfig);
  TrainConfig config = before;
  if (!overrides.empty()) {
    config = TrainConfig::load(path / kConfig, overrides);
    if (config.fingerprint() != before.fingerprint()) {
      std::string which = overrides.front();
      for (const std::string& one : overrides)
        if (TrainConfig::load(path / kConfig, {one}).fingerprint() != before.fingerprint()) which = one;
      fail<ConfigError>(
          "config: --set {}: a resumed run can change how long it trains and what it logs, saves and samples, nothing "
          "else | start a new run",
          which);
    }
    write_text_atomic(path / kConfig, config.to_toml());
  }
  RunInfo info = info_from_json(read_text(path / kInfo, 1 << 20), (path / kInfo).string());
  return RunFolder(fs::absolute(path).lexically_normal(), std::move(config), std::move(info), std::move(lock));
}

void RunFolder::open_log(std::int64_t last_update) {
  log_ = std::make_unique<RunLog>(path_, last_update, config_.log.tensorboard);
}

void RunFolder::check_inputs(const std::map<std::string, std::string>& inputs) const {
  for (const auto& [name, digest] : inputs) {
    const auto started_with = info_.inputs.find(name);
    check<ConfigError>(
        started_with == info_.inputs.end() || started_with->second == digest,
        "run: {}: {} is not what this run started with | restore it, or start a new run", path_.string(), name);
  }
}

void RunFolder::write_report(const RunState& state, const std::string& description) const {
  write_run_report(path_, config_, info_, state, description, log_->records());
}

}  // namespace avid::train
