// eval/metrics/resize.cpp -- the bilinear resize that FID and FVD are defined with
#include "eval/metrics/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/error.h"

namespace avid::eval {
namespace {

struct Tap {
  std::int64_t first, second;
  float fraction;
};

std::vector<Tap> taps(std::int64_t in, std::int64_t out) {
  std::vector<Tap> result;
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  for (std::int64_t i = 0; i < out; ++i) {
    const float position = std::max((static_cast<float>(i) + 0.5f) * scale - 0.5f, 0.0f);
    const auto first = static_cast<std::int64_t>(position);
    result.push_back({first, std::min(first + 1, in - 1), position - static_cast<float>(first)});
  }
  return result;
}

}  // namespace

Tensor resize_bilinear_u8(const Tensor& frames, std::int64_t height, std::int64_t width) {
  check_dtype(frames, DType::u8, "resize", "frames");
  check<ShapeError>(
      frames.rank() >= 3 && height >= 1 && width >= 1 && frames.dim(-3) >= 1 && frames.dim(-2) >= 1,
      "resize: expected frames [...,H,W,C] and a positive size, got {} to {}x{}", frames.shape(), height, width);
  std::vector<std::int64_t> extents = frames.shape().to_vector();
  const std::int64_t in_h = frames.dim(-3), in_w = frames.dim(-2), channels = frames.dim(-1);
  extents[extents.size() - 3] = height;
  extents[extents.size() - 2] = width;
  Tensor out = Tensor::empty(Shape(extents), DType::u8);
  const std::vector<Tap> ys = taps(in_h, height), xs = taps(in_w, width);
  const std::int64_t num_images = frames.numel() / (in_h * in_w * channels);
  for (std::int64_t n = 0; n < num_images; ++n) {
    const std::uint8_t* image = frames.data<std::uint8_t>() + n * in_h * in_w * channels;
    std::uint8_t* target = out.data<std::uint8_t>() + n * height * width * channels;
    for (const Tap& y : ys)
      for (const Tap& x : xs)
        for (std::int64_t c = 0; c < channels; ++c) {
          const auto at = [&](std::int64_t row, std::int64_t col) {
            return static_cast<float>(image[(row * in_w + col) * channels + c]);
          };
          const float top = (1 - x.fraction) * at(y.first, x.first) + x.fraction * at(y.first, x.second);
          const float bottom = (1 - x.fraction) * at(y.second, x.first) + x.fraction * at(y.second, x.second);
          *target++ = static_cast<std::uint8_t>((1 - y.fraction) * top + y.fraction * bottom);
        }
  }
  return out;
}

Tensor quantise_rounded(const Tensor& frames) {
  check_dtype(frames, DType::f32, "quantise", "frames");
  Tensor out = Tensor::empty(frames.shape(), DType::u8);
  for (std::int64_t r = 0; r < frames.rows(); ++r)
    for (std::int64_t c = 0; c < frames.cols(); ++c) {
      const float level = (frames.data<float>()[r * frames.pitch() + c] + 1.0f) / 2.0f * 255.0f;
      out.data<std::uint8_t>()[r * out.pitch() + c] =
          static_cast<std::uint8_t>(level > 0 ? std::nearbyint(std::min(level, 255.0f)) : 0);
    }
  return out;
}

}  // namespace avid::eval
