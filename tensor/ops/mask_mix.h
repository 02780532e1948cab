// tensor/ops/mask_mix.h -- blend a frozen model's prediction with its adapter's (AVID output step)
#pragma once

#include "tensor/tensor.h"

namespace avid {

struct MaskMixResult {
  Tensor out;   ///< [..,C]
  Tensor mask;  ///< [..,1], in (0,1)
};

/// Per-pixel convex blend of two predictions; the mask, the adapter's last channel, is shared by all colours.
///
///   m = sigmoid(w * adapter[..,C] + b);   out[..,c] = m * base[..,c] + (1 - m) * adapter[..,c]
///
/// Shapes   base [..,C]; adapter [..,C+1]; w, b [1].
/// Dtypes   f32 or f64, one for all; on a device f32 or bf16, with w, b and the mask in f32.
/// Grad     see mask_mix_bwd.
/// Errors   ShapeError, DTypeError, before any allocation.
/// Exact    m == 1 returns base and m == 0 returns the adapter's colours, for finite inputs, up to zero's sign;
///          w = b = 0 gives m = 0.5 and out = 0.5 base + 0.5 adapter exactly.
/// Cost     memory bound: 3C + 2 elements moved per pixel.
/// Source   Rigter et al. 2024, arXiv:2410.12822, learned output mask; pixel.md 3.1. Deviations: none from the code;
///          the paper does not mention w and b.
MaskMixResult mask_mix_fwd(const Tensor& base, const Tensor& adapter, const Tensor& w, const Tensor& b);

struct MaskMixNeeds {
  bool base = true, adapter = true, w = true, b = true;
};
struct MaskMixGradients {
  Tensor d_base, d_adapter, d_w, d_b;  ///< undefined where not asked for
};
/// d_base = m d_out;  d_adapter[..,c] = (1 - m) d_out;  with d_s = m (1 - m) sum_c d_out (base - adapter):
/// d_adapter[..,C] = w d_s;  d_w = sum d_s adapter[..,C];  d_b = sum d_s. One pass.
MaskMixGradients mask_mix_bwd(
    const Tensor& d_out, const Tensor& base, const Tensor& adapter, const Tensor& w, const Tensor& mask,
    const MaskMixNeeds& needs);

}  // namespace avid
