// autograd/ops/cross_entropy.h -- differentiable cross_entropy
#pragma once

#include "autograd/var.h"

namespace avid {

/// Scalar mean of -log softmax(logits)[id]; logits [B,T,A] (or [...,A]), ids i64 [B,T].
/// Contract and errors: tensor/ops/cross_entropy.h.
///
/// Grad     logits. Saves logits and ids.
Var cross_entropy(const Var& logits, const Tensor& ids);

}  // namespace avid
