// kernels/temporal_attention_cpu.cpp -- reference of temporal_attention and choice of path on the CPU
//
// Math       one pixel, tokens i, j < T, head n, q scaled first, then rotated:
//              q_i = rot_i(D^-1/2 q_i);  k_j = rot_j(k_j)
//              logit_ij = q_i . k_j + table[bucket(j - i), n];  p = softmax_j(logit);  a_i = sum_j p_ij v_j
//            rot_p turns the adjacent channels (2r, 2r+1), r < R, by the angle p * freq_r
// Gradient   d_v_j = sum_i p_ij d_a_i;  d_p_ij = d_a_i . v_j;  d_logit = p (d_p - sum_j p d_p)
//            d_q_i = D^-1/2 rot_i^-1(sum_j d_logit_ij k_j);  d_k_j = rot_j^-1(sum_i d_logit_ij q_i)
//            d_table[bucket(j - i), n] = sum over pixels, i, j of d_logit_ij
// Layout     x [B,T,S,C] pitched, a token of pixel s is the row (b, t, s)
// Numerics   all in f64, one rounding at the store
#include "kernels/attention_block_reference.h"
#include "kernels/relative_bias.h"
#include "kernels/rotary.h"
#include "kernels/temporal_attention.h"

namespace avid::kernels {
namespace {

using reference::Mat;

/// rot_i for every row i of tokens [T,D]; direction -1 is the inverse.
void rotate(Mat& tokens, const TemporalAttentionArgs& p, double direction) {
  for (std::int64_t i = 0; i < tokens.rows; ++i) {
    rotate_pairs(tokens.values.data() + i * tokens.cols, p.rotary_freqs, p.R, direction * static_cast<double>(i));
  }
}

void scale_by(Mat& m, double factor) {
  for (double& value : m.values) value *= factor;
}

/// One head of one sequence, after scaling and rotation.
struct Head {
  Mat q, k, v;  ///< [T,D]
  Mat p;        ///< [T,T] softmax over keys
};

struct TemporalCore {
  const TemporalAttentionArgs& args;
  Mat table;    ///< [32,N]
  Mat d_table;  ///< [32,N], added to by bwd

  Head head_fwd(const Mat& qkv, std::int64_t n) const {
    const std::int64_t width = args.N * args.D;
    Head head{
        columns(qkv, n * args.D, args.D),
        columns(qkv, width + n * args.D, args.D),
        columns(qkv, 2 * width + n * args.D, args.D),
        {}};
    scale_by(head.q, 1.0 / std::sqrt(static_cast<double>(args.D)));
    rotate(head.q, args, +1);
    rotate(head.k, args, +1);
    Mat logits = times_transposed(head.q, head.k);
    for (std::int64_t i = 0; i < logits.rows; ++i)
      for (std::int64_t j = 0; j < logits.cols; ++j) logits(i, j) += table(relative_bias_bucket(j - i), n);
    head.p = softmax_rows(logits);
    return head;
  }

  Mat fwd(const Mat& qkv) const {
    Mat a(qkv.rows, args.N * args.D);
    for (std::int64_t n = 0; n < args.N; ++n) {
      const Head head = head_fwd(qkv, n);
      put_columns(times(head.p, head.v), n * args.D, a);
    }
    return a;
  }

  Mat bwd(const Mat& qkv, const Mat& d_a) {
    const std::int64_t width = args.N * args.D;
    Mat d_qkv(qkv.rows, qkv.cols);
    for (std::int64_t n = 0; n < args.N; ++n) {
      const Head head = head_fwd(qkv, n);
      const Mat d_a_head = columns(d_a, n * args.D, args.D);
      Mat d_k(qkv.rows, args.D), d_v(qkv.rows, args.D);
      add_transposed_times(head.p, d_a_head, d_v);
      const Mat d_logits = softmax_rows_bwd(head.p, times_transposed(d_a_head, head.v));
      for (std::int64_t i = 0; i < d_logits.rows; ++i)
        for (std::int64_t j = 0; j < d_logits.cols; ++j) d_table(relative_bias_bucket(j - i), n) += d_logits(i, j);
      Mat d_q = times(d_logits, head.k);
      add_transposed_times(d_logits, head.q, d_k);
      rotate(d_q, args, -1);
      rotate(d_k, args, -1);
      scale_by(d_q, 1.0 / std::sqrt(static_cast<double>(args.D)));
      put_columns(d_q, n * args.D, d_qkv);
      put_columns(d_k, width + n * args.D, d_qkv);
      put_columns(d_v, 2 * width + n * args.D, d_qkv);
    }
    return d_qkv;
  }
};

}  // namespace

void temporal_attention_fwd_reference(const TemporalAttentionArgs& p) {
  dispatch_f32_f64(p.dtype, "temporal_attention_fwd", [&]<class Elem>() {
    TemporalCore core{p, reference::load<Elem>(p.bias_table, kRelativeBiasBuckets, p.N, p.bias_table_pitch), {}};
    reference::attention_block_fwd<Elem>(p, reference::Sequences::through_time(p), core);
  });
}

void temporal_attention_bwd_reference(const TemporalAttentionArgs& p, const TemporalAttentionGrads& g) {
  dispatch_f32_f64(p.dtype, "temporal_attention_bwd", [&]<class Elem>() {
    TemporalCore core{
        p, reference::load<Elem>(p.bias_table, kRelativeBiasBuckets, p.N, p.bias_table_pitch),
        Mat(kRelativeBiasBuckets, p.N)};
    reference::attention_block_bwd<Elem>(p, g, reference::Sequences::through_time(p), core);
    if (g.d_bias_table != nullptr) reference::store<Elem>(core.d_table, g.d_bias_table, g.d_bias_table_pitch);
  });
}

void temporal_attention_fwd(const TemporalAttentionArgs& p) {
  p.dtype == DType::f32 ? temporal_attention_fwd_channel_major(p) : temporal_attention_fwd_reference(p);
}

void temporal_attention_bwd(const TemporalAttentionArgs& p, const TemporalAttentionGrads& g) {
  p.dtype == DType::f32 ? temporal_attention_bwd_channel_major(p, g) : temporal_attention_bwd_reference(p, g);
}

}  // namespace avid::kernels
