// kernels/plane_conv_f32.h -- f32 convolutions of single frames (kt = 1) on the CPU (conv3d, conv_transpose3d)
#pragma once

#include "kernels/conv3d.h"

namespace avid::kernels {

/// Whether the functions below take this convolution: no extent, stride or padding in time, so frames are independent.
inline bool is_plane_conv(const Conv3dSize& s) { return s.kernel[0] == 1 && s.stride[0] == 1 && s.padding[0] == 0; }

/// out = x * w + bias, see conv3d_fwd.
void plane_conv_fwd(
    const Conv3dSize&, Rows<const float> x, Rows<const float> x2, Rows<const float> w, const float* bias,
    Rows<float> out);

/// d_x, d_x2 from d_out, see conv3d_bwd_data. `bias` (or null) is added to d_x: with it this is the transposed
/// convolution.
void plane_conv_bwd_data(
    const Conv3dSize&, Rows<const float> d_out, Rows<const float> w, const float* bias, Rows<float> d_x,
    Rows<float> d_x2);

/// d_w and d_bias, see conv3d_bwd_weight.
void plane_conv_bwd_weight(
    const Conv3dSize&, Rows<const float> d_out, Rows<const float> x, Rows<const float> x2, Rows<float> d_w,
    float* d_bias);

/// sums[c] = sum over `num_rows` rows of rows[r][c].
void column_sums(Rows<const float> rows, std::int64_t num_rows, std::int64_t num_cols, float* sums);

}  // namespace avid::kernels
