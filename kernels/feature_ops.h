// kernels/feature_ops.h -- what inference-only feature networks need besides convolutions, f32, channels last
//
// The networks behind LPIPS, FID and FVD (models/lpips, inception_features, i3d_features). No gradients: they score
// finished videos.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/rows.h"

namespace avid::kernels {

/// Extents of a pooling, [t,y,x] order. Rows of x are positions b,t,y,x of the input, those of out of the output.
/// `padding` lies before the first frame, row and column; behind the last as far as `out` makes windows reach.
struct Pool3dSize {
  std::int64_t B = 0, C = 0;
  std::array<std::int64_t, 3> in{}, out{};
  std::array<std::int64_t, 3> kernel{1, 1, 1}, stride{1, 1, 1}, padding{};
};

enum class PoolKind { max, average };

/// The largest or the mean value of each window. Positions outside of the input are left out of both: the mean is over
/// the valid ones. Every window must hold at least one valid position.
void pool3d_fwd(const Pool3dSize&, PoolKind, Rows<const float> x, Rows<float> out);

/// Frames side by side in channels, so that a convolution with an extent in time becomes one of single frames:
///   out[b,u,p,k*C + c] = x[b, u*stride - padding + k, p, c], zero for frames outside of the input.
struct TimeTaps {
  std::int64_t B = 0, in_frames = 0, out_frames = 0, positions = 0, C = 0;  ///< positions of one frame: H*W
  std::int64_t taps = 1, stride = 1, padding = 0;
};
void gather_time_taps(const TimeTaps&, Rows<const float> x, Rows<float> out);

/// rows[r][c] = max(rows[r][c], 0).
void relu_rows(Rows<float> rows, std::int64_t num_rows, std::int64_t num_cols);

/// rows[r][c] = max(scale[c] * rows[r][c] + shift[c], 0).
void affine_relu_rows(
    Rows<float> rows, std::int64_t num_rows, std::int64_t num_cols, const float* scale, const float* shift);

/// mean[c] and (biased) var[c] of a column over all rows, in f64 and two passes. The same bits for any number of
/// threads.
void column_moments(Rows<const float> rows, std::int64_t num_rows, std::int64_t num_cols, double* mean, double* var);

}  // namespace avid::kernels
