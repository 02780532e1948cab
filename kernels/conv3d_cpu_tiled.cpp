// kernels/conv3d_cpu_tiled.cpp -- f32 path of conv3d: frame by frame in register tiles, else the reference
#include "kernels/conv3d.h"
#include "kernels/dispatch_stats.h"
#include "kernels/plane_conv_f32.h"

namespace avid::kernels {

void conv3d_fwd(
    const Conv3dSize& s, Rows<const float> x, Rows<const float> x2, Rows<const float> w, const float* bias,
    Rows<float> out) {
  if (is_plane_conv(s)) return plane_conv_fwd(s, x, x2, w, bias, out);
  note_slow_path("conv3d", "extent in time");
  conv3d_ref_fwd(s, x, x2, w, bias, out);
}

void conv3d_bwd_data(
    const Conv3dSize& s, Rows<const float> d_out, Rows<const float> w, Rows<float> d_x, Rows<float> d_x2) {
  if (is_plane_conv(s)) return plane_conv_bwd_data(s, d_out, w, nullptr, d_x, d_x2);
  note_slow_path("conv3d_bwd_data", "extent in time");
  conv3d_ref_bwd_data(s, d_out, w, d_x, d_x2);
}

void conv3d_bwd_weight(
    const Conv3dSize& s, Rows<const float> d_out, Rows<const float> x, Rows<const float> x2, Rows<float> d_w,
    float* d_bias) {
  if (is_plane_conv(s)) return plane_conv_bwd_weight(s, d_out, x, x2, d_w, d_bias);
  note_slow_path("conv3d_bwd_weight", "extent in time");
  conv3d_ref_bwd_weight(s, d_out, x, x2, d_w, d_bias);
}

}  // namespace avid::kernels
