// kernels/vendor/cuda_stopwatch.h -- times of single ops on a GPU, with events of its own stream; for CUDA builds
#pragma once

#include <bit>
#include <cstddef>
#include <memory>

#include "kernels/op_watch.h"
#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// Bytes to read so that a second-level cache of `cache_bytes` holds them alone: a power of two, twice as many or more.
/// 128 MiB for the 40 to 50 MiB of an A100, H100 or H200, and for a device that does not say (0).
constexpr std::size_t flush_bytes(std::size_t cache_bytes) {
  return cache_bytes == 0 ? std::size_t{128} << 20 : std::bit_ceil(2 * cache_bytes);
}
/// The same for this thread's device, as CUDA's runtime describes it.
std::size_t flush_bytes();

/// Runs f twice unmeasured, then five times, each after other memory was read until the second-level cache holds that
/// alone (read, not written: what it would still have to write would be charged to f), and returns their spread.
/// Nothing while the stream's work is being captured into a graph. f queues its work on `stream`.
Stopwatch cuda_stopwatch(const Stream& stream);

/// Seconds of what `stream` does between begin() and end(), which waits for it; the cache as above at every begin().
std::unique_ptr<OpClock> cuda_op_clock(const Stream& stream);

/// Which of `count` ways has the least median by this watch: run(i) queues way i. 0 where no time can be taken.
std::size_t fastest_of(std::size_t count, const Stopwatch& watch, const std::function<void(std::size_t)>& run);

}  // namespace avid::kernels::vendor
