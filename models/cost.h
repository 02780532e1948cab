// models/cost.h -- how many FLOPs one forward pass takes (pixel.md 8.2)
//
// Convention: 2 per multiply-add; convolutions counted at every output site with the full kernel, transposed ones as
// input sites times taps; biases, norms, activations, softmax, rotary code and embeddings not counted.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "models/action_classifier.h"
#include "models/controlnet.h"
#include "models/unet3d.h"

namespace avid {

/// Extents of the video a cost is asked for; generated frames.
struct VideoSize {
  std::int64_t batch = 1, frames = 8, height = 64, width = 64;
};

/// FLOPs by kind of operation ("ResNet 3x3 conv") and by block ("downs.0"); both sum to total.
struct ForwardCost {
  std::int64_t total = 0;
  std::map<std::string, std::int64_t> by_kind, by_block;
};

ForwardCost forward_cost(const Unet3dConfig& config, const VideoSize& size);
ForwardCost forward_cost(const ControlNetConfig& config, const VideoSize& size);
/// Conditioning frames are added to size.frames.
ForwardCost forward_cost(const ActionClassifierConfig& config, const VideoSize& size);

}  // namespace avid
