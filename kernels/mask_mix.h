// kernels/mask_mix.h -- blend of a frozen prediction with its adapter's (contract: tensor/ops/mask_mix.h)
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
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

// ---- on a device: Elem is float or BFloat16, arithmetic is f32 ----

/// As above. w, b and the mask are f32 whatever Elem is: a mask of 0.998 is 1 in bf16, and 1 - m is the adapter's
/// gradient. Rows start at 16-byte boundaries (data and pitch).
template <class Elem>
struct MaskMixDeviceArgs {
  std::int64_t P = 0, C = 3;
  Rows<const Elem> base, adapter;
  const float *w = nullptr, *b = nullptr;  ///< device scalars: no copy to the host when training changes them
  Rows<Elem> out;                          ///< written by fwd, absent for bwd; gaps become zero
  Rows<float> mask;                        ///< [P,1], written by fwd, read by bwd; gaps become zero
};

/// Gradients; each may be absent. d_w and d_b need the workspace.
template <class Elem>
struct MaskMixDeviceGrads {
  Rows<const Elem> d_out;
  Rows<Elem> d_base, d_adapter;  ///< gaps become zero
  float *d_w = nullptr, *d_b = nullptr;
  float* workspace = nullptr;  ///< mask_mix_bwd_workspace(P) elements
};

/// f32 elements of workspace that mask_mix_bwd needs for d_w and d_b.
constexpr std::int64_t mask_mix_bwd_workspace(std::int64_t P) {
  constexpr std::int64_t kPixelsPerBlock = 256, kMostBlocks = 1024;
  const std::int64_t blocks = (P + kPixelsPerBlock - 1) / kPixelsPerBlock;
  return 2 * (blocks < kMostBlocks ? blocks : kMostBlocks);
}

/// The same bits in every run. bwd is one pass over the pixels, and one small kernel for d_w and d_b.
template <class Backend, class Elem>
void mask_mix_fwd(const Stream& stream, const MaskMixDeviceArgs<Elem>& p);
template <class Backend, class Elem>
void mask_mix_bwd(const Stream& stream, const MaskMixDeviceArgs<Elem>& p, const MaskMixDeviceGrads<Elem>& g);

}  // namespace avid::kernels
