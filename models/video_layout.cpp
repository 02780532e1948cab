// models/video_layout.cpp -- between the original's video layout in files and ours
#include "models/video_layout.h"

#include "nn/module.h"

namespace avid {

// The same move of dimension 1 as for convolution weights.
Tensor to_channels_last(const Tensor& video) {
  check_rank(video, 5, "to_channels_last", "video");
  return nn::from_plain(video, {video.dim(0), video.dim(2), video.dim(3), video.dim(4), video.dim(1)});
}

Tensor to_channels_first(const Tensor& video) {
  check_rank(video, 5, "to_channels_first", "video");
  return nn::to_plain(video, {video.dim(0), video.dim(4), video.dim(1), video.dim(2), video.dim(3)});
}

}  // namespace avid
