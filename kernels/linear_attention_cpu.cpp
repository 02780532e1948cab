// kernels/linear_attention_cpu.cpp -- reference of linear_attention and choice of path on the CPU
//
// Math       one frame of S positions s, head n, channels i, j < D:
//              qn_s = D^-1/2 softmax_i(q_s);  kn_i = softmax_s(k_i)
//              context_ij = sum_s kn_si v_sj;  a_sj = sum_i qn_si context_ij
// Gradient   d_context = qn^T d_a;  d_qn = d_a context^T;  d_v = kn d_context;  d_kn = v d_context^T
//            then the two softmax gradients
// Layout     x [B*T,S,C] pitched
// Numerics   all in f64, one rounding at the store
#include "kernels/attention_block_reference.h"
#include "kernels/linear_attention.h"

namespace avid::kernels {
namespace {

using reference::Mat;

Mat transposed(const Mat& m) {
  Mat out(m.cols, m.rows);
  for (std::int64_t i = 0; i < m.rows; ++i)
    for (std::int64_t j = 0; j < m.cols; ++j) out(j, i) = m(i, j);
  return out;
}

/// One head of one frame.
struct Head {
  Mat q;        ///< [S,D] softmax over channels, not yet scaled
  Mat k;        ///< [S,D] softmax over positions
  Mat v;        ///< [S,D]
  Mat context;  ///< [D,D]
};

struct LinearCore {
  const AttentionBlockArgs& args;
  double scale = 1.0 / std::sqrt(static_cast<double>(args.D));

  Head head_fwd(const Mat& qkv, std::int64_t n) const {
    const std::int64_t width = args.N * args.D;
    Head head{
        softmax_rows(columns(qkv, n * args.D, args.D)),
        transposed(softmax_rows(transposed(columns(qkv, width + n * args.D, args.D)))),
        columns(qkv, 2 * width + n * args.D, args.D), Mat(args.D, args.D)};
    add_transposed_times(head.k, head.v, head.context);
    return head;
  }

  Mat fwd(const Mat& qkv) const {
    Mat a(qkv.rows, args.N * args.D);
    for (std::int64_t n = 0; n < args.N; ++n) {
      const Head head = head_fwd(qkv, n);
      Mat out = times(head.q, head.context);
      for (double& value : out.values) value *= scale;
      put_columns(out, n * args.D, a);
    }
    return a;
  }

  Mat bwd(const Mat& qkv, const Mat& d_a) const {
    const std::int64_t width = args.N * args.D;
    Mat d_qkv(qkv.rows, qkv.cols);
    for (std::int64_t n = 0; n < args.N; ++n) {
      const Head head = head_fwd(qkv, n);
      Mat d_out = columns(d_a, n * args.D, args.D);  // gradient of q context, the scale included
      for (double& value : d_out.values) value *= scale;
      Mat d_context(args.D, args.D);
      add_transposed_times(head.q, d_out, d_context);
      const Mat d_q = softmax_rows_bwd(head.q, times_transposed(d_out, head.context));
      const Mat d_k = times_transposed(head.v, d_context);
      put_columns(d_q, n * args.D, d_qkv);
      put_columns(transposed(softmax_rows_bwd(transposed(head.k), transposed(d_k))), width + n * args.D, d_qkv);
      put_columns(times(head.k, d_context), 2 * width + n * args.D, d_qkv);
    }
    return d_qkv;
  }
};

}  // namespace

void linear_attention_fwd_reference(const AttentionBlockArgs& p) {
  dispatch_f32_f64(p.dtype, "linear_attention_fwd", [&]<class Elem>() {
    reference::attention_block_fwd<Elem>(p, reference::Sequences::within_frames(p), LinearCore{p});
  });
}

void linear_attention_bwd_reference(const AttentionBlockArgs& p, const AttentionBlockGrads& g) {
  dispatch_f32_f64(p.dtype, "linear_attention_bwd", [&]<class Elem>() {
    reference::attention_block_bwd<Elem>(p, g, reference::Sequences::within_frames(p), LinearCore{p});
  });
}

void linear_attention_fwd(const AttentionBlockArgs& p) {
  p.dtype == DType::f32 ? linear_attention_fwd_channel_major(p) : linear_attention_fwd_reference(p);
}

void linear_attention_bwd(const AttentionBlockArgs& p, const AttentionBlockGrads& g) {
  p.dtype == DType::f32 ? linear_attention_bwd_channel_major(p, g) : linear_attention_bwd_reference(p, g);
}

}  // namespace avid::kernels
