// kernels/linear.cu -- linear on a device (contract: linear.h)
//
// Math      the gathered products of conv3d with one tap over a line of P rows
// Layout, Parallel, Traffic, Numerics, Limits   gather_gemm.cu, gather_weight_grad.cu
// Workspace forward: w with x2's columns moved to whole chunks, where they are not. Data gradient: w transposed. Weight
//           gradient: partial sums
// Measured  never run on a GPU yet
// Oracle    linear_cpu.cpp in f64, tests/sim/linear_test.cpp
#include "kernels/linear.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/gpu.h"

namespace avid::kernels {
template <class Backend, class Elem>
void linear_fwd(
    const Stream& stream, const LinearSize& s, Rows<const Elem> x, Rows<const Elem> x2, Rows<const Elem> w,
    const float* bias, Rows<const Elem> residual, Rows<Elem> out, void* workspace) {
  conv_products::forward<Backend, Elem>(
      "linear_fwd", stream, conv_products::of_linear(s), x, x2, w, bias, residual, out, workspace);
}

template <class Backend, class Elem>
void linear_bwd_data(
    const Stream& stream, const LinearSize& s, Rows<const Elem> d_out, Rows<const Elem> w, Rows<Elem> d_x,
    Rows<Elem> d_x2, void* workspace, Rows<const Elem> add_x, Rows<const Elem> add_x2) {
  conv_products::adjoint<Backend, Elem>(
      "linear_bwd_data", stream, conv_products::of_linear(s), d_out, w, nullptr, add_x, add_x2, d_x, d_x2, workspace);
}

template <class Backend, class Elem>
void linear_bwd_weight(
    const Stream& stream, const LinearSize& s, Rows<const Elem> d_out, Rows<const Elem> x, Rows<const Elem> x2,
    Rows<float> d_w, float* d_bias, void* workspace) {
  conv_products::weight_and_bias_grad<Backend, Elem>(
      "linear_bwd_weight", stream, conv_products::of_linear(s), d_out, x, x2, d_w, d_bias, workspace);
}

#define AVID_INSTANTIATE(Elem)                                                                                     \
  template void linear_fwd<Gpu, Elem>(                                                                             \
      const Stream&, const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, const float*,        \
      Rows<const Elem>, Rows<Elem>, void*);                                                                        \
  template void linear_bwd_data<Gpu, Elem>(                                                                        \
      const Stream&, const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<Elem>, Rows<Elem>, void*,         \
      Rows<const Elem>, Rows<const Elem>);                                                                         \
  template void linear_bwd_weight<Gpu, Elem>(                                                                      \
      const Stream&, const LinearSize&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, Rows<float>, float*, \
      void*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
