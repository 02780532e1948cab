// autograd/ops/elementwise.h -- differentiable activations, sum, multiple, reshape, frame slices
#pragma once

#include <cstdint>

#include "autograd/var.h"

namespace avid {

/// x * sigmoid(x). Saves x.
Var silu(const Var& x);
/// x * Phi(x), exact (erf). Saves x.
Var gelu(const Var& x);
/// a + b, same shapes. Saves nothing; both gradients are d_out itself, without a copy.
Var add(const Var& a, const Var& b);
/// factor * x. Saves nothing.
Var scale(const Var& x, double factor);
/// The same elements in another shape, sharing storage where rows allow it (last dimension kept, or rows without gaps),
/// else a copy. Saves nothing.
Var reshape(const Var& x, const Shape& shape);
/// Frames begin .. end-1 of every clip: [B,T,...] -> [B,end-begin,...]. The other frames get zero gradient. Saves
/// nothing.
Var slice_frames(const Var& x, std::int64_t begin, std::int64_t end);

}  // namespace avid
