// models/video_layout.h -- between the original's video layout in files and ours
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// [B,C,T,H,W] -> [B,T,H,W,C]; a new tensor.
Tensor to_channels_last(const Tensor& video);
/// [B,T,H,W,C] -> [B,C,T,H,W]; a new tensor.
Tensor to_channels_first(const Tensor& video);

}  // namespace avid
