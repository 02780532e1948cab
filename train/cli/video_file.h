// train/cli/video_file.h -- videos and matrices named on the command line as FILE or FILE:TENSOR
#pragma once

#include <string>
#include <utility>

#include "tensor/tensor.h"

namespace avid::cli {

/// A tensor of a safetensors, npz, npy or torch file. A colon in an existing file's name is part of it. DTypeError for
/// booleans: none of what a command reads is made of them.
Tensor load_named_tensor(const std::string& place, const char* default_tensor);

/// "F:TENSOR" to F and TENSOR, "F" to F and the default. A colon in an existing file's name is part of it.
std::pair<std::string, std::string> split_place(const std::string& place, const std::string& default_tensor);

/// [N,T,3,H,W] or [N,T,H,W,3] u8 -> [N,T,H,W,3]; `place` is named in the ShapeError.
Tensor videos_channels_last(const Tensor& videos, const std::string& place);

/// u8 videos [N,T,3,H,W] or [N,T,H,W,3] -> [N,T,H,W,3]. Throws DTypeError, ShapeError, FileError.
Tensor load_videos(const std::string& place, const char* default_tensor = "frames");

}  // namespace avid::cli
