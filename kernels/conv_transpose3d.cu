// kernels/conv_transpose3d.cu -- conv_transpose3d on a device (contract: conv_transpose3d.h)
//
// Math      with c = s.adjoint(), the convolution from out's space to x's: forward is c's data gradient plus bias, the
//           data gradient is c's forward, the weight gradient c's with x as d_out and d_out as input. A stride of two
//           makes the adjoint gather run as eight (or, in a plane, four) dense phases of a quarter of the taps each, in
//           one launch
// Layout, Parallel, Traffic, Numerics, Limits   gather_gemm.cu, gather_weight_grad.cu
// Workspace forward: w transposed. Data gradient: none. Weight gradient: partial sums
// Measured  never run on a GPU yet
// Oracle    conv_transpose3d_cpu.cpp in f64, tests/sim/conv_transpose3d_test.cpp
#include "kernels/conv_transpose3d.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/gpu.h"

namespace avid::kernels {

template <class Backend, class Elem>
void conv_transpose3d_fwd(
    const Stream& stream, const ConvTranspose3dSize& s, Rows<const Elem> x, Rows<const Elem> w, const float* bias,
    Rows<Elem> out, void* workspace) {
  conv_products::adjoint<Backend, Elem>(
      "conv_transpose3d_fwd", stream, s.adjoint(), x, w, bias, {}, {}, out, {}, workspace);
}

template <class Backend, class Elem>
void conv_transpose3d_bwd_data(
    const Stream& stream, const ConvTranspose3dSize& s, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x) {
  conv_products::forward<Backend, Elem>(
      "conv_transpose3d_bwd_data", stream, s.adjoint(), d_out, {}, w, nullptr, {}, d_x, nullptr);
}

template <class Backend, class Elem>
void conv_transpose3d_bwd_weight(
    const Stream& stream, const ConvTranspose3dSize& s, Rows<const Elem> d_out, Rows<const Elem> x, Rows<float> d_w,
    float* d_bias, void* workspace) {
  float* partial = static_cast<float*>(workspace);
  if (d_w)
    gather_weight_grad<Backend>(
        stream, conv_products::weight_grad("conv_transpose3d_bwd_weight", s.adjoint(), x, d_out, {}, d_w, partial));
  if (d_bias) column_sums<Backend>(stream, s.out_positions(), s.O, d_out, d_bias, partial);
}

#define AVID_INSTANTIATE(Elem)                                                                                         \
  template void conv_transpose3d_fwd<Gpu, Elem>(                                                                       \
      const Stream&, const ConvTranspose3dSize&, Rows<const Elem>, Rows<const Elem>, const float*, Rows<Elem>, void*); \
  template void conv_transpose3d_bwd_data<Gpu, Elem>(                                                                  \
      const Stream&, const ConvTranspose3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>);                      \
  template void conv_transpose3d_bwd_weight<Gpu, Elem>(                                                                \
      const Stream&, const ConvTranspose3dSize&, Rows<const Elem>, Rows<const Elem>, Rows<float>, float*, void*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
