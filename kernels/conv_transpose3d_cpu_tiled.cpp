// kernels/conv_transpose3d_cpu_tiled.cpp -- f32 path of conv_transpose3d: for now the reference loops
#include "kernels/conv_transpose3d.h"

namespace avid::kernels {

void conv_transpose3d_fwd(const ConvTranspose3dSize& s, Rows<const float> x, Rows<const float> w, const float* bias,
                          Rows<float> out) {
  conv_transpose3d_ref_fwd(s, x, w, bias, out);
}
void conv_transpose3d_bwd_data(const ConvTranspose3dSize& s, Rows<const float> d_out, Rows<const float> w, Rows<float> d_x) {
  conv_transpose3d_ref_bwd_data(s, d_out, w, d_x);
}
void conv_transpose3d_bwd_weight(const ConvTranspose3dSize& s, Rows<const float> d_out, Rows<const float> x, Rows<float> d_w,
                                 float* d_bias) {
  conv_transpose3d_ref_bwd_weight(s, d_out, x, d_w, d_bias);
}

}  // namespace avid::kernels
