// autograd/ops/group_norm_silu.h -- differentiable group_norm_silu
#pragma once

#include "autograd/var.h"
#include "tensor/ops/group_norm_silu.h"

namespace avid {

/// silu(GroupNorm(x) * gamma + beta) over frames or clips; x [B,T,H,W,C], gamma and beta [C]. Contract and errors:
/// tensor/ops/group_norm_silu.h.
///
/// Grad     x, gamma, beta. Saves all three.
Var group_norm_silu(const Var& x, const Var& gamma, const Var& beta, const GroupNormOptions& options = {});

}  // namespace avid
