// tensor/ops/moments.h -- mean, spread and range of a tensor's elements
#pragma once

#include "tensor/tensor.h"

namespace avid {

struct Moments {
  double mean = 0, std = 0;  ///< std with N - 1; NaN for one element
  double min = 0, max = 0;
};

/// Statistics over all elements.
///
/// Dtypes   any on the CPU, f32 on a device.
/// Numerics f64. On the CPU in two passes; on a device in one, around `shift`, which should lie near the mean.
///          Waits for the device.
/// Errors   ShapeError for a tensor without elements; DTypeError.
Moments moments(const Tensor& x, double shift = 0);

/// The two halves of moments() on a device: what the device computes, without waiting, and the last sums on the host,
/// which waits. `partials` is what the first half returned for numel elements.
Tensor moments_partials(const Tensor& x, double shift = 0);
Moments moments_of_partials(const Tensor& partials, std::int64_t numel, double shift = 0);

}  // namespace avid
