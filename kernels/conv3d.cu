// kernels/conv3d.cu -- conv3d on a device (contract: conv3d.h)
//
// Math      forward: the gathered product of [x | x2] with w. Data gradient: the adjoint gather of d_out with w
//           transposed, both sources' columns in one product. Weight and bias gradients: gather_weight_grad
// Layout, Parallel, Traffic, Numerics, Limits   gather_gemm.cu, gather_weight_grad.cu
// Elsewhere conv3d_norm_film_silu.cu: ends in a norm; norm_film_silu_conv3d.cu: the data gradient in a norm's gradient
// Workspace forward: w with x2's columns moved to whole chunks, where they are not (x of a multiple of 8 bf16 or 4 f32
//           channels, or no x2: none). Data gradient: w transposed. Weight gradient: partial sums
// Measured  never run on a GPU yet
// Oracle    conv3d_cpu.cpp in f64, tests/sim/conv3d_test.cpp
#include "kernels/conv3d.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/gpu.h"

namespace avid::kernels {

template <class Backend, class Elem>
void conv3d_fwd(
    const Stream& stream, const Conv3dSize& s, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w,
    const float* bias, Rows<Elem> out, void* workspace) {
  conv_products::forward<Backend, Elem>("conv3d_fwd", stream, s, x, x2, w, bias, {}, out, workspace);
}

template <class Backend, class Elem>
void conv3d_bwd_data(
    const Stream& stream, const Conv3dSize& s, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x,
    Rows<Elem> d_x2, void* workspace, Rows<const Elem> add_x, Rows<const Elem> add_x2) {
  conv_products::adjoint<Backend, Elem>(
      "conv3d_bwd_data", stream, s, d_out, w, nullptr, add_x, add_x2, d_x, d_x2, workspace);
}

template <class Backend, class Elem>
void conv3d_bwd_weight(
    const Stream& stream, const Conv3dSize& s, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2,
    Rows<float> d_w, float* d_bias, void* workspace) {
  conv_products::weight_and_bias_grad<Backend, Elem>(
      "conv3d_bwd_weight", stream, s, d_out, x, x2, d_w, d_bias, workspace);
}

#define AVID_INSTANTIATE(Elem)                                                                                     \
  template void conv3d_fwd<Gpu, Elem>(                                                                             \
      const Stream&, const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, const float*,        \
      Rows<Elem>, void*);                                                                                          \
  template void conv3d_bwd_data<Gpu, Elem>(                                                                        \
      const Stream&, const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Rows<Elem>, void*,         \
      Rows<const Elem>, Rows<const Elem>);                                                                         \
  template void conv3d_bwd_weight<Gpu, Elem>(                                                                      \
      const Stream&, const Conv3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, Rows<float>, float*, \
      void*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
