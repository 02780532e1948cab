// kernels/linear_attention_cpu_fast.cpp -- f32 linear attention, one frame per thread
//
// Layout     A chunk is one frame, positions in the columns: softmax of q runs down the columns, softmax of k along
//            the rows, context and its gradient are products over columns, everything else products of columns.
// Scratch    context [D,D] with the factor D^-1/2 of q, its gradient [D,D]
#include <algorithm>
#include <cmath>

#include "kernels/attention_block_channel_major.h"
#include "kernels/linear_attention.h"
#include "kernels/small_gemm.h"
#include "kernels/vec_math.h"

namespace avid::kernels {
namespace {

using channel_major::ColumnBlock;
using channel_major::HeadView;

/// Softmax along the first `valid` of `cols` elements; the rest becomes zero.
void softmax_row(float* row, std::int64_t valid, std::int64_t cols) {
  float largest = row[0], sum = 0;
#pragma omp simd reduction(max : largest)
  for (std::int64_t s = 0; s < valid; ++s) largest = std::max(largest, row[s]);
#pragma omp simd reduction(+ : sum)
  for (std::int64_t s = 0; s < valid; ++s) sum += row[s] = exp_f32(row[s] - largest);
  const float inverse = 1.0f / sum;
#pragma omp simd
  for (std::int64_t s = 0; s < valid; ++s) row[s] *= inverse;
  std::fill(row + valid, row + cols, 0.0f);
}

/// d = p * (d - sum p d) along one row.
void softmax_row_bwd(const float* p, float* d, std::int64_t cols) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (std::int64_t s = 0; s < cols; ++s) dot += p[s] * d[s];
#pragma omp simd
  for (std::int64_t s = 0; s < cols; ++s) d[s] = p[s] * (d[s] - dot);
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
