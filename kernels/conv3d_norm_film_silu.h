// kernels/conv3d_norm_film_silu.h -- a convolution that ends in RMSNorm, FiLM, SiLU and residual, on a device
// (contract: tensor/ops/conv3d_norm_film_silu.h)
#pragma once

#include "kernels/conv3d.h"

namespace avid::kernels {

/// F = B * out[0] frames of out[1] * out[2] rows. In rows of film, scale is [0,O) and shift [O,2O). Rows of x, x2, w
/// and bias as conv3d_fwd takes them; all rows start at 16-byte boundaries.
struct Conv3dNormFilmSiluArgs {
  Rows<const BFloat16> x, x2 = {};     ///< x2 may be absent
  Rows<const BFloat16> w;              ///< as of conv3d
  const float* bias = nullptr;         ///< [O], or null
  const float* gamma = nullptr;        ///< [O]
  Rows<const float> film = {};         ///< [F,2O] or absent
  Rows<const BFloat16> residual = {};  ///< [F*S,O] or absent
  Rows<BFloat16> u = {};               ///< [F*S,O]: the convolution's result, written if present
  Rows<BFloat16> out;                  ///< [F*S,O]
  void* workspace = nullptr;           ///< conv3d_fwd_workspace_bytes<BFloat16>
};

/// Does the block that the convolution runs with hold whole rows? By the sizes and the kind of device alone. Throws
/// GpuError past conv3d's limits.
template <class Backend>
bool conv3d_norm_film_silu_is_one_kernel(const Conv3dSize&);

/// u = conv3d_fwd; out = rms_norm_film_silu_fwd of u, both rounded to bf16, gaps zero: the bits of these two. Throws
/// GpuError where conv3d_norm_film_silu_is_one_kernel says no.
template <class Backend>
void conv3d_norm_film_silu_fwd(const Stream&, const Conv3dSize&, const Conv3dNormFilmSiluArgs&);

}  // namespace avid::kernels
