// train/cli/convert_layout.cpp -- finding the networks of a run or file, and giving them the other names
#include "train/cli/convert_layout.h"

#include <optional>

#include "diffusion/served/client.h"
#include "models/original_checkpoint.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "train/config.h"
#include "train/frozen_base.h"
#include "train/run_state.h"

namespace avid::cli {
namespace {

namespace fs = std::filesystem;

/// How to denoise, from a run's configuration or a file's metadata; what neither says is as in the paper.
struct Diffusion {
  std::string schedule = "sigmoid", objective = "pred_x0", loss_weight = "snr";
  std::int64_t timesteps = 200, updates = 0;
};

Diffusion diffusion_of(const std::map<std::string, std::string>& metadata) {
  Diffusion d;
  const auto text = [&](const char* key, std::string& value) {
    if (const auto found = metadata.find(key); found != metadata.end()) value = found->second;
  };
  const auto number = [&](const char* key, std::int64_t& value) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) return;
    check<FileError>(
        !found->second.empty() && found->second.size() < 10 &&
            found->second.find_first_not_of("0123456789") == std::string::npos,
        "convert: metadata: {}: expected a number, got '{}'", key, printable(found->second));
    value = std::stoll(found->second);
  };
  text("avid.schedule", d.schedule);
  text("avid.objective", d.objective);
  number("avid.timesteps", d.timesteps);
  number("avid.update", d.updates);
  return d;
}

const std::pair<const char*, NetworkKind> kNetworks[] = {
    {"avid", NetworkKind::avid},
    {"controlnet", NetworkKind::controlnet},
    {"classifier", NetworkKind::classifier},
    {"base", NetworkKind::unet}};

/// Which network a file was trained for: an adapter's checkpoint of the research code holds its base as well.
NetworkKind kind_of(const fs::path& file) {
  std::string problem;
  for (const auto& [name, kind] : kNetworks) {
    try {
      read_network(file, kind);
      return kind;
    } catch (const FileError& error) {
      problem = error.what();  // the last one says what a U-Net would have
    }
  }
  fail<FileError>("{}", problem);
}

/// A run's newest or best checkpoint, as evaluation chooses it; a file stands for itself.
struct Source {
  fs::path averaged, online;
  std::optional<train::RunState> state;
  std::optional<train::TrainConfig> config;
  std::string base_sha256;  ///< of the base that the run was trained on
};

Source source_of(const fs::path& in) {
  if (!train::is_run_folder(in)) {
    check<FileError>(!fs::is_directory(in), "{}: a folder, but not one made by avid train", in.string());
    return {in, in, {}, {}, {}};
  }
  const fs::path folder = train::base_weights_path(in).parent_path();
  return {
      folder / "ema.safetensors", folder / "weights.safetensors", train::CheckpointStore::load_state(folder),
      train::TrainConfig::load(in / "config.toml"), train::base_digest_of_run(in)};
}

/// What a checkpoint of the research code says itself: steps of the average and of the training, length of the
/// schedule.
void take_from_original(const fs::path& file, OriginalParts& parts, Diffusion& d) {
  const auto opened = open_tensor_file(file);
  for (const std::string wrapper : {"state_dict.", ""}) {
    if (opened->contains(wrapper + "ema.step"))
      parts.ema_step = static_cast<std::int64_t>(opened->load(wrapper + "ema.step").to_doubles().at(0));
    for (const char* table : {"ema.ema_model.betas", "classifier.sqrt_alphas_cumprod"})
      if (opened->contains(wrapper + table))
        d.timesteps = static_cast<std::int64_t>(opened->info(wrapper + table).numel());
  }
  if (const auto found = opened->metadata().find("global_step"); found != opened->metadata().end())
    d.updates = diffusion_of({{"avid.update", found->second}}).updates;
}

/// The base's tensors; returns what to say when there are none.
std::string read_base(const std::string& place, const Source& source, OriginalParts& parts) {
  if (parts.kind != NetworkKind::avid && parts.kind != NetworkKind::controlnet) {
    check<UsageError>(place.empty(), "convert: --base: this network stands on no base | leave it out");
    return "";
  }
  std::string from = place.empty() && source.config ? source.config->base.checkpoint : place;
  if (diffusion::is_served(from)) return ", without its base: it is served";
  if (!from.empty()) {
    if (const std::string then = source.base_sha256; place.empty() && !then.empty())
      check<ConfigError>(
          then == train::base_digest(from),
          "{}: holds other weights than the run was trained on | restore them, or name a base with --base", from);
    parts.base_online = parts.base_averaged = read_network(train::base_weights_path(from), NetworkKind::unet).tensors;
    return "";
  }
  try {  // a checkpoint of the research code has it
    parts.base_online = read_network(source.online, NetworkKind::unet, WeightSet::online).tensors;
    parts.base_averaged = read_network(source.averaged, NetworkKind::unet, WeightSet::averaged).tensors;
    return "";
  } catch (const FileError&) {
    return ", without its base: give --base F to put it in";
  }
}

}  // namespace

ConvertedLayout to_original(const LayoutRequest& request) {
  const Source source = source_of(request.in);
  OriginalParts parts;
  parts.kind = kind_of(source.averaged);
  const NetworkTensors averaged = read_network(source.averaged, parts.kind, WeightSet::averaged);
  parts.averaged = averaged.tensors;
  parts.online = read_network(source.online, parts.kind, WeightSet::online).tensors;
  Diffusion d = diffusion_of(averaged.metadata);
  if (source.config) {
    const auto& c = source.config->diffusion;
    d = {c.schedule, c.objective, c.loss_weight, c.timesteps, source.state->update};
    parts.ema_step = source.state->ema_counter;
    parts.ema_started = source.state->ema_initialised;
  }
  if (!source.config) take_from_original(source.averaged, parts, d);
  parts.noisy = parts.kind == NetworkKind::classifier && classifier_frames(source.averaged) == ClassifierFrames::noisy;
  ConvertedLayout out;
  out.said = read_base(request.base, source, parts);
  out.tensors = original_tensors(
      parts, diffusion::Schedule(diffusion::parse_schedule(d.schedule), d.timesteps),
      diffusion::parse_objective(d.objective), diffusion::parse_loss_weight(d.loss_weight));
  out.metadata = averaged.metadata;
  out.global_step = d.updates;
  const bool copies = parts.kind != NetworkKind::classifier;
  out.said = (copies ? "the model four times, as in the research code" : "as in the research code") + out.said;
  return out;
}

ConvertedLayout to_avid(const LayoutRequest& request) {
  check<UsageError>(
      request.weights == "averaged" || request.weights == "online",
      "convert: --weights: expected averaged or online, got '{}'", request.weights);
  const WeightSet set = request.weights == "online" ? WeightSet::online : WeightSet::averaged;
  const Source source = source_of(request.in);
  const fs::path file = set == WeightSet::online ? source.online : source.averaged;
  std::optional<NetworkKind> kind;
  for (const auto& [name, one] : kNetworks)
    if (request.network == name) kind = one;
  check<UsageError>(
      kind || request.network.empty(), "convert: --network: expected base, avid, controlnet or classifier, got '{}'",
      request.network);
  if (!kind) kind = kind_of(file);
  const NetworkTensors found = read_network(file, *kind, set);
  ConvertedLayout out;
  for (const auto& [name, tensor] : found.tensors) out.tensors.emplace_back(name, tensor);
  for (const auto& [key, value] : found.metadata)
    if (key.starts_with("avid.")) out.metadata[key] = value;
  if (*kind == NetworkKind::classifier)  // what the names told until here is kept for those who choose by it
    if (const ClassifierFrames frames = classifier_frames(file); frames != ClassifierFrames::unknown)
      out.metadata["avid.kind"] = frames == ClassifierFrames::noisy ? "noisy_classifier" : "classifier";
  out.said = found.prefix.empty() ? "one network" : fmt::format("what stands below {}", found.prefix);
  return out;
}

}  // namespace avid::cli
