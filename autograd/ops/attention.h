// autograd/ops/attention.h -- differentiable softmax attention of queries to keys
#pragma once

#include "autograd/var.h"
#include "tensor/ops/attention.h"

namespace avid {

/// Contract, shapes and errors: tensor/ops/attention.h.
///
/// Grad     q, k, v. Saves all three, the output and one number per query and head.
Var attention(const Var& q, const Var& k, const Var& v, const SoftmaxAttentionOptions& options);

}  // namespace avid
