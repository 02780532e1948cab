// kernels/linear_attention_cpu_fast.cpp -- f32 linear attention, one frame per thread
//
// Layout     A chunk is one frame, positions in the columns: softmax of q runs down the columns, softmax of k along
//            the rows, context and its gradient are products over columns, everything else products of columns.
// Scratch    context [D,D] with the factor D^-1/2 of q, its gradient [D,D]
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_block_channel_major.h"
#include "kernels/linear_attention.h"
#include "kernels/simd.h"
#include "kernels/small_gemm.h"

namespace avid::kernels {
namespace {

using channel_major::ColumnBlock;
using channel_major::HeadView;

/// Softmax along the first `valid` of `cols` elements; the rest becomes zero.
void softmax_row(float* row, std::int64_t valid, std::int64_t cols) {
  std::fill(row + valid, row + cols, -std::numeric_limits<float>::infinity());  // exp gives 0
  Vec largest = load_vec(row);
  for (std::int64_t s = kLanes; s < cols; s += kLanes) largest = max_vec(largest, load_vec(row + s));
  const float shift = max_lane(largest);
  Vec sum = {};
  for (std::int64_t s = 0; s < cols; s += kLanes) {
    const Vec e = exp_vec(load_vec(row + s) - shift);
    store_vec(row + s, e);
    sum += e;
  }
  const float inverse = 1.0f / sum_lanes(sum, sum, sum, sum)[0];
  for (std::int64_t s = 0; s < cols; s += kLanes) store_vec(row + s, load_vec(row + s) * inverse);
}

/// d = p * (d - sum p d) along one row.
void softmax_row_bwd(const float* p, float* d, std::int64_t cols) {
  Vec sum = {};
  for (std::int64_t s = 0; s < cols; s += kLanes) sum += load_vec(p + s) * load_vec(d + s);
  const float dot = sum_lanes(sum, sum, sum, sum)[0];
  for (std::int64_t s = 0; s < cols; s += kLanes) store_vec(d + s, load_vec(p + s) * (load_vec(d + s) - dot));
}

class LinearCore final : public channel_major::Core {
 public:
  explicit LinearCore(const AttentionBlockArgs& p) : p_(p) {}

  std::int64_t num_chunks() const override { return p_.S > 0 ? p_.B * p_.T : 0; }
  std::int64_t max_blocks() const override { return channel_major::padded(p_.S) / kLanes; }
  std::int64_t scratch_floats(std::int64_t) const override { return 2 * p_.D * p_.D; }
  void fill_blocks(std::int64_t chunk, std::vector<ColumnBlock>& blocks) const override {
    channel_major::fill_frame_blocks(chunk, p_.S, blocks);
  }

  void fwd(const HeadView& h, float* a) const override {
    const std::int64_t D = p_.D;
    channel_major::softmax_down_columns(h.q, D, h.cols, h.ld);
    for (std::int64_t i = 0; i < D; ++i) softmax_row(h.k + i * h.ld, h.valid_cols, h.cols);
    float* context = h.scratch;
    std::fill_n(context, D * D, 0.0f);
    gemm_over_columns(D, D, h.cols, h.k, h.ld, h.v, h.ld, context, D);
    for (std::int64_t i = 0; i < D * D; ++i) context[i] *= scale_;
    if (a != nullptr) gemm_columns(D, h.cols, D, context, 1, D, h.q, h.ld, a, h.ld, false);
  }

  void bwd(const HeadView& h, const float* d_a, float* d_q, float* d_k, float* d_v, float*) const override {
    const std::int64_t D = p_.D;
    const float* context = h.scratch;
    float* d_context = h.scratch + D * D;
    std::fill_n(d_context, D * D, 0.0f);
    gemm_over_columns(D, D, h.cols, h.q, h.ld, d_a, h.ld, d_context, D);
    for (std::int64_t i = 0; i < D * D; ++i) d_context[i] *= scale_;
    gemm_columns(D, h.cols, D, context, D, 1, d_a, h.ld, d_q, h.ld, false);
    gemm_columns(D, h.cols, D, d_context, D, 1, h.v, h.ld, d_k, h.ld, false);
    gemm_columns(D, h.cols, D, d_context, 1, D, h.k, h.ld, d_v, h.ld, false);
    channel_major::softmax_down_columns_bwd(h.q, d_q, D, h.cols, h.ld);
    for (std::int64_t i = 0; i < D; ++i) softmax_row_bwd(h.k + i * h.ld, d_k + i * h.ld, h.cols);
  }

 private:
  const AttentionBlockArgs& p_;
  float scale_ = 1.0f / std::sqrt(static_cast<float>(p_.D));
};

}  // namespace

void linear_attention_fwd_channel_major(const AttentionBlockArgs& p) {
  channel_major::attention_block_fwd(p, LinearCore(p));
}

void linear_attention_bwd_channel_major(const AttentionBlockArgs& p, const AttentionBlockGrads& g) {
  channel_major::attention_block_bwd(p, g, LinearCore(p), false);
}

}  // namespace avid::kernels
