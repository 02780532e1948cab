// data/frame_ops.h -- arithmetic on stored frames: halving, checksums
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace avid::data {

/// Each output pixel is the mean of a factor x factor box, per colour: (sum + factor^2 / 2) / factor^2, so halves round
/// up. `frames` [n,H,W,3] -> `out` [n,H/factor,W/factor,3]. H and W must be multiples of factor (ShapeError).
void box_downscale(
    std::span<const std::uint8_t> frames, std::int64_t height, std::int64_t width, std::int64_t factor,
    std::span<std::uint8_t> out);
std::vector<std::uint8_t> box_downscale(
    std::span<const std::uint8_t> frames, std::int64_t height, std::int64_t width, std::int64_t factor);

/// 64-bit checksum of a stream of bytes, for noticing damage and comparing data sets; not cryptographic.
///
///   h = 0xcbf29ce484222325; for each little-endian 64-bit word w (last one padded with zeros):
///     h = (h xor w) * 0x9e3779b97f4a7c15;  h = h xor (h >> 32);   finally the same with w = number of bytes
///
/// The pieces handed to update() may be cut anywhere.
class Checksum {
 public:
  Checksum& update(std::span<const std::uint8_t> bytes);
  template <class Elem>
  Checksum& update_values(std::span<const Elem> values) {
    return update({reinterpret_cast<const std::uint8_t*>(values.data()), values.size_bytes()});
  }
  std::uint64_t value() const;

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325ULL;
  std::uint64_t num_bytes_ = 0;
  std::uint8_t pending_[8] = {};
};

}  // namespace avid::data
