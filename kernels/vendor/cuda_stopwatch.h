// kernels/vendor/cuda_stopwatch.h -- times of single ops on a GPU, with events of its own stream; for CUDA builds
#pragma once

#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// Runs f twice unmeasured, then five times, each after the second-level cache was overwritten, and returns the median.
/// Nothing while the stream's work is being captured into a graph. f queues its work on `stream`.
Stopwatch cuda_stopwatch(const Stream& stream);

/// Which of `count` ways is the fastest by this watch: run(i) queues way i. 0 where no time can be taken.
std::size_t fastest_of(std::size_t count, const Stopwatch& watch, const std::function<void(std::size_t)>& run);

}  // namespace avid::kernels::vendor
