// autograd/ops/rms_norm_film_silu.h -- differentiable rms_norm_film_silu
#pragma once

#include "autograd/var.h"

namespace avid {

/// silu(rmsnorm(x) * gamma * (scale + 1) + shift) + residual; x, residual [B,T,H,W,C], gamma [C], film [B,T,2C] = scale
/// | shift. film and residual may be undefined. Contract, equations and errors: tensor/ops/rms_norm_film_silu.h.
///
/// Grad     x, gamma, film, residual (d_out itself, not a copy). Saves x, gamma and film; the rest is computed again.
Var rms_norm_film_silu(const Var& x, const Var& gamma, const Var& film, const Var& residual);

/// The same for a result `out` that a fused op has computed: only records.
Var rms_norm_film_silu_result(Tensor out, const Var& x, const Var& gamma, const Var& film, const Var& residual);

}  // namespace avid
