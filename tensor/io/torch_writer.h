// tensor/io/torch_writer.h -- files that torch.load reads: the zip container that torch.save writes
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <variant>

#include "tensor/io/tensor_file.h"

namespace avid {

/// Whole numbers and texts beside the tensors, as Lightning keeps "epoch" or "pytorch-lightning_version".
using TorchExtras = std::map<std::string, std::variant<std::int64_t, std::string>>;

/// {**extras, "state_dict": OrderedDict(tensors)}. Tensors of one memory are written once and stay shared.
///
/// Dtypes   f32 f64 f16 bf16 i64 i32 u8; `as_bool` names u8 tensors of 0 and 1 that are to be torch.bool.
/// Exact    the bytes depend on the arguments only.
/// Errors   FileError for a name twice, or for what the disk refuses; nothing is left behind.
void save_torch_state_dict(
    const std::filesystem::path& path, const NamedTensors& tensors, const TorchExtras& extras = {},
    const std::set<std::string>& as_bool = {});

}  // namespace avid
