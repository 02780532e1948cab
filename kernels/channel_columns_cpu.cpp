// kernels/channel_columns_cpu.cpp -- rows of channels to channels of columns and back, norms and softmax over channels
#include "kernels/channel_columns.h"

#include <algorithm>

#include "kernels/attention_block.h"

namespace avid::kernels::channel_major {
namespace {

/// Four channels of one row, c .. c+3; what lies behind the pitch reads as zero.
Vec4 load_quad(const float* row, std::int64_t c, std::int64_t pitch) {
  if (c + 4 <= pitch) return load_vec4(row + c);
  Vec4 quad = {};
  for (std::int64_t i = 0; c + i < pitch; ++i) quad[i] = row[c + i];
  return quad;
}

}  // namespace

void fill_frame_blocks(std::int64_t frame, std::int64_t S, std::vector<ColumnBlock>& blocks) {
  blocks.clear();
  for (std::int64_t s = 0; s < S; s += kLanes) {
    ColumnBlock block;
    block.valid = static_cast<int>(std::min<std::int64_t>(kLanes, S - s));
    for (int lane = 0; lane < block.valid; ++lane) block.rows[lane] = frame * S + s + lane;
    blocks.push_back(block);
  }
}

void load_columns(
    const float* x, std::int64_t pitch, std::int64_t C, const std::vector<ColumnBlock>& blocks, float* to,
    std::int64_t ld) {
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const ColumnBlock& block = blocks[i];
    const float* rows[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) rows[lane] = x + block.rows[lane] * pitch;
    float* column = to + static_cast<std::int64_t>(i) * kLanes;
    for (std::int64_t c = 0; c < C; c += 4) {
      Vec4 quads[kLanes] = {};
      if (block.valid == kLanes && c + 4 <= pitch) {  // the common case, without branches per lane
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) quads[lane] = load_vec4(rows[lane] + c);
      } else {
        for (int lane = 0; lane < block.valid; ++lane) quads[lane] = load_quad(rows[lane], c, pitch);
      }
      Vec channels[4];
      rows_to_lanes(quads, channels);
      for (std::int64_t k = 0; k < std::min<std::int64_t>(4, C - c); ++k) store_vec(column + (c + k) * ld, channels[k]);
    }
  }
}

void store_columns(
    const float* from, std::int64_t ld, std::int64_t C, const std::vector<ColumnBlock>& blocks, const float* x,
    std::int64_t x_pitch, float* y, std::int64_t y_pitch) {
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const ColumnBlock& block = blocks[i];
    const float* column = from + static_cast<std::int64_t>(i) * kLanes;
    for (std::int64_t c = 0; c < y_pitch; c += 4) {
      Vec channels[4] = {};
      for (std::int64_t k = 0; k < std::min<std::int64_t>(4, C - c); ++k) channels[k] = load_vec(column + (c + k) * ld);
      Vec4 quads[kLanes];
      lanes_to_rows(channels, quads);
      if (block.valid == kLanes && c + 4 <= y_pitch && (x == nullptr || c + 4 <= x_pitch)) {
#pragma GCC unroll 16
        for (int lane = 0; lane < kLanes; ++lane) {
          if (x != nullptr) quads[lane] += load_vec4(x + block.rows[lane] * x_pitch + c);
          store_vec4(y + block.rows[lane] * y_pitch + c, quads[lane]);
        }
        continue;
      }
      for (int lane = 0; lane < block.valid; ++lane) {
        Vec4 quad = quads[lane];
        if (x != nullptr) quad += load_quad(x + block.rows[lane] * x_pitch, c, x_pitch);
        float* to = y + block.rows[lane] * y_pitch + c;
        for (std::int64_t k = 0; k < std::min<std::int64_t>(4, y_pitch - c); ++k) to[k] = quad[k];
      }
    }
  }
}

void normalize_columns(float* x, std::int64_t C, std::int64_t cols, std::int64_t ld, float* rstd_out) {
  const float per_channel = 1.0f / static_cast<float>(C);
  for (std::int64_t s = 0; s < cols; s += kLanes) {
    Vec mean = {}, var = {};
    for (std::int64_t c = 0; c < C; ++c) mean += load_vec(x + c * ld + s);
    mean *= per_channel;
    for (std::int64_t c = 0; c < C; ++c) {
      const Vec d = load_vec(x + c * ld + s) - mean;
      var += d * d;
    }
    const Vec rstd = 1.0f / sqrt_vec(var * per_channel + static_cast<float>(kPrenormEps));
    for (std::int64_t c = 0; c < C; ++c) store_vec(x + c * ld + s, (load_vec(x + c * ld + s) - mean) * rstd);
    if (rstd_out != nullptr) store_vec(rstd_out + s, rstd);
  }
}

void normalize_columns_bwd(
    const float* xhat, const float* rstd, const float* d_y, float* d, std::int64_t C, std::int64_t cols,
    std::int64_t ld) {
  const float per_channel = 1.0f / static_cast<float>(C);
  for (std::int64_t s = 0; s < cols; s += kLanes) {
    Vec mean_d = {}, mean_d_xhat = {};
    for (std::int64_t c = 0; c < C; ++c) {
      const Vec value = load_vec(d + c * ld + s);
      mean_d += value;
      mean_d_xhat += value * load_vec(xhat + c * ld + s);
    }
    mean_d *= per_channel;
    mean_d_xhat *= per_channel;
    const Vec scale = load_vec(rstd + s);
    for (std::int64_t c = 0; c < C; ++c) {
      const std::int64_t at = c * ld + s;
      store_vec(d + at, load_vec(d_y + at) + scale * (load_vec(d + at) - mean_d - load_vec(xhat + at) * mean_d_xhat));
    }
  }
}

void softmax_down_columns(float* m, std::int64_t rows, std::int64_t cols, std::int64_t ld) {
  for (std::int64_t s = 0; s < cols; s += kLanes) {
    float* column = m + s;
    Vec largest = load_vec(column);
    for (std::int64_t r = 1; r < rows; ++r) largest = max_vec(largest, load_vec(column + r * ld));
    Vec sum = {};
    for (std::int64_t r = 0; r < rows; ++r) {
      const Vec e = exp_vec(load_vec(column + r * ld) - largest);
      sum += e;
      store_vec(column + r * ld, e);
    }
    const Vec inverse = 1.0f / sum;
    for (std::int64_t r = 0; r < rows; ++r) store_vec(column + r * ld, load_vec(column + r * ld) * inverse);
  }
}

void softmax_down_columns_bwd(const float* p, float* d, std::int64_t rows, std::int64_t cols, std::int64_t ld) {
  for (std::int64_t s = 0; s < cols; s += kLanes) {
    Vec dot = {};
    for (std::int64_t r = 0; r < rows; ++r) dot += load_vec(p + r * ld + s) * load_vec(d + r * ld + s);
    for (std::int64_t r = 0; r < rows; ++r) {
      store_vec(d + r * ld + s, load_vec(p + r * ld + s) * (load_vec(d + r * ld + s) - dot));
    }
  }
}

}  // namespace avid::kernels::channel_major
