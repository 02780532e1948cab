// kernels/vendor/cuda_stopwatch.h -- times of single ops on a GPU, with events of its own stream; for CUDA builds
#pragma once

#include <memory>

#include "kernels/op_watch.h"
#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// Runs f twice unmeasured, then five times, each after other memory was read until the second-level cache holds that
/// alone (read, not written: what it would still have to write would be charged to f), and returns their spread.
/// Nothing while the stream's work is being captured into a graph. f queues its work on `stream`.
Stopwatch cuda_stopwatch(const Stream& stream);

/// Seconds of what `stream` does between begin() and end(), which waits for it; the cache as above at every begin().
std::unique_ptr<OpClock> cuda_op_clock(const Stream& stream);

/// Which of `count` ways has the least median by this watch: run(i) queues way i. 0 where no time can be taken.
std::size_t fastest_of(std::size_t count, const Stopwatch& watch, const std::function<void(std::size_t)>& run);

}  // namespace avid::kernels::vendor
