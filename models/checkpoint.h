// models/checkpoint.h -- networks from files, in the original code's names (pixel.md 7.3)
//
// Files    whatever open_tensor_file reads; in practice safetensors, and the zip format of torch.save (.ckpt, .pt).
// Prefixes a checkpoint of the original holds a network several times: `ema.ema_model.` and `eval_model.` (averaged),
//          `diffusion_model.` and `ema.online_model.` (online); a classifier is below `classifier.`. Below these the
//          base is `model.`, the adapter `adapter.` with `mixture_conv.`, the ControlNet `control_net.`. A file of a
//          single network has no prefix. Lightning's `state_dict.` in front of everything is skipped.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "models/action_classifier.h"
#include "models/avid.h"
#include "models/controlnet.h"
#include "models/unet3d.h"

namespace avid {

/// Which copy of the weights to take from a file that has several. A file with one copy gives that one.
enum class WeightSet { averaged, online };

enum class NetworkKind { unet, avid, controlnet, classifier };

/// The tensors of one network, prefix removed (for avid the names `adapter.*`, `mixture_conv.*` stay).
struct NetworkTensors {
  nn::TensorMap tensors;
  std::string prefix;  ///< where in the file they were: "ema.ema_model.model."
  std::map<std::string, std::string> metadata;
};

/// Finds one network in a file by its names and reads only its tensors. Buffers of the diffusion object (`betas`, ...)
/// are left out. Throws FileError when the file cannot be read or holds no such network.
NetworkTensors read_network(const std::filesystem::path& path, NetworkKind kind, WeightSet set = WeightSet::averaged);

/// Networks with their configuration read off the tensors; f32 or f64; trainable. All or nothing: see
/// Module::import_tensors.
std::unique_ptr<Unet3d> load_unet3d(
    const std::filesystem::path& path, DType dtype = DType::f32, WeightSet set = WeightSet::averaged);
/// `cond_frames`: the base's K, when known; see infer_avid_config.
std::unique_ptr<Avid> load_avid(
    const std::filesystem::path& path, DType dtype = DType::f32, std::int64_t cond_frames = -1,
    WeightSet set = WeightSet::averaged);
std::unique_ptr<ControlNet> load_controlnet(
    const std::filesystem::path& path, DType dtype = DType::f32, WeightSet set = WeightSet::averaged);
std::unique_ptr<ActionClassifier> load_action_classifier(
    const std::filesystem::path& path, DType dtype = DType::f32, std::int64_t cond_frames = 2,
    WeightSet set = WeightSet::averaged);

/// The frames that a classifier was trained on.
enum class ClassifierFrames { unknown, clean, noisy };
/// What a classifier's file says of them: training notes it (avid.kind), and a noisy one of the research code has
/// tables of its schedule beside the network. A bare network does not say.
ClassifierFrames classifier_frames(const std::filesystem::path& path);

}  // namespace avid
