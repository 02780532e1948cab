// tensor/ops/timestep_code.h -- sinusoidal code of the diffusion step
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// The fixed code that the step's MLP reads.
///
///   angle[b,j] = t[b] * exp(-j ln(10000) / (h - 1)),  h = width / 2;
///   out[b,:] = [sin(angle[b,0..h-1]), cos(angle[b,0..h-1])]
///
/// Shapes   t [B]; returns [B,width]; width even and at least 4.
/// Dtypes   t i64, used unscaled; the result f32 (computed in f32 throughout, as the original) or f64.
/// Source   pixel.md 2.2. Deviations: none.
Tensor timestep_code(const Tensor& t, std::int64_t width, DType dtype = DType::f32);

}  // namespace avid
