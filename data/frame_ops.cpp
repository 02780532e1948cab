// data/frame_ops.cpp -- box filter and checksum
#include "data/frame_ops.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "tensor/error.h"

namespace avid::data {
namespace {

static_assert(std::endian::native == std::endian::little, "checksums read little-endian words");

std::uint64_t mix(std::uint64_t hash, std::uint64_t word) {
  hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 32);
}

}  // namespace

void box_downscale(
    std::span<const std::uint8_t> frames, std::int64_t height, std::int64_t width, std::int64_t factor,
    std::span<std::uint8_t> out) {
  check<ShapeError>(
      factor >= 1 && height > 0 && width > 0 && height % factor == 0 && width % factor == 0,
      "box_downscale: size: expected a multiple of {}, got {}x{}", factor, height, width);
  const std::int64_t frame_bytes = height * width * 3, out_h = height / factor, out_w = width / factor;
  const std::int64_t num_frames = static_cast<std::int64_t>(frames.size()) / frame_bytes;
  check<ShapeError>(
      static_cast<std::int64_t>(frames.size()) == num_frames * frame_bytes &&
          static_cast<std::int64_t>(out.size()) == num_frames * out_h * out_w * 3,
      "box_downscale: frames: expected whole {}x{} frames and room for them, got {} and {} bytes", height, width,
      frames.size(), out.size());
  const auto area = static_cast<std::uint32_t>(factor * factor);
  std::uint8_t* to = out.data();
  for (std::int64_t n = 0; n < num_frames; ++n) {
    const std::uint8_t* frame = frames.data() + n * frame_bytes;
    for (std::int64_t y = 0; y < out_h; ++y) {
      for (std::int64_t x = 0; x < out_w; ++x) {
        for (std::int64_t c = 0; c < 3; ++c) {
          std::uint32_t sum = area / 2;
          for (std::int64_t dy = 0; dy < factor; ++dy)
            for (std::int64_t dx = 0; dx < factor; ++dx)
              sum += frame[((y * factor + dy) * width + x * factor + dx) * 3 + c];
          *to++ = static_cast<std::uint8_t>(sum / area);
        }
      }
    }
  }
}

std::vector<std::uint8_t> box_downscale(
    std::span<const std::uint8_t> frames, std::int64_t height, std::int64_t width, std::int64_t factor) {
  check<ShapeError>(factor >= 1, "box_downscale: factor: expected >= 1, got {}", factor);
  std::vector<std::uint8_t> out(frames.size() / static_cast<std::size_t>(factor * factor));
  box_downscale(frames, height, width, factor, out);
  return out;
}

Checksum& Checksum::update(std::span<const std::uint8_t> bytes) {
  if (bytes.empty()) return *this;  // and its pointer may be null
  std::size_t filled = num_bytes_ % 8;
  num_bytes_ += bytes.size();
  const std::uint8_t* p = bytes.data();
  std::size_t n = bytes.size();
  if (filled > 0) {
    const std::size_t take = std::min(n, 8 - filled);
    std::memcpy(pending_ + filled, p, take);
    p += take;
    n -= take;
    if (filled + take < 8) return *this;
    std::uint64_t word;
    std::memcpy(&word, pending_, 8);
    hash_ = mix(hash_, word);
  }
  for (; n >= 8; p += 8, n -= 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    hash_ = mix(hash_, word);
  }
  if (n > 0) std::memcpy(pending_, p, n);
  return *this;
}

std::uint64_t Checksum::value() const {
  std::uint64_t hash = hash_;
  if (const std::size_t filled = num_bytes_ % 8; filled > 0) {
    std::uint64_t word = 0;
    std::memcpy(&word, pending_, filled);
    hash = mix(hash, word);
  }
  return mix(hash, num_bytes_);
}

}  // namespace avid::data
