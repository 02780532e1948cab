// train/cli/convert_layout.h -- avid convert --to: between our files and checkpoints of the research code
#pragma once

#include <filesystem>
#include <string>

#include "tensor/io/tensor_file.h"

namespace avid::cli {

struct LayoutRequest {
  std::filesystem::path in;  ///< a run, a weights file of ours, or a checkpoint of the research code
  std::string base;          ///< --to original: the frozen base's weights or run; empty: what the run names, or none
  std::string network;       ///< --to avid: base, avid, controlnet or classifier; empty: what was trained
  std::string weights = "averaged";  ///< --to avid: averaged or online
};

/// Tensors for a file, what to say of them, and metadata.
struct ConvertedLayout {
  NamedTensors tensors;
  std::map<std::string, std::string> metadata;
  std::string said;              ///< one line about what is in it
  std::int64_t global_step = 0;  ///< updates, for Lightning
};

/// The network with its average, its schedule and its base under the research code's names.
/// Errors   FileError when the input holds none of our networks; ConfigError for a base that does not fit.
ConvertedLayout to_original(const LayoutRequest& request);

/// One network under its own names, as every other command reads it.
ConvertedLayout to_avid(const LayoutRequest& request);

}  // namespace avid::cli
