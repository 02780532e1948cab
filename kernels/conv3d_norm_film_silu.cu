// kernels/conv3d_norm_film_silu.cu -- a convolution that ends in a norm, on a device
//                                     (contract: conv3d_norm_film_silu.h)
//
// Math      u = x * w + bias;  out = silu(u / max(||u||, 1e-12) a + shift) + residual, a = sqrt(O) gamma (1 + scale)
// Layout, Parallel   the gathered product of conv3d.cu, which ends as device/gather_norm.h says
// Traffic   of the product, and 1 (2 with residual) rows of O per position instead of 3 (4); with u 2 (3)
// Numerics  u is rounded to bf16 before its norm is taken, so that out is the same with and without u, and as
//           rms_norm_film_silu makes it from the stored u
// Limits    bf16; rows that a block holds: up to 200 columns, where conv_tiles.h chooses such a block for the product.
//           Before compute capability 9.0 the rule counts the norm's kernel against other blocks (device/mma_cost.h)
// Measured  never run on a GPU yet
// Predicted what rms_norm_film_silu_fwd took in front of them: 2 % of a training update, 5 to 8 % of a sampling step
// Open      for 9.0, a rule that weighs the norm's bytes as well; rows of more than 200 channels; f32
// Oracle    conv3d_cpu.cpp, then rms_norm_film_silu_cpu.cpp, in f64; and the two kernels it replaces:
//           tests/sim/conv3d_norm_film_silu{,_wgmma}_test.cpp
#include "kernels/conv3d_norm_film_silu.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/gpu.h"

namespace avid::kernels {

namespace {
constexpr const char* kOp = "conv3d_norm_film_silu";
}

template <class Backend>
bool conv3d_norm_film_silu_is_one_kernel(const Conv3dSize& s) {
  return s.out_positions() > 0 && s.O > 0 &&
         norm_blocks<Backend>(conv_products::forward_shape<BFloat16>(kOp, s)).count > 0;
}

template <class Backend>
void conv3d_norm_film_silu_fwd(const Stream& stream, const Conv3dSize& s, const Conv3dNormFilmSiluArgs& p) {
  RowNorm<BFloat16> norm = conv_products::row_norm<BFloat16>(s);
  norm.gamma = p.gamma;
  norm.film = p.film;
  norm.sums = chunk_rows(kOp, "u", p.u, s.O);
  conv_products::forward<Backend, BFloat16>(
      kOp, stream, s, p.x, p.x2, p.w, p.bias, p.residual, p.out, p.workspace, kChooseTile, norm);
}

template bool conv3d_norm_film_silu_is_one_kernel<Gpu>(const Conv3dSize&);
template void conv3d_norm_film_silu_fwd<Gpu>(const Stream&, const Conv3dSize&, const Conv3dNormFilmSiluArgs&);

}  // namespace avid::kernels
