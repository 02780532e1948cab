// autograd/ops/mask_mix.h -- differentiable mask_mix
#pragma once

#include "autograd/var.h"

namespace avid {

struct MaskMix {
  Var out;      ///< [..,3]
  Tensor mask;  ///< [..,1], for statistics and pictures; not part of the graph
};

/// out = m * base + (1 - m) * adapter[..,:3], m = sigmoid(w * adapter[..,3] + b); base [..,3], adapter [..,4], w, b
/// [1]. Contract and errors: tensor/ops/mask_mix.h.
///
/// Grad     base (skipped when frozen), adapter, w, b. Saves base, adapter, w and the mask.
MaskMix mask_mix(const Var& base, const Var& adapter, const Var& w, const Var& b);

}  // namespace avid
