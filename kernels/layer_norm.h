// kernels/layer_norm.h -- LayerNorm over the last dimension (contract: tensor/ops/layer_norm.h)
#pragma once

#include <cstdint>

#include "kernels/rows.h"

namespace avid::kernels {

template <class Elem>
struct LayerNormArgs {
  std::int64_t num_rows = 0, C = 0;
  Rows<const Elem> x;
  const Elem* gamma = nullptr;  ///< [C]
  const Elem* beta = nullptr;   ///< [C] or absent
  double eps = 1e-5;
  Rows<Elem> out;  ///< written by fwd
};

/// Gradients; each may be absent.
template <class Elem>
struct LayerNormGrads {
  Rows<const Elem> d_out;
  Rows<Elem> d_x;
  Elem* d_gamma = nullptr;
  Elem* d_beta = nullptr;
};

// Elem is float or double.
template <class Elem>
void layer_norm_fwd(const LayerNormArgs<Elem>& p);
template <class Elem>
void layer_norm_bwd(const LayerNormArgs<Elem>& p, const LayerNormGrads<Elem>& g);

}  // namespace avid::kernels
