// kernels/norm_film_silu_conv3d.h -- the data gradient of a convolution behind RMSNorm, FiLM and SiLU, through all of
// them, on a device (contract: tensor/ops/norm_film_silu_conv3d.h)
#pragma once

#include "kernels/conv3d.h"
#include "kernels/rms_norm_film_silu.h"

namespace avid::kernels {

/// Gradients of y = conv3d(rms_norm_film_silu(x)) with respect to x, gamma and FiLM. F = B * in[0] frames of S =
/// in[1] * in[2] rows of I channels; all rows start at 16-byte boundaries.
struct NormFilmSiluConv3dGrads {
  Rows<const BFloat16> d_out;  ///< [P',O]
  Rows<const BFloat16> w;      ///< as of conv3d
  Rows<BFloat16> d_x;          ///< [F*S,I]
  float* d_gamma = nullptr;    ///< [I], or null
  Rows<float> d_film = {};     ///< [F,2I], or absent
  float* sums = nullptr;       ///< norm_film_silu_conv3d_bwd_sums elements
  void* workspace = nullptr;   ///< conv3d_bwd_data_workspace_bytes<BFloat16>
};

/// The blocks that the data gradient runs with, if they hold whole rows, there is one input, and they can end in the
/// norm's gradient; else none (count 0). By the sizes and the kind of device alone. Throws GpuError past conv3d's
/// limits.
template <class Backend>
NormSumBlocks norm_film_silu_conv3d_bwd_blocks(const Conv3dSize&);

/// f32 elements of working memory for sums over rows: two rows per frame of each block, one row per frame.
inline std::int64_t norm_film_silu_conv3d_bwd_sums(const Conv3dSize& s, const NormSumBlocks& blocks) {
  return (blocks.count * blocks.frames * 2 + s.B * s.in[0]) * ((s.I + 7) / 8 * 8);
}

/// d_h = conv3d_bwd_data; d_x, d_gamma, d_film = rms_norm_film_silu_bwd of d_h rounded to bf16: d_x has the bits of
/// these two, the others are added in another order. `blocks` from norm_film_silu_conv3d_bwd_blocks, at least one: else
/// GpuError. `norm` is that of x; its residual and out are not used. The same bits in every run.
template <class Backend>
void norm_film_silu_conv3d_bwd(
    const Stream&, const Conv3dSize&, const NormSumBlocks& blocks, const RmsNormFilmSiluDeviceArgs<BFloat16>& norm,
    const NormFilmSiluConv3dGrads&);

}  // namespace avid::kernels
