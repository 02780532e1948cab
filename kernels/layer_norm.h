// kernels/layer_norm.h -- LayerNorm over the last dimension (contract: tensor/ops/layer_norm.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
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

// ---- on a device ----

/// Elem is float or BFloat16; gamma and beta are f32. Gaps of out are written as zero.
template <class Elem>
struct LayerNormDeviceArgs {
  std::int64_t num_rows = 0, C = 0;
  Rows<const Elem> x;
  const float* gamma = nullptr;  ///< [C]
  const float* beta = nullptr;   ///< [C] or absent; not read by bwd
  float eps = 1e-5f;
  Rows<Elem> out;  ///< written by fwd
};

/// Gradients; each output may be absent.
template <class Elem>
struct LayerNormDeviceGrads {
  Rows<const Elem> d_out;
  Rows<const Elem> d_residual;  ///< added to d_x (the gradient that came past the norm), or absent; may be d_x itself
  Rows<Elem> d_x;
  float* d_gamma = nullptr;
  float* d_beta = nullptr;
  float* workspace = nullptr;  ///< layer_norm_bwd_workspace() elements, 16-byte aligned
};

/// At most this many blocks, and partial sums, in a backward pass.
inline constexpr int kMaxLayerNormBlocks = 512;

/// f32 elements of workspace that layer_norm_bwd needs: two sums per block, mean and rstd per row. (Enough for
/// linear_layer_norm_bwd, too: a row of C in whole chunks per block of the product, whose columns are at most twice its
/// rows.)
inline std::int64_t layer_norm_bwd_workspace(std::int64_t num_rows, std::int64_t C) {
  return 2 * kMaxLayerNormBlocks * ((C + 7) / 8 * 8) + 2 * num_rows;
}

/// Statistics and sums in f32, the same bits in every run. Rows start at 16-byte boundaries (pitch, data).
template <class Backend, class Elem>
void layer_norm_fwd(const Stream& stream, const LayerNormDeviceArgs<Elem>& p);
template <class Backend, class Elem>
void layer_norm_bwd(const Stream& stream, const LayerNormDeviceArgs<Elem>& p, const LayerNormDeviceGrads<Elem>& g);

}  // namespace avid::kernels
