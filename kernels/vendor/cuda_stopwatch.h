// kernels/vendor/cuda_stopwatch.h -- times of single ops on a GPU, with events of its own stream; for CUDA builds
#pragma once

#include "kernels/vendor/route.h"

namespace avid::kernels::vendor {

/// Runs f twice unmeasured, then five times, each after the second-level cache was overwritten, and returns the median.
/// Nothing while the stream's work is being captured into a graph. f queues its work on `stream`.
Stopwatch cuda_stopwatch(const Stream& stream);

}  // namespace avid::kernels::vendor
