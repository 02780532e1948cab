// kernels/spatial_attention_cpu.cpp -- reference of spatial_attention and choice of path on the CPU
//
// Math       one frame of S positions i, j, head n:
//              p_ij = softmax_j(D^-1/2 q_i . k_j);  a_i = sum_j p_ij v_j
// Gradient   d_v_j = sum_i p_ij d_a_i;  d_p_ij = d_a_i . v_j;  d_logit = p (d_p - sum_j p d_p)
//            d_q_i = D^-1/2 sum_j d_logit_ij k_j;  d_k_j = D^-1/2 sum_i d_logit_ij q_i
// Layout     x [B*T,S,C] pitched
// Numerics   all in f64, one rounding at the store
#include "kernels/attention_block_reference.h"
#include "kernels/spatial_attention.h"

namespace avid::kernels {
namespace {

using reference::Mat;

/// One head of one frame; q is already scaled by D^-1/2.
struct Head {
  Mat q, k, v;  ///< [S,D]
  Mat p;        ///< [S,S] softmax over keys
};

struct SpatialCore {
  const AttentionBlockArgs& args;
  double scale = 1.0 / std::sqrt(static_cast<double>(args.D));

  Head head_fwd(const Mat& qkv, std::int64_t n) const {
    const std::int64_t width = args.N * args.D;
    Head head{
        columns(qkv, n * args.D, args.D),
        columns(qkv, width + n * args.D, args.D),
        columns(qkv, 2 * width + n * args.D, args.D),
        {}};
    for (double& value : head.q.values) value *= scale;
    head.p = softmax_rows(times_transposed(head.q, head.k));
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

  Mat bwd(const Mat& qkv, const Mat& d_a) const {
    const std::int64_t width = args.N * args.D;
    Mat d_qkv(qkv.rows, qkv.cols);
    for (std::int64_t n = 0; n < args.N; ++n) {
      const Head head = head_fwd(qkv, n);
      const Mat d_a_head = columns(d_a, n * args.D, args.D);
      Mat d_k(qkv.rows, args.D), d_v(qkv.rows, args.D);
      add_transposed_times(head.p, d_a_head, d_v);
      const Mat d_logits = softmax_rows_bwd(head.p, times_transposed(d_a_head, head.v));
      Mat d_q = times(d_logits, head.k);
      for (double& value : d_q.values) value *= scale;
      add_transposed_times(d_logits, head.q, d_k);  // head.q carries the scale
      put_columns(d_q, n * args.D, d_qkv);
      put_columns(d_k, width + n * args.D, d_qkv);
      put_columns(d_v, 2 * width + n * args.D, d_qkv);
    }
    return d_qkv;
  }
};

}  // namespace

void spatial_attention_fwd_reference(const AttentionBlockArgs& p) {
  dispatch_f32_f64(p.dtype, "spatial_attention_fwd", [&]<class Elem>() {
    reference::attention_block_fwd<Elem>(p, reference::Sequences::within_frames(p), SpatialCore{p});
  });
}

void spatial_attention_bwd_reference(const AttentionBlockArgs& p, const AttentionBlockGrads& g) {
  dispatch_f32_f64(p.dtype, "spatial_attention_bwd", [&]<class Elem>() {
    reference::attention_block_bwd<Elem>(p, g, reference::Sequences::within_frames(p), SpatialCore{p});
  });
}

void spatial_attention_fwd(const AttentionBlockArgs& p) {
  p.dtype == DType::f32 ? spatial_attention_fwd_channel_major(p) : spatial_attention_fwd_reference(p);
}

void spatial_attention_bwd(const AttentionBlockArgs& p, const AttentionBlockGrads& g) {
  p.dtype == DType::f32 ? spatial_attention_bwd_channel_major(p, g) : spatial_attention_bwd_reference(p, g);
}

}  // namespace avid::kernels
