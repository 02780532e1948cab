// tensor/ops/elementwise.h -- activations, sum, multiple, frame slices
//
// Dtypes   f32 or f64, on a device f32 or bf16; one dtype per call. Shapes: any, outputs have the shape of the input
//          unless said. Gaps stay zero.
// Errors   ShapeError, DTypeError, before any allocation.
#pragma once

#include "tensor/tensor.h"

namespace avid {

/// x * sigmoid(x)
Tensor silu_fwd(const Tensor& x);
/// d_x = d_out * s (1 + x (1 - s)), s = sigmoid(x)
Tensor silu_bwd(const Tensor& d_out, const Tensor& x);

/// x * Phi(x) with the exact Gaussian distribution function (erf), not the tanh approximation.
Tensor gelu_fwd(const Tensor& x);
/// d_x = d_out * (Phi(x) + x phi(x))
Tensor gelu_bwd(const Tensor& d_out, const Tensor& x);

/// a + b, same shapes
Tensor add_fwd(const Tensor& a, const Tensor& b);

/// sum += x: same shapes, dtypes, devices; nobody else may hold sum's storage.
void add_in_place(Tensor& sum, const Tensor& x);

/// factor * x, factor finite; its own adjoint
Tensor scale_fwd(const Tensor& x, double factor);

/// Clamps to [-1,1] in place; NaN stays NaN.
void clamp_to_unit(Tensor& x);

/// Whether no element is infinite or NaN; true for undefined and for integer tensors. Waits for the device to know.
bool all_finite(const Tensor& x);
/// The same without waiting: found [1] i32, on x's device (not the CPU), becomes 1 if some element is infinite or NaN,
/// and stays what it was otherwise.
void note_non_finite(const Tensor& x, Tensor& found);

/// Frames begin .. end-1 of every clip: [B,T,...] -> [B,end-begin,...]. A copy.
Tensor slice_frames_fwd(const Tensor& x, std::int64_t begin, std::int64_t end);
/// The adjoint: d_out in frames begin .. end-1 of a [B,num_frames,...] tensor of zeros.
Tensor slice_frames_bwd(const Tensor& d_out, std::int64_t num_frames, std::int64_t begin);

}  // namespace avid
