// kernels/norm_film_silu_conv3d.cu -- the data gradient of a convolution behind a norm, through both
//                                     (contract: norm_film_silu_conv3d.h)
//
// Math      d_h = d_out * w, the adjoint;  d_x, d_gamma, d_film from d_h and x as rms_norm_film_silu.cu says
// Layout, Parallel   the gathered product of conv3d.cu, which ends as device/gather_norm_grad.h says; then a kernel
//           that adds the blocks' sums of each frame, and one that adds the frames'
// Traffic   of the product, less the write of d_h; x read, d_x written: O + 2 I elements per position where the two
//           kernels move O + 4 I; and two rows of partial sums per block and frame that it meets
// Numerics  d_h is rounded to bf16 before the norm's gradient is taken, as it is where two kernels pass it on: d_x has
//           their bits. Sums over the rows of a warp, the warps, the blocks, the frames, each in order
// Limits    bf16; stride 1, one input; rows that a block holds: up to 200 channels, where conv_tiles.h chooses such a
//           block for the product; so few frames in a block that their coefficients and sums fit
// Measured  never run on a GPU yet
// Predicted the time of rms_norm_film_silu_bwd for these norms falls away, the product keeps its own: 6.8 ms of an
//           update of 64 clips of AVID 71M on an A100, 1.4 ms on an H200 (docs/kernels/norm.md)
// Open      rows of more channels than a block holds; the norm behind the convolution, whose d_out others read as well
//           (the shortcut's gradient is d_out itself)
// Oracle    conv3d_cpu.cpp and rms_norm_film_silu_cpu.cpp in f64, and the two kernels that it replaces:
//           tests/sim/norm_film_silu_conv3d_test.cpp
#include "kernels/norm_film_silu_conv3d.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/gpu.h"

namespace avid::kernels {
namespace {
constexpr const char* kOp = "norm_film_silu_conv3d_bwd";
}

template <class Backend>
NormSumBlocks norm_film_silu_conv3d_bwd_blocks(const Conv3dSize& s) {
  if (s.I2 > 0 || s.in_positions() == 0 || s.out_positions() == 0 || s.I == 0) return {};
  GatherGemm<BFloat16> shape = conv_products::adjoint_shape<BFloat16>(kOp, s);
  shape.norm = conv_products::row_norm_grad<BFloat16>(s);
  return norm_blocks<Backend>(shape);
}

template <class Backend>
void norm_film_silu_conv3d_bwd(
    const Stream& stream, const Conv3dSize& s, const NormSumBlocks& blocks,
    const RmsNormFilmSiluDeviceArgs<BFloat16>& norm, const NormFilmSiluConv3dGrads& grads) {
  if (blocks.count == 0)
    throw GpuError(
        std::string(kOp) + ": expected a block that holds rows of " + std::to_string(s.I) +
        " channels | ask norm_film_silu_conv3d_bwd_blocks first");
  RowNorm<BFloat16> end = conv_products::row_norm_grad<BFloat16>(s);
  end.gamma = norm.gamma;
  end.film = norm.film;
  end.x = chunk_rows(kOp, "x", norm.x, s.I);
  end.column_sums = grads.sums;
  conv_products::adjoint<Backend, BFloat16>(
      kOp, stream, s, grads.d_out, grads.w, nullptr, {}, {}, grads.d_x, {}, grads.workspace, kChooseTile, {}, end);
  if (grads.d_gamma == nullptr && !grads.d_film) return;
  const std::int64_t width = chunks_of<BFloat16>(s.I) * kChunk<BFloat16>;
  rms_norm_film_silu_bwd_sums<Backend, BFloat16>(
      stream, norm, blocks, grads.sums, grads.d_gamma, grads.d_film,
      grads.sums + blocks.count * blocks.frames * 2 * width);
}

template NormSumBlocks norm_film_silu_conv3d_bwd_blocks<Gpu>(const Conv3dSize&);
template void norm_film_silu_conv3d_bwd<Gpu>(
    const Stream&, const Conv3dSize&, const NormSumBlocks&, const RmsNormFilmSiluDeviceArgs<BFloat16>&,
    const NormFilmSiluConv3dGrads&);

}  // namespace avid::kernels
