// models/checkpoint.cpp -- networks from files
#include "models/checkpoint.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "tensor/io/atomic_file.h"
#include "tensor/io/tensor_file.h"

namespace avid {
namespace {

// Schedule tables that the original's diffusion object stores beside its networks; we compute ours.
constexpr std::array<std::string_view, 13> kBuffers{
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "loss_weight"};

// How to recognise a network below a prefix.
struct Signature {
  const char* description;
  std::string_view marker;               // a tensor that it always has and others lack
  std::vector<std::string_view> places;  // below the copy's prefix
};

Signature signature_of(NetworkKind kind) {
  switch (kind) {
    case NetworkKind::unet: return {"a U-Net", "final_conv.1.weight", {"model.", ""}};
    case NetworkKind::avid: return {"an AVID adapter", "mixture_conv.weight", {""}};
    case NetworkKind::controlnet: return {"a ControlNet", "zero_linear_action_mlp.weight", {"control_net.", ""}};
    case NetworkKind::classifier: return {"an action classifier", "out_mlp.1.weight", {"model.", ""}};
  }
  fail("checkpoint: unknown kind of network");
}

std::vector<std::string_view> copies_of(WeightSet set) {
  if (set == WeightSet::averaged)
    return {"ema.ema_model.", "eval_model.", "diffusion_model.", "ema.online_model.", "classifier.", ""};
  return {"diffusion_model.", "ema.online_model.", "classifier.", ""};
}

// The full prefix of the network in the file, if it is there.
std::optional<std::string> find_prefix(const TensorFile& file, const Signature& signature, WeightSet set) {
  for (const std::string_view wrapper : {std::string_view("state_dict."), std::string_view("")})
    for (const std::string_view copy : copies_of(set))
      for (const std::string_view place : signature.places) {
        std::string prefix = std::string(wrapper) + std::string(copy) + std::string(place);
        if (file.contains(prefix + std::string(signature.marker))) return prefix;
      }
  return std::nullopt;
}

bool belongs(NetworkKind kind, std::string_view name) {
  if (std::find(kBuffers.begin(), kBuffers.end(), name) != kBuffers.end()) return false;
  // The diffusion object of an AVID run also holds the frozen base.
  return kind != NetworkKind::avid || !name.starts_with("model.");
}

template <class Network, class Config>
std::unique_ptr<Network> build(
    const Config& config, const NetworkTensors& found, const std::filesystem::path& path, DType dtype) {
  auto network = std::make_unique<Network>(config);
  network->import_tensors(found.tensors, path.string(), dtype);
  return network;
}

}  // namespace

NetworkTensors read_network(const std::filesystem::path& path, NetworkKind kind, WeightSet set) {
  const std::unique_ptr<TensorFile> file = open_tensor_file(path);
  const Signature signature = signature_of(kind);
  const std::optional<std::string> prefix = find_prefix(*file, signature, set);
  if (!prefix) {
    std::string names;
    for (const TensorInfo& info : file->tensors()) {
      names += (names.empty() ? "" : ", ") + info.name;
      if (names.size() > 100) break;
    }
    fail<FileError>(
        "{}: expected {} (a tensor {} below a known prefix), got a file of {} tensors ({} ...) | is this file of "
        "another model?",
        path.string(), signature.description, signature.marker, file->tensors().size(), names);
  }
  NetworkTensors found{.tensors = {}, .prefix = *prefix, .metadata = file->metadata()};
  for (const TensorInfo& info : file->tensors()) {
    if (!info.name.starts_with(*prefix)) continue;
    const std::string name = info.name.substr(prefix->size());
    if (belongs(kind, name)) found.tensors.emplace(name, file->load(info.name));
  }
  return found;
}

std::unique_ptr<Unet3d> load_unet3d(const std::filesystem::path& path, DType dtype, WeightSet set) {
  const NetworkTensors found = read_network(path, NetworkKind::unet, set);
  return build<Unet3d>(infer_unet3d_config(found.tensors, path.string()), found, path, dtype);
}

std::unique_ptr<Avid> load_avid(
    const std::filesystem::path& path, DType dtype, std::int64_t cond_frames, WeightSet set) {
  const NetworkTensors found = read_network(path, NetworkKind::avid, set);
  return build<Avid>(infer_avid_config(found.tensors, path.string(), cond_frames), found, path, dtype);
}

std::unique_ptr<ControlNet> load_controlnet(const std::filesystem::path& path, DType dtype, WeightSet set) {
  const NetworkTensors found = read_network(path, NetworkKind::controlnet, set);
  return build<ControlNet>(infer_controlnet_config(found.tensors, path.string()), found, path, dtype);
}

std::unique_ptr<ActionClassifier> load_action_classifier(
    const std::filesystem::path& path, DType dtype, std::int64_t cond_frames, WeightSet set) {
  const NetworkTensors found = read_network(path, NetworkKind::classifier, set);
  // The tensors do not tell: conditioning frames and others enter side by side in time.
  if (const auto trained = found.metadata.find("avid.cond_frames"); trained != found.metadata.end())
    check<ConfigError>(
        trained->second == std::to_string(cond_frames),
        "{}: a classifier that sees {} conditioning frames, got {} | use one trained with data.cond_frames={}",
        path.string(), printable(trained->second), cond_frames, cond_frames);
  return build<ActionClassifier>(
      infer_action_classifier_config(found.tensors, path.string(), cond_frames), found, path, dtype);
}

ClassifierFrames classifier_frames(const std::filesystem::path& path) {
  const std::unique_ptr<TensorFile> file = open_tensor_file(path);
  if (const auto kind = file->metadata().find("avid.kind"); kind != file->metadata().end()) {
    if (kind->second == "classifier") return ClassifierFrames::clean;
    if (kind->second == "noisy_classifier") return ClassifierFrames::noisy;
  }
  for (const std::string wrapper : {"state_dict.", ""}) {
    if (file->contains(wrapper + "classifier.sqrt_alphas_cumprod")) return ClassifierFrames::noisy;
    if (file->contains(wrapper + "classifier.model.out_mlp.1.weight")) return ClassifierFrames::clean;
  }
  return ClassifierFrames::unknown;
}

}  // namespace avid
