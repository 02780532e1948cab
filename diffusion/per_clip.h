// diffusion/per_clip.h -- element-wise loops over videos whose coefficients depend on the clip
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace avid::diffusion {

/// out[b,...] = fn(b, x[b,...], y[b,...]) for tensors of one shape and dtype; pitches may differ (mapped files: dense).
/// Where all pitches agree it runs over whole pitched rows: fn(b, 0, 0) must be 0, so that gaps stay zero.
template <class Elem, class Fn>
void map_per_clip(const Tensor& x, const Tensor& y, Tensor& out, Fn fn) {
  const std::int64_t num_clips = x.dim(0);
  if (num_clips == 0) return;
  const bool flat = x.pitch() == out.pitch() && y.pitch() == out.pitch();
  const std::int64_t rows = x.rows() / num_clips;
  const std::int64_t num_runs = flat ? 1 : rows, run = flat ? rows * out.pitch() : x.cols();
  for (std::int64_t b = 0; b < num_clips; ++b)
    for (std::int64_t r = 0; r < num_runs; ++r) {
      const std::int64_t row = b * rows + r;
      const Elem* px = x.data<Elem>() + row * x.pitch();
      const Elem* py = y.data<Elem>() + row * y.pitch();
      Elem* po = out.data<Elem>() + row * out.pitch();
      for (std::int64_t i = 0; i < run; ++i) po[i] = fn(b, px[i], py[i]);
    }
}

}  // namespace avid::diffusion
