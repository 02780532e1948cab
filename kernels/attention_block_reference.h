// kernels/attention_block_reference.h -- the plain form of the attention blocks: one sequence at a time, in f64
//
// This is the oracle for the SIMD path and the path of f64 tensors. It is written to be read beside the equations
// of kernels/attention_block.h; all arithmetic is double whatever the element type, and nothing is parallel.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/attention_block.h"

namespace avid::kernels::reference {

/// A dense row-major matrix of doubles.
struct Mat {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> values;

  Mat() = default;
  Mat(std::int64_t num_rows, std::int64_t num_cols)
      : rows(num_rows), cols(num_cols), values(static_cast<std::size_t>(num_rows * num_cols), 0.0) {}
  double& operator()(std::int64_t i, std::int64_t j) { return values[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(std::int64_t i, std::int64_t j) const { return values[static_cast<std::size_t>(i * cols + j)]; }
};

template <class Elem>
Mat load(const void* data, std::int64_t rows, std::int64_t cols, std::int64_t pitch) {
  Mat m(rows, cols);
  const Elem* from = static_cast<const Elem*>(data);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) m(i, j) = static_cast<double>(from[i * pitch + j]);
  return m;
}

template <class Elem>
void store(const Mat& m, void* data, std::int64_t pitch) {
  Elem* to = static_cast<Elem*>(data);
  for (std::int64_t i = 0; i < m.rows; ++i)
    for (std::int64_t j = 0; j < m.cols; ++j) to[i * pitch + j] = static_cast<Elem>(m(i, j));
}

/// a b^T
inline Mat times_transposed(const Mat& a, const Mat& b) {
  Mat out(a.rows, b.rows);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < b.rows; ++j)
      for (std::int64_t k = 0; k < a.cols; ++k) out(i, j) += a(i, k) * b(j, k);
  return out;
}

/// a b
inline Mat times(const Mat& a, const Mat& b) {
  Mat out(a.rows, b.cols);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t k = 0; k < a.cols; ++k)
      for (std::int64_t j = 0; j < b.cols; ++j) out(i, j) += a(i, k) * b(k, j);
  return out;
}

/// out += a^T b
inline void add_transposed_times(const Mat& a, const Mat& b, Mat& out) {
  for (std::int64_t k = 0; k < a.rows; ++k)
    for (std::int64_t i = 0; i < a.cols; ++i)
      for (std::int64_t j = 0; j < b.cols; ++j) out(i, j) += a(k, i) * b(k, j);
}

/// The pre-norm of some rows, with what its gradient needs.
struct Prenorm {
  Mat h;                     ///< [L,C] normalised and multiplied by gamma
  Mat xhat;                  ///< [L,C] normalised
  std::vector<double> rstd;  ///< [L] 1 / sqrt(var + eps)
};

inline Prenorm prenorm_fwd(const Mat& x, const Mat& gamma) {
  Prenorm p{Mat(x.rows, x.cols), Mat(x.rows, x.cols), std::vector<double>(static_cast<std::size_t>(x.rows))};
  const double num_channels = static_cast<double>(x.cols);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    double mean = 0, var = 0;
    for (std::int64_t c = 0; c < x.cols; ++c) mean += x(i, c) / num_channels;
    for (std::int64_t c = 0; c < x.cols; ++c) var += (x(i, c) - mean) * (x(i, c) - mean) / num_channels;
    const double rstd = 1.0 / std::sqrt(var + kPrenormEps);
    p.rstd[static_cast<std::size_t>(i)] = rstd;
    for (std::int64_t c = 0; c < x.cols; ++c) {
      p.xhat(i, c) = (x(i, c) - mean) * rstd;
      p.h(i, c) = p.xhat(i, c) * gamma(0, c);
    }
  }
  return p;
}

/// d_x += rstd * (g - mean_c g - xhat * mean_c(g * xhat)) with g = d_h * gamma;  d_gamma += sum_rows d_h * xhat
inline void prenorm_bwd(const Prenorm& p, const Mat& gamma, const Mat& d_h, Mat& d_x, Mat& d_gamma) {
  const double num_channels = static_cast<double>(d_h.cols);
  for (std::int64_t i = 0; i < d_h.rows; ++i) {
    double mean_g = 0, mean_g_xhat = 0;
    for (std::int64_t c = 0; c < d_h.cols; ++c) {
      const double g = d_h(i, c) * gamma(0, c);
      mean_g += g / num_channels;
      mean_g_xhat += g * p.xhat(i, c) / num_channels;
      d_gamma(0, c) += d_h(i, c) * p.xhat(i, c);
    }
    for (std::int64_t c = 0; c < d_h.cols; ++c) {
      const double g = d_h(i, c) * gamma(0, c);
      d_x(i, c) += p.rstd[static_cast<std::size_t>(i)] * (g - mean_g - p.xhat(i, c) * mean_g_xhat);
    }
  }
}

/// p = softmax(logits) along each row
inline Mat softmax_rows(const Mat& logits) {
  Mat p(logits.rows, logits.cols);
  for (std::int64_t i = 0; i < logits.rows; ++i) {
    double largest = logits(i, 0), sum = 0;
    for (std::int64_t j = 1; j < logits.cols; ++j) largest = std::fmax(largest, logits(i, j));
    for (std::int64_t j = 0; j < logits.cols; ++j) sum += p(i, j) = std::exp(logits(i, j) - largest);
    for (std::int64_t j = 0; j < logits.cols; ++j) p(i, j) /= sum;
  }
  return p;
}

/// d_logits = p * (d_p - sum_j p d_p) along each row
inline Mat softmax_rows_bwd(const Mat& p, const Mat& d_p) {
  Mat d_logits(p.rows, p.cols);
  for (std::int64_t i = 0; i < p.rows; ++i) {
    double dot = 0;
    for (std::int64_t j = 0; j < p.cols; ++j) dot += p(i, j) * d_p(i, j);
    for (std::int64_t j = 0; j < p.cols; ++j) d_logits(i, j) = p(i, j) * (d_p(i, j) - dot);
  }
  return d_logits;
}

/// Columns [first, first + count) of m.
inline Mat columns(const Mat& m, std::int64_t first, std::int64_t count) {
  Mat out(m.rows, count);
  for (std::int64_t i = 0; i < m.rows; ++i)
    for (std::int64_t j = 0; j < count; ++j) out(i, j) = m(i, first + j);
  return out;
}

/// Writes m into columns [first, first + m.cols) of out.
inline void put_columns(const Mat& m, std::int64_t first, Mat& out) {
  for (std::int64_t i = 0; i < m.rows; ++i)
    for (std::int64_t j = 0; j < m.cols; ++j) out(i, first + j) = m(i, j);
}

/// Which rows of [B,T,S] attend to each other.
struct Sequences {
  std::int64_t count = 0;   ///< number of sequences, 0 when they are empty
  std::int64_t length = 0;  ///< rows in each
  std::int64_t stride = 0;  ///< rows between neighbours of a sequence
  std::int64_t frames = 0;  ///< T when a sequence is a pixel through time, 1 when it is a frame
  std::int64_t sites = 0;   ///< S

  /// One sequence of T tokens per pixel.
  static Sequences through_time(const AttentionBlockArgs& p) { return {p.T > 0 ? p.B * p.S : 0, p.T, p.S, p.T, p.S}; }
  /// One sequence of S tokens per frame.
  static Sequences within_frames(const AttentionBlockArgs& p) { return {p.S > 0 ? p.B * p.T : 0, p.S, 1, 1, p.S}; }

  std::int64_t first_row(std::int64_t sequence) const {
    return stride == 1 && frames == 1 ? sequence * length : (sequence / sites) * frames * sites + sequence % sites;
  }
};

/// y = x + core(prenorm(x) w_qkv^T) w_out^T (+ b_out).
/// `core.fwd(qkv [L,3ND]) -> a [L,ND]` is the attention of one head-major sequence.
template <class Elem, class Core>
void attention_block_fwd(const AttentionBlockArgs& p, const Sequences& sequences, Core&& core) {
  const Mat gamma = load<Elem>(p.gamma, 1, p.C, p.C);
  const Mat w_qkv = load<Elem>(p.w_qkv, 3 * p.N * p.D, p.C, p.w_qkv_pitch);
  const Mat w_out = load<Elem>(p.w_out, p.C, p.N * p.D, p.w_out_pitch);
  const Mat b_out = p.b_out != nullptr ? load<Elem>(p.b_out, 1, p.C, p.C) : Mat(1, p.C);
  for (std::int64_t s = 0; s < sequences.count; ++s) {
    const std::int64_t row = sequences.first_row(s);
    const Mat x = load<Elem>(
        static_cast<const Elem*>(p.x) + row * p.x_pitch, sequences.length, p.C,
        sequences.stride * p.x_pitch);                                 // [L,C]
    const Mat qkv = times_transposed(prenorm_fwd(x, gamma).h, w_qkv);  // [L,3ND]
    Mat y = times_transposed(core.fwd(qkv), w_out);                    // [L,C]
    for (std::int64_t i = 0; i < y.rows; ++i)
      for (std::int64_t c = 0; c < p.C; ++c) y(i, c) += x(i, c) + b_out(0, c);
    Elem* out = static_cast<Elem*>(p.y) + row * p.y_pitch;
    store<Elem>(y, out, sequences.stride * p.y_pitch);
    for (std::int64_t i = 0; i < y.rows; ++i)
      for (std::int64_t c = p.C; c < p.y_pitch; ++c) out[i * sequences.stride * p.y_pitch + c] = Elem(0);
  }
}

/// Gradients of attention_block_fwd; everything is computed from x again.
/// `core.bwd(qkv, d_a) -> d_qkv` is the gradient of core.fwd; it may add to gradients of its own (the bias table).
///
///   d_a = d_y w_out;  d_w_out = d_y^T a;  d_b_out = sum_rows d_y
///   d_h = d_qkv w_qkv;  d_w_qkv = d_qkv^T h;  d_x = d_y + prenorm_bwd(d_h)
template <class Elem, class Core>
void attention_block_bwd(
    const AttentionBlockArgs& p, const AttentionBlockGrads& g, const Sequences& sequences, Core&& core) {
  const Mat gamma = load<Elem>(p.gamma, 1, p.C, p.C);
  const Mat w_qkv = load<Elem>(p.w_qkv, 3 * p.N * p.D, p.C, p.w_qkv_pitch);
  const Mat w_out = load<Elem>(p.w_out, p.C, p.N * p.D, p.w_out_pitch);
  Mat d_gamma(1, p.C), d_b_out(1, p.C), d_w_qkv(w_qkv.rows, w_qkv.cols), d_w_out(w_out.rows, w_out.cols);
  for (std::int64_t s = 0; s < sequences.count; ++s) {
    const std::int64_t row = sequences.first_row(s);
    const Mat x = load<Elem>(
        static_cast<const Elem*>(p.x) + row * p.x_pitch, sequences.length, p.C, sequences.stride * p.x_pitch);
    const Mat d_y = load<Elem>(
        static_cast<const Elem*>(g.d_y) + row * g.d_y_pitch, sequences.length, p.C, sequences.stride * g.d_y_pitch);
    const Prenorm norm = prenorm_fwd(x, gamma);
    const Mat qkv = times_transposed(norm.h, w_qkv);
    if (g.d_w_out != nullptr) add_transposed_times(d_y, core.fwd(qkv), d_w_out);
    const Mat d_qkv = core.bwd(qkv, times(d_y, w_out));
    if (g.d_w_qkv != nullptr) add_transposed_times(d_qkv, norm.h, d_w_qkv);
    Mat d_x = d_y;  // the residual branch
    prenorm_bwd(norm, gamma, times(d_qkv, w_qkv), d_x, d_gamma);
    for (std::int64_t i = 0; i < d_y.rows; ++i)
      for (std::int64_t c = 0; c < p.C; ++c) d_b_out(0, c) += d_y(i, c);
    if (g.d_x != nullptr) {
      Elem* out = static_cast<Elem*>(g.d_x) + row * g.d_x_pitch;
      store<Elem>(d_x, out, sequences.stride * g.d_x_pitch);
      for (std::int64_t i = 0; i < d_x.rows; ++i)
        for (std::int64_t c = p.C; c < g.d_x_pitch; ++c) out[i * sequences.stride * g.d_x_pitch + c] = Elem(0);
    }
  }
  if (g.d_gamma != nullptr) store<Elem>(d_gamma, g.d_gamma, p.C);
  if (g.d_w_qkv != nullptr) store<Elem>(d_w_qkv, g.d_w_qkv, g.d_w_qkv_pitch);
  if (g.d_w_out != nullptr) store<Elem>(d_w_out, g.d_w_out, g.d_w_out_pitch);
  if (g.d_b_out != nullptr) store<Elem>(d_b_out, g.d_b_out, p.C);
}

}  // namespace avid::kernels::reference
