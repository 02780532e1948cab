// models/checkpoint.h -- networks from files and into files, in the original code's names (pixel.md 7.3)
//
// Files    safetensors, or the zip format of torch.save (.ckpt, .pt).
// Prefixes a checkpoint of the original holds a network several times: `ema.ema_model.` (averaged), `diffusion_model.`
//          (online), `ema.online_model.`, `eval_model.`; below them the base is `model.`, the adapter `adapter.` with
//          `mixture_conv.`, the ControlNet `control_net.`. A file of one network has no prefix at all.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "models/avid.h"
#include "models/unet3d.h"

namespace avid {

/// Which copy of the weights to take from a file that has several.
enum class WeightSet { ema, online };

/// All tensors of a checkpoint file with its metadata.
struct CheckpointFile {
  std::filesystem::path path;
  nn::TensorMap tensors;
  std::map<std::string, std::string> metadata;
};
/// Reads safetensors or torch zip, told apart by content. Throws FileError.
CheckpointFile read_checkpoint_file(const std::filesystem::path& path);

/// Which network to look for in a file.
enum class NetworkKind { unet, avid, controlnet, classifier };

/// The tensors of one network, prefix removed (for avid the names `adapter.*`, `mixture_conv.*` stay).
/// Buffers of the diffusion object (`betas`, ...) and EMA counters are left out. Throws FileError when the file has no such network.
nn::TensorMap select_network(const CheckpointFile& file, NetworkKind kind, WeightSet set = WeightSet::ema);

/// Loads a U-Net; its configuration is read off the tensors. Never loads a part: see Module::import_tensors.
std::unique_ptr<Unet3d> load_unet3d(const std::filesystem::path& path, DType dtype = DType::f32, WeightSet set = WeightSet::ema);
/// Loads adapter and mixing layer. `cond_frames`: the base's K, when known.
std::unique_ptr<Avid> load_avid(const std::filesystem::path& path, DType dtype = DType::f32, WeightSet set = WeightSet::ema,
                                std::int64_t cond_frames = -1);

/// Writes all values in plain shapes under their original names, atomically.
void save_module(const nn::Module& module, const std::filesystem::path& path, const std::map<std::string, std::string>& metadata = {},
                 std::string_view prefix = {});

}  // namespace avid
