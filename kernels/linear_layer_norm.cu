// kernels/linear_layer_norm.cu -- the data gradient of a linear layer behind a LayerNorm, through both
//                                 (contract: linear_layer_norm.h)
//
// Math      d_h = d_out w;  q = d_h gamma;  d_x = rstd (q - mean(q) - xh mean(q xh)) + d_residual;
//           d_gamma = sum_rows d_h xh
// Layout, Parallel   the gathered product of linear.cu, which ends as device/gather_layer_norm_grad.h says
// Traffic   of the product, less the write of d_h; x and d_residual read, d_x written: O + 3 I elements per row where
//           the two kernels move O + 5 I; and a row of partial sums per block
// Numerics  d_h stays in f32 (two kernels round it); sums for d_gamma over the rows of a warp, the warps, the blocks,
//           16 blocks apart first where they are many
// Limits    one kernel: bf16; rows that a block of the product holds: 104 columns, up to 200 on compute capability 9.0
// Measured  never run on a GPU yet
// Predicted bound by DRAM, as the product is without it
// Open      wider rows: two column blocks would have to exchange their sums
// Oracle    linear_cpu.cpp and layer_norm_cpu.cpp in f64, tests/sim/linear_layer_norm_test.cpp
#include "kernels/linear_layer_norm.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/row_lanes.h"

namespace avid::kernels {
namespace {

constexpr const char* kOp = "linear_layer_norm_bwd";

template <class Backend>
std::int64_t blocks_of(const LinearSize& s) {
  return s.I2 > 0 ? 0
                  : layer_norm_grad_blocks<Backend>(
                        conv_products::adjoint_shape<BFloat16>(kOp, conv_products::of_linear(s)));
}

/// out = the sum of `rows` rows of `width` floats; behind them is room for 17 more. Many are added 16 apart first, so
/// that as many threads as it takes read them.
void sum_block_rows(
    const Stream& stream, float* partial, std::int64_t rows, std::int64_t width, std::int64_t columns, float* out) {
  constexpr std::int64_t kApart = 16, kFew = 512;
  if (rows > kFew) {
    const std::int64_t each = rows / kApart;
    AVID_GPU::sum_rows(stream, partial, each, kApart * width, kApart * width, partial + rows * width);
    partial += each * kApart * width;
    rows += kApart - each * kApart;  // those that are left over, then the sums
  }
  AVID_GPU::sum_rows(stream, partial, rows, width, columns, out);
}

}  // namespace

template <class Backend, class Elem>
bool linear_layer_norm_bwd_is_one_kernel(const LinearSize& s) {
  if constexpr (sizeof(Elem) == 2) return blocks_of<Backend>(s) > 0;
  return false;
}

template <class Backend, class Elem>
void linear_layer_norm_bwd(
    const Stream& stream, const LinearSize& s, Rows<const Elem> w, const LayerNormDeviceArgs<Elem>& norm,
    const LinearLayerNormGrads<Elem>& grads) {
  if constexpr (sizeof(Elem) == 2) {
    const std::int64_t blocks = blocks_of<Backend>(s);
    if (blocks > 0) {
      // The same kernel, whoever wants what: d_gamma has its bits.
      const Rows<Elem> d_x = grads.d_x ? grads.d_x : grads.d_h;
      float* const partial = grads.d_gamma != nullptr ? grads.workspace : nullptr;
      conv_products::adjoint<Backend, Elem>(
          kOp, stream, conv_products::of_linear(s), grads.d_out, w, nullptr, grads.d_residual, {}, d_x, {},
          grads.linear_space, kChooseTile,
          {.C = static_cast<int>(s.I),
           .eps = norm.eps,
           .gamma = norm.gamma,
           .x = chunk_rows(kOp, "x", norm.x, s.I),
           .d_gamma = partial});
      if (partial != nullptr)
        sum_block_rows(stream, partial, blocks, chunks_of<Elem>(s.I) * kChunk<Elem>, s.I, grads.d_gamma);
      return;
    }
  }
  linear_bwd_data<Backend, Elem>(stream, s, grads.d_out, w, grads.d_h, {}, grads.linear_space);
  layer_norm_bwd<Backend, Elem>(
      stream, norm,
      {.d_out = grads.d_h,
       .d_residual = grads.d_residual,
       .d_x = grads.d_x,
       .d_gamma = grads.d_gamma,
       .workspace = grads.workspace});
}

#define AVID_INSTANTIATE(Elem)                                                              \
  template bool linear_layer_norm_bwd_is_one_kernel<Gpu, Elem>(const LinearSize&);          \
  template void linear_layer_norm_bwd<Gpu, Elem>(                                           \
      const Stream&, const LinearSize&, Rows<const Elem>, const LayerNormDeviceArgs<Elem>&, \
      const LinearLayerNormGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
