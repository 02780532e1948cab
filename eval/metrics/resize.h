// eval/metrics/resize.h -- the bilinear resize that FID and FVD are defined with
#pragma once

#include "tensor/tensor.h"

namespace avid::eval {

/// Bilinear with half-pixel centres and no antialiasing, f32 arithmetic on 0..255, truncated to u8:
///   p = max((i + 0.5) in/out - 0.5, 0), i0 = floor(p), i1 = min(i0 + 1, in - 1), l = p - i0, (1-l) v[i0] + l v[i1]
///
/// Shapes   frames [...,H,W,C] u8 -> [...,height,width,C] u8.
/// Source   metrics.md 1.3.
Tensor resize_bilinear_u8(const Tensor& frames, std::int64_t height, std::int64_t width);

/// Model output in [-1,1] to u8 by rounding to nearest instead of truncation (`quantise=round`). Truncation, default
/// protocol, is frames_to_u8 in tensor/ops/frames.h. Shapes [...,C] f32 -> the same, u8.
Tensor quantise_rounded(const Tensor& frames);

}  // namespace avid::eval
