// eval/metrics/weight_conversion.h -- official weight files -> one safetensors file per metric network
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nn/module.h"

namespace avid::eval {

struct ConvertedWeights {
  std::string network;
  std::filesystem::path file;
  std::string source_sha256;  ///< of the files given, trunk before heads, joined by '+'
  bool official = false;
  std::size_t num_tensors = 0;
};

/// Converts the files of one network (LPIPS: trunk and heads together) to <folder>/<network>.safetensors: f32, only the
/// tensors that are needed in PyTorch's names and axis order, metadata arch and source_sha256. The folder is made.
///
/// Which network it is is read off the tensors; every shape is checked. Files whose digest is not an official one are
/// refused unless allowed (their scores will say so); look-alikes that are known to be wrong always.
/// Errors   FileError.
ConvertedWeights convert_weights(
    const std::vector<std::filesystem::path>& files, const std::filesystem::path& folder, bool allow_unofficial);

/// The names of TorchScript editions of I3D (conv3d_1a_7x7.conv3d.weight, mixed_3b.branch_1.0.batch3d.bias, with or
/// without something in front) to those of the state dict. Maps without such names come back as they are.
nn::TensorMap rename_torchscript_i3d(nn::TensorMap tensors);

/// The names and axis order of the JAX packages' editions of I3D and LPIPS (params.Mixed_3b.Branch_0/Conv3d_0a_1x1.
/// Conv_0.kernel [t,h,w,in,out], VGG16_0.Conv_0.kernel [h,w,in,out], NetLinLayer_0.Conv_0.kernel) to those of the state
/// dicts ([out,in,..]). Their norms have no scale: it becomes ones. Maps without such names come back as they are.
nn::TensorMap rename_flax(nn::TensorMap tensors);

}  // namespace avid::eval
