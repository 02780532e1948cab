// kernels/mask_mix.h -- blend of a frozen prediction with its adapter's (contract: tensor/ops/mask_mix.h)
#pragma once

#include <cstdint>

#include "kernels/rows.h"

namespace avid::kernels {

/// P pixels of C colours. base, out [P,C]; adapter [P,C+1], mask logit last; mask [P,1]; w, b one element each.
template <class Elem>
struct MaskMixArgs {
  std::int64_t P = 0, C = 3;
  Rows<const Elem> base, adapter;
  Elem w = 0, b = 0;
  Rows<Elem> out, mask;  ///< written by fwd; bwd only reads mask
};

/// Gradients; each may be absent. d_w_b holds the two scalars d_w, d_b.
template <class Elem>
struct MaskMixGrads {
  Rows<const Elem> d_out;
  Rows<Elem> d_base, d_adapter;
  Elem* d_w_b = nullptr;
};

// Elem is float or double.
template <class Elem>
void mask_mix_fwd(const MaskMixArgs<Elem>& p);
template <class Elem>
void mask_mix_bwd(const MaskMixArgs<Elem>& p, const MaskMixGrads<Elem>& g);

}  // namespace avid::kernels
