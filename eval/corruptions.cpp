// eval/corruptions.cpp -- known damage to clips
#include "eval/corruptions.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tensor/error.h"
#include "tensor/rng.h"

namespace avid::eval {
namespace {

void check_clips(const Tensor& clips) {
  check_rank(clips, 5, "corruption", "clips");
  check_dtype(clips, DType::u8, "corruption", "clips");
}

std::uint8_t to_level(double v) { return static_cast<std::uint8_t>(std::clamp(std::round(v), 0.0, 255.0)); }

/// One axis of a separable filter over `lines` lines of `length` values that lie `stride` apart.
void filter_lines(
    std::vector<double>& values, const std::vector<double>& taps, std::size_t length, std::size_t stride) {
  const auto radius = static_cast<std::ptrdiff_t>(taps.size() / 2), n = static_cast<std::ptrdiff_t>(length);
  std::vector<double> line(length);
  for (std::size_t block = 0; block < values.size(); block += length * stride) {
    for (std::size_t offset = 0; offset < stride; ++offset) {
      double* at = values.data() + block + offset;
      for (std::size_t i = 0; i < length; ++i) line[i] = at[i * stride];
      for (std::ptrdiff_t i = 0; i < n; ++i) {
        double sum = 0;
        for (std::ptrdiff_t k = -radius; k <= radius; ++k)
          sum += taps[static_cast<std::size_t>(k + radius)] *
                 line[static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(i + k, 0, n - 1))];
        at[static_cast<std::size_t>(i) * stride] = sum;
      }
    }
  }
}

/// Copies frame `from` of clip `b` of `source` to frame `to` of the same clip.
void copy_frame(const Tensor& source, Tensor& out, std::int64_t b, std::int64_t from, std::int64_t to) {
  const std::int64_t frame = source.numel() / (source.dim(0) * source.dim(1)), clip = b * source.dim(1);
  std::copy_n(
      source.data<std::uint8_t>() + (clip + from) * frame, frame, out.data<std::uint8_t>() + (clip + to) * frame);
}

}  // namespace

Tensor blurred(const Tensor& clips, double sigma) {
  check_clips(clips);
  Tensor out = clips.clone();
  if (sigma <= 0) return out;
  const auto radius = static_cast<std::ptrdiff_t>(std::ceil(3 * sigma));
  std::vector<double> taps;
  for (std::ptrdiff_t k = -radius; k <= radius; ++k)
    taps.push_back(std::exp(-0.5 * static_cast<double>(k * k) / (sigma * sigma)));
  const double sum = std::accumulate(taps.begin(), taps.end(), 0.0);
  for (double& tap : taps) tap /= sum;
  const auto height = static_cast<std::size_t>(clips.dim(2)), width = static_cast<std::size_t>(clips.dim(3));
  std::uint8_t* to = out.data<std::uint8_t>();
  std::vector<double> frame(height * width * 3);
  for (std::int64_t i = 0; i < clips.dim(0) * clips.dim(1); ++i, to += frame.size()) {
    std::copy_n(to, frame.size(), frame.begin());
    filter_lines(frame, taps, width, 3);
    filter_lines(frame, taps, height, width * 3);
    std::transform(frame.begin(), frame.end(), to, to_level);
  }
  return out;
}

Tensor with_noise(const Tensor& clips, double levels, std::uint64_t seed) {
  check_clips(clips);
  Tensor noise = Tensor::empty({clips.numel()});
  fill_normal(noise, {seed, RngPurpose::eval_noise, 1});
  Tensor out = clips.clone();
  std::uint8_t* to = out.data<std::uint8_t>();
  for (std::int64_t i = 0; i < clips.numel(); ++i) to[i] = to_level(to[i] + levels * noise.data<float>()[i]);
  return out;
}

Tensor frozen(const Tensor& clips, std::int64_t count) {
  check_clips(clips);
  const std::int64_t T = clips.dim(1);
  check<ShapeError>(count >= 0 && count < T, "frozen: expected 0..{} frames, got {}", T - 1, count);
  Tensor out = clips.clone();
  for (std::int64_t b = 0; b < clips.dim(0); ++b)
    for (std::int64_t t = T - count; t < T; ++t) copy_frame(clips, out, b, T - count - 1, t);
  return out;
}

Tensor shuffled_in_time(const Tensor& clips, std::int64_t block, std::uint64_t seed) {
  check_clips(clips);
  check<ShapeError>(block >= 1, "shuffled_in_time: expected blocks of at least 1 frame, got {}", block);
  Tensor out = clips.clone();
  const std::int64_t T = clips.dim(1);
  for (std::int64_t b = 0; b < clips.dim(0); ++b) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(T));
    std::iota(order.begin(), order.end(), std::int64_t{0});
    for (std::int64_t begin = 0; begin < T; begin += block) {
      // Fisher and Yates, from the end of the block.
      for (std::int64_t i = std::min(begin + block, T) - 1; i > begin; --i) {
        const std::int64_t j = begin + random_below(
                                           {seed, RngPurpose::eval_noise, 2}, static_cast<std::uint64_t>(b * T + i),
                                           static_cast<std::uint32_t>(i - begin + 1));
        std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(j)]);
      }
    }
    for (std::int64_t t = 0; t < T; ++t) copy_frame(clips, out, b, order[static_cast<std::size_t>(t)], t);
  }
  return out;
}

Tensor partly_replaced(const Tensor& clips, const Tensor& other, double share) {
  check_clips(clips);
  check_dtype(other, DType::u8, "partly_replaced", "other");
  check_shape(other, clips.shape(), "partly_replaced", "other");
  check<ShapeError>(share >= 0 && share <= 1, "partly_replaced: expected a share in 0..1, got {}", share);
  Tensor out = clips.clone();
  const auto count = static_cast<std::int64_t>(std::llround(share * static_cast<double>(clips.dim(0))));
  if (count > 0) out.slice(0, count).copy_from(other.slice(0, count));
  return out;
}

}  // namespace avid::eval
