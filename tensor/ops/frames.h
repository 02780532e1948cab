// tensor/ops/frames.h -- pixel values: bytes on disk and in pictures, [-1,1] in the models
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// f = (u / 255) * 2 - 1 with a true division.
///
/// Shapes   any, usually [...,3].
/// Dtypes   u8 -> f32 (or f64; on a device f32 or bf16).
/// Range    0..255 -> [-1,1].
/// Source   pixel.md 1.1. Deviations: none.
Tensor frames_from_u8(const Tensor& u, DType dtype = DType::f32);

/// u = (x + 1) / 2 * 255, clamped to [0,255], then truncated (no rounding). NaN becomes 0.
///
/// Dtypes   f32 or f64 (on a device f32 or bf16) -> u8.
/// Exact    frames_to_u8(frames_from_u8(u)) in f32 is u - 1 for u = 1..63 and u otherwise, as in the original.
/// Source   pixel.md 1.1. Deviations: none.
Tensor frames_to_u8(const Tensor& x);

}  // namespace avid
