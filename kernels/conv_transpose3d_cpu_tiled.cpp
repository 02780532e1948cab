// kernels/conv_transpose3d_cpu_tiled.cpp -- f32 path of conv_transpose3d: the adjoint convolution reversed
#include "kernels/conv_transpose3d.h"
#include "kernels/dispatch_stats.h"
#include "kernels/plane_conv_f32.h"

namespace avid::kernels {

void conv_transpose3d_fwd(
    const ConvTranspose3dSize& s, Rows<const float> x, Rows<const float> w, const float* bias, Rows<float> out) {
  if (is_plane_conv(s.adjoint())) return plane_conv_bwd_data(s.adjoint(), x, w, bias, out, {});
  note_slow_path("conv_transpose3d", "extent in time");
  conv_transpose3d_ref_fwd(s, x, w, bias, out);
}

void conv_transpose3d_bwd_data(
    const ConvTranspose3dSize& s, Rows<const float> d_out, Rows<const float> w, Rows<float> d_x) {
  if (is_plane_conv(s.adjoint())) return plane_conv_fwd(s.adjoint(), d_out, {}, w, nullptr, d_x);
  note_slow_path("conv_transpose3d_bwd_data", "extent in time");
  conv_transpose3d_ref_bwd_data(s, d_out, w, d_x);
}

void conv_transpose3d_bwd_weight(
    const ConvTranspose3dSize& s, Rows<const float> d_out, Rows<const float> x, Rows<float> d_w, float* d_bias) {
  if (d_w && !is_plane_conv(s.adjoint())) {
    note_slow_path("conv_transpose3d_bwd_weight", "extent in time");
    return conv_transpose3d_ref_bwd_weight(s, d_out, x, d_w, d_bias);
  }
  if (d_w) plane_conv_bwd_weight(s.adjoint(), x, d_out, {}, d_w, nullptr);
  if (d_bias) column_sums(d_out, s.out_positions(), s.O, d_bias);
}

}  // namespace avid::kernels
