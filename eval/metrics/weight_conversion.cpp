// eval/metrics/weight_conversion.cpp -- recognises, checks and rewrites official weight files
#include "eval/metrics/weight_conversion.h"

#include <algorithm>

#include "eval/metrics/weight_files.h"
#include "models/i3d_features.h"
#include "models/inception_features.h"
#include "models/lpips.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tensor/io/sha256.h"

namespace avid::eval {
namespace {

struct Source {
  std::filesystem::path path;
  std::string sha256;
  bool is_trunk = false;
};

/// The network that these names belong to, or null.
const char* recognise(const nn::TensorMap& tensors) {
  if (tensors.contains("Mixed_7c.branch_pool.conv.weight")) return InceptionFeatures::kNetwork;
  if (tensors.contains("Mixed_5c.b3b.conv3d.weight")) return I3dFeatures::kNetwork;
  if (tensors.contains("features.28.weight") || tensors.contains("lin0.model.1.weight")) return Lpips::kNetwork;
  return nullptr;
}

/// Builds the network once, so that every name and shape is checked; returns what it asked for.
NamedTensors needed_tensors(const nn::TensorMap& tensors, const std::string& network, const std::string& source) {
  NamedTensors needed;
  const features::WeightReader reader(
      [&](const std::string& name, const Shape&) {
        const auto found = tensors.find(name);
        if (found == tensors.end()) return Tensor{};
        needed.emplace_back(name, found->second.dtype() == DType::f32 ? found->second : found->second.to(DType::f32));
        return found->second;
      },
      source, network);
  if (network == InceptionFeatures::kNetwork) InceptionFeatures{reader};
  if (network == I3dFeatures::kNetwork) I3dFeatures{reader};
  if (network == Lpips::kNetwork) Lpips{reader};
  return needed;
}

/// "mixed_3b.branch_1.0.batch3d.bias" -> "Mixed_3b.b1a.bn.bias"
std::string state_dict_name(std::string name) {
  const auto replace = [&](std::string_view from, std::string_view to) {
    const auto at = name.find(from);
    if (at != std::string::npos) name.replace(at, from.size(), to);
  };
  replace("conv3d_0c_1x1.", "logits.");
  for (const char* layer : {"conv3d_1a_7x7.", "conv3d_2b_1x1.", "conv3d_2c_3x3.", "mixed_"})
    if (name.starts_with(layer)) name[0] = static_cast<char>(name[0] - 'a' + 'A');
  replace(".branch_0.", ".b0.");
  replace(".branch_1.0.", ".b1a.");
  replace(".branch_1.1.", ".b1b.");
  replace(".branch_2.0.", ".b2a.");
  replace(".branch_2.1.", ".b2b.");
  replace(".branch_3.1.", ".b3b.");
  replace(".batch3d.", ".bn.");
  return name;
}

/// "params.Mixed_3b.Branch_1/Conv3d_0a_1x1.Conv_0.kernel" -> "Mixed_3b.b1a.conv3d.weight"; empty for other names.
std::string flax_state_dict_name(std::string_view name) {
  // VGG16 counts its convolutions; torchvision counts what lies between them too.
  constexpr int kIndexInFeatures[] = {0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28};
  constexpr std::pair<std::string_view, std::string_view> kLayers[] = {
      {"Branch_0/Conv3d_0a_1x1", "b0"},  {"Branch_1/Conv3d_0a_1x1", "b1a"}, {"Branch_1/Conv3d_0b_3x3", "b1b"},
      {"Branch_2/Conv3d_0a_1x1", "b2a"}, {"Branch_2/Conv3d_0b_3x3", "b2b"}, {"Branch_3/Conv3d_0b_1x1", "b3b"},
      {"Logits/Conv3d_0c_1x1", "logits"}};
  constexpr std::pair<std::string_view, std::string_view> kLeaves[] = {
      {".Conv_0.kernel", ".conv3d.weight"},
      {".Conv_0.bias", ".conv3d.bias"},
      {".BatchNorm_0.bias", ".bn.bias"},
      {".BatchNorm_0.mean", ".bn.running_mean"},
      {".BatchNorm_0.var", ".bn.running_var"}};
  for (std::size_t i = 0; i < std::size(kIndexInFeatures); ++i)
    for (const auto& [leaf, to] : {std::pair("kernel", "weight"), std::pair("bias", "bias")})
      if (name == fmt::format("VGG16_0.Conv_{}.{}", i, leaf))
        return fmt::format("features.{}.{}", kIndexInFeatures[i], to);
  for (int i = 0; i < 5; ++i)
    if (name == fmt::format("NetLinLayer_{}.Conv_0.kernel", i)) return fmt::format("lin{}.model.1.weight", i);

  const bool statistics = name.starts_with("batch_stats.");
  if (!statistics && !name.starts_with("params.")) return "";
  std::string layer(name.substr(name.find('.') + 1));
  for (const auto& [leaf, to] : kLeaves) {
    if (!layer.ends_with(leaf)) continue;
    layer.replace(layer.size() - leaf.size(), leaf.size(), to);
    for (const auto& [from, short_name] : kLayers)
      if (const auto at = layer.find(from); at != std::string::npos) layer.replace(at, from.size(), short_name);
    return layer;
  }
  return "";
}

/// [.., in, out] -> [out, in, ..]
Tensor output_first(const Tensor& kernel) {
  if (kernel.rank() < 2 || kernel.numel() == 0) return kernel;
  const std::int64_t in = kernel.dim(kernel.rank() - 2), out = kernel.cols(), taps = kernel.numel() / (in * out);
  const std::vector<float> from = kernel.to(DType::f32).to_values<float>();
  std::vector<float> to(from.size());
  for (std::int64_t k = 0; k < taps; ++k)
    for (std::int64_t i = 0; i < in; ++i)
      for (std::int64_t o = 0; o < out; ++o)
        to[static_cast<std::size_t>((o * in + i) * taps + k)] = from[static_cast<std::size_t>((k * in + i) * out + o)];
  std::vector<std::int64_t> extents{out, in};
  for (int d = 0; d + 2 < kernel.rank(); ++d) extents.push_back(kernel.dim(d));
  return Tensor::from_values(to, Shape(extents));
}

}  // namespace

nn::TensorMap rename_flax(nn::TensorMap tensors) {
  nn::TensorMap renamed;
  for (auto& [name, tensor] : tensors) {
    const std::string to = flax_state_dict_name(name);
    if (to.empty()) return tensors;
    // I3D keeps the statistics of its norms as [1,1,1,1,C].
    renamed.emplace(to, name.ends_with(".kernel") ? output_first(tensor) : tensor.dense_reshape({tensor.numel()}));
    constexpr std::string_view kVariance = ".bn.running_var";
    if (to.ends_with(kVariance))
      renamed.emplace(
          to.substr(0, to.size() - kVariance.size()) + ".bn.weight", Tensor::full({tensor.numel()}, 1, tensor.dtype()));
  }
  return renamed;
}

nn::TensorMap rename_torchscript_i3d(nn::TensorMap tensors) {
  constexpr std::string_view kFirst = "conv3d_1a_7x7.conv3d.weight";
  const auto first =
      std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.first.ends_with(kFirst); });
  if (first == tensors.end()) return tensors;
  const std::string prefix = first->first.substr(0, first->first.size() - kFirst.size());
  nn::TensorMap renamed;
  for (auto& [name, tensor] : tensors)
    if (name.starts_with(prefix)) renamed.emplace(state_dict_name(name.substr(prefix.size())), tensor);
  return renamed;
}

ConvertedWeights convert_weights(
    const std::vector<std::filesystem::path>& files, const std::filesystem::path& folder, bool allow_unofficial) {
  nn::TensorMap all;
  std::vector<Source> sources;
  std::string shown;
  for (const auto& path : files) {
    const auto file = open_tensor_file(path);
    Source source{path, sha256_of_file(path)};
    const OfficialFile* official = find_official_file(source.sha256);
    check_file(
        official == nullptr || std::string_view(official->part) != "wrong", path, "{} | get {}",
        official == nullptr ? "" : official->origin, "i3d_pretrained_400.pt; avid weights says where it is");
    check_file(
        official != nullptr || allow_unofficial, path,
        "sha256 {} is not that of an official weight file | compare with: avid weights; --allow-unofficial converts it "
        "all the same, and scores will say so",
        source.sha256);
    nn::TensorMap tensors;
    for (const TensorInfo& info : file->tensors())
      if (info.dtype && is_float(*info.dtype) && !info.name.starts_with("classifier."))
        tensors.emplace(info.name, file->load(info.name));
    tensors = rename_flax(rename_torchscript_i3d(std::move(tensors)));
    source.is_trunk = tensors.contains("features.28.weight");
    for (const auto& [name, tensor] : tensors)
      check_file(all.emplace(name, tensor).second, path, "tensor '{}' came before", printable(name));
    shown += (shown.empty() ? "" : " + ") + path.string();
    sources.push_back(std::move(source));
  }
  const char* network = recognise(all);
  check<FileError>(
      network != nullptr, "{}: the tensors of no metric network | give one of the files that avid weights lists",
      shown);
  if (network == Lpips::kNetwork)
    check<FileError>(
        all.contains("features.28.weight") && all.contains("lin0.model.1.weight"),
        "{}: LPIPS needs the trunk and the heads together | {}", shown, metric_network(network).how);

  ConvertedWeights result{
      .network = network,
      .file = folder / (std::string(network) + ".safetensors"),
      .source_sha256 = {},
      .official = true};
  std::stable_sort(
      sources.begin(), sources.end(), [](const Source& a, const Source& b) { return a.is_trunk > b.is_trunk; });
  for (const Source& source : sources) {
    const OfficialFile* official = find_official_file(source.sha256);
    result.official = result.official && official != nullptr && std::string_view(official->network) == network;
    result.source_sha256 += (result.source_sha256.empty() ? "" : "+") + source.sha256;
  }
  const NamedTensors needed = needed_tensors(all, network, shown);
  result.num_tensors = needed.size();
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check<FileError>(!error, "{}: the folder cannot be made: {}", folder.string(), error.message());
  save_safetensors(result.file, needed, {{"arch", network}, {"source_sha256", result.source_sha256}});
  return result;
}

}  // namespace avid::eval
