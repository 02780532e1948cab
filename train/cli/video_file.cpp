// train/cli/video_file.cpp -- videos and matrices named on the command line as FILE or FILE:TENSOR
#include "train/cli/video_file.h"

#include <filesystem>

#include "tensor/error.h"
#include "tensor/io/booleans.h"

namespace avid::cli {

std::pair<std::string, std::string> split_place(const std::string& place, const std::string& default_tensor) {
  const auto colon = place.rfind(':');
  if (colon == std::string::npos || std::filesystem::exists(place)) return {place, default_tensor};
  return {place.substr(0, colon), place.substr(colon + 1)};
}

Tensor load_named_tensor(const std::string& place, const char* default_tensor) {
  const auto [file, name] = split_place(place, default_tensor);
  const auto opened = open_tensor_file(file);
  check_no_booleans(*opened, name);
  return opened->load(name);
}

Tensor videos_channels_last(const Tensor& video, const std::string& place) {
  check<ShapeError>(
      video.rank() == 5 && (video.dim(4) == 3 || video.dim(2) == 3), "{}: expected [N,T,3,H,W] or [N,T,H,W,3], got {}",
      place, video.shape());
  if (video.dim(4) == 3) return video;
  const std::int64_t n = video.dim(0), frames = video.dim(1), height = video.dim(3), width = video.dim(4),
                     plane = height * width;
  Tensor out = Tensor::empty({n, frames, height, width, 3}, DType::u8);
  const std::uint8_t* source = video.data<std::uint8_t>();
  std::uint8_t* target = out.data<std::uint8_t>();
  for (std::int64_t image = 0; image < n * frames; ++image)
    for (std::int64_t c = 0; c < 3; ++c)
      for (std::int64_t i = 0; i < plane; ++i) target[(image * plane + i) * 3 + c] = *source++;
  return out;
}

Tensor load_videos(const std::string& place, const char* default_tensor) {
  const Tensor video = load_named_tensor(place, default_tensor);
  check<DTypeError>(video.dtype() == DType::u8, "{}: expected u8 frames 0..255, got {}", place, name_of(video.dtype()));
  return videos_channels_last(video, place);
}

}  // namespace avid::cli
