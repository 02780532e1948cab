// kernels/linear_cpu_tiled.cpp -- f32 path of linear: for now the reference loops
#include "kernels/linear.h"

namespace avid::kernels {

void linear_fwd(const LinearSize& s, Rows<const float> x, Rows<const float> x2, Rows<const float> w, const float* bias,
                Rows<const float> residual, Rows<float> out) {
  linear_ref_fwd(s, x, x2, w, bias, residual, out);
}
void linear_bwd_data(const LinearSize& s, Rows<const float> d_out, Rows<const float> w, Rows<float> d_x, Rows<float> d_x2) {
  linear_ref_bwd_data(s, d_out, w, d_x, d_x2);
}
void linear_bwd_weight(const LinearSize& s, Rows<const float> d_out, Rows<const float> x, Rows<const float> x2, Rows<float> d_w,
                       float* d_bias) {
  linear_ref_bwd_weight(s, d_out, x, x2, d_w, d_bias);
}

}  // namespace avid::kernels
