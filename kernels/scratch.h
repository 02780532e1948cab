// kernels/scratch.h -- working memory of one kernel call, kept between calls
#pragma once

#include <cstddef>
#include <cstdint>

namespace avid::kernels {

/// 64-byte aligned floats, uninitialised, owned by the calling thread and valid until its next request. One request per
/// kernel call: cut it into parts with ScratchParts. Throws std::bad_alloc (so ask outside of parallel loops).
float* scratch_floats(std::size_t count);

/// Adds up the parts of one request and hands out their places: take(n) returns an offset that is a multiple of 16
/// floats.
class ScratchParts {
 public:
  std::size_t take(std::int64_t count) {
    const std::size_t offset = total_;
    total_ += (static_cast<std::size_t>(count) + 15) / 16 * 16;
    return offset;
  }
  std::size_t total() const { return total_; }

 private:
  std::size_t total_ = 0;
};

}  // namespace avid::kernels
