// kernels/channel_columns.h -- f32 blocks stored channel by channel, positions in the SIMD lanes
//
// A block is [channels][ld]: column s of channel c at m[c * ld + s]; columns are padded to whole registers, and m and
// ld are aligned to kLanes floats. Work over channels (norms, softmax) runs down the columns, kLanes positions at once.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/simd.h"

namespace avid::kernels::channel_major {

/// kLanes columns and the rows of x they come from.
struct ColumnBlock {
  std::int64_t rows[kLanes] = {};
  int valid = 0;  ///< lanes in use, the first ones
};

/// Columns rounded up to whole registers.
inline std::int64_t padded(std::int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

/// The blocks of frame `frame` of S positions.
void fill_frame_blocks(std::int64_t frame, std::int64_t S, std::vector<ColumnBlock>& blocks);

/// Rows of x -> columns: to[c][block] for c < C. Unused lanes become zero.
void load_columns(
    const float* x, std::int64_t pitch, std::int64_t C, const std::vector<ColumnBlock>& blocks, float* to,
    std::int64_t ld);

/// Columns -> rows of y, plus the same rows of x when given. Writes zeros into the gaps of y.
void store_columns(
    const float* from, std::int64_t ld, std::int64_t C, const std::vector<ColumnBlock>& blocks, const float* x,
    std::int64_t x_pitch, float* y, std::int64_t y_pitch);

/// xhat = (x - mean) * rstd in place (the pre-norm of kernels/attention_block.h); rstd[column] is kept when wanted.
void normalize_columns(float* x, std::int64_t C, std::int64_t cols, std::int64_t ld, float* rstd_out);

/// d = d_y + rstd * (d - mean_c d - xhat * mean_c(d * xhat)), in place; d comes in as the gradient of xhat.
void normalize_columns_bwd(
    const float* xhat, const float* rstd, const float* d_y, float* d, std::int64_t C, std::int64_t cols,
    std::int64_t ld);

/// Softmax of every column of m [rows][ld], columns < cols.
void softmax_down_columns(float* m, std::int64_t rows, std::int64_t cols, std::int64_t ld);
/// d = p * (d - sum over rows of p * d), column by column, in place.
void softmax_down_columns_bwd(const float* p, float* d, std::int64_t rows, std::int64_t cols, std::int64_t ld);

}  // namespace avid::kernels::channel_major
