// tensor/ops/moments.cpp -- checks and the last additions of moments
#include "tensor/ops/moments.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/moments.h"
#include "tensor/ops/on_device.h"

namespace avid {
namespace {

void check_x(const Tensor& x) {
  check<ShapeError>(x.defined() && x.numel() > 0, "moments: x: expected at least one element, got {}", x.describe());
}

}  // namespace

Tensor moments_partials(const Tensor& x, double shift) {
  check_x(x);
  check<DeviceError>(x.device().is_gpu(), "moments_partials: x: expected a tensor on a device, got one on cpu");
  check_dtype(x, DType::f32, "moments", "x");
  const std::int64_t blocks = kernels::moments_blocks(x.numel());
  Tensor partials = Tensor::empty({blocks, 4}, DType::f64, x.device());
  on_device(x.device(), "moments", [&]<class Backend>(const kernels::Stream& stream) {
    kernels::moments<Backend>(
        stream,
        {x.numel() / x.cols(), x.cols(), device_rows_of<float>(x), shift, device_mutable_data<double>(partials)});
  });
  return partials;
}

Moments moments_of_partials(const Tensor& partials, std::int64_t numel, double shift) {
  const std::vector<double> parts = partials.to_doubles();
  double sum = 0, squares = 0;
  Moments m{0, 0, parts[2], parts[3]};
  for (std::size_t b = 0; b < parts.size(); b += 4) {
    sum += parts[b];
    squares += parts[b + 1];
    m.min = std::min(m.min, parts[b + 2]);
    m.max = std::max(m.max, parts[b + 3]);
  }
  const auto n = static_cast<double>(numel);
  m.mean = shift + sum / n;
  // Rounding may leave a constant tensor just below zero; NaN passes.
  const double variance = (squares - sum * sum / n) / (n - 1);
  m.std = variance < 0 ? 0 : std::sqrt(variance);
  return m;
}

Moments moments(const Tensor& x, double shift) {
  check_x(x);
  if (x.device().is_gpu()) return moments_of_partials(moments_partials(x, shift), x.numel(), shift);
  const std::vector<double> values = x.to_doubles();
  const kernels::HostMoments m = kernels::moments(values.data(), x.numel());
  return {m.mean, m.std, m.min, m.max};
}

}  // namespace avid
