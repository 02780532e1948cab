// tests/kernels/attention_block_cases.h -- operands, calls and comparisons shared by the tests of the three attention blocks
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention_block.h"
#include "tests/support.h"

namespace avid::test {

/// Sizes of one attention block.
struct AttentionCase {
  std::int64_t B = 1, T = 1, H = 1, W = 1, C = 1, N = 1, D = 1;
  std::string name() const {
    std::string text;
    for (const auto& [letter, value] :
         {std::pair{"B", B}, {"T", T}, {"H", H}, {"W", W}, {"C", C}, {"N", N}, {"D", D}}) {
      text += letter + std::to_string(value) + " ";
    }
    return text;
  }
};

/// Random operands of one case, in f64; convert with to().
struct AttentionOperands {
  AttentionCase size;
  Tensor x, gamma, w_qkv, w_out, b_out, d_y;

  AttentionOperands(const AttentionCase& c, std::uint64_t seed) : size(c) {
    const std::int64_t inner = c.N * c.D;
    x = random_tensor({c.B, c.T, c.H, c.W, c.C}, DType::f64, seed, 2.0);
    gamma = random_tensor({c.C}, DType::f64, seed + 1, 1.5);
    w_qkv = random_tensor({3 * inner, c.C}, DType::f64, seed + 2, 2.0 / std::sqrt(static_cast<double>(c.C)));
    w_out = random_tensor({c.C, inner}, DType::f64, seed + 3, 1.0 / std::sqrt(static_cast<double>(inner)));
    b_out = random_tensor({c.C}, DType::f64, seed + 4);
    d_y = random_tensor(x.shape(), DType::f64, seed + 5);
    for (Tensor* t : {&x, &gamma, &w_qkv, &w_out, &b_out, &d_y}) *t = t->to(DType::f32).to(DType::f64);
  }

  AttentionOperands to(DType dtype) const {
    AttentionOperands out = *this;
    for (Tensor* t : {&out.x, &out.gamma, &out.w_qkv, &out.w_out, &out.b_out, &out.d_y}) *t = t->to(dtype);
    return out;
  }

  /// Fills the common members of `args`; `y` receives the output of a forward pass.
  void set(kernels::AttentionBlockArgs& args, Tensor& y, bool with_bias) const {
    args.dtype = x.dtype();
    args.B = size.B, args.T = size.T, args.S = size.H * size.W, args.C = size.C, args.N = size.N, args.D = size.D;
    args.x = x.raw_data(), args.x_pitch = x.pitch();
    args.gamma = gamma.raw_data();
    args.w_qkv = w_qkv.raw_data(), args.w_qkv_pitch = w_qkv.pitch();
    args.w_out = w_out.raw_data(), args.w_out_pitch = w_out.pitch();
    args.b_out = with_bias ? b_out.raw_data() : nullptr;
    y = dirty(x.shape(), x.dtype());
    args.y = y.raw_data(), args.y_pitch = y.pitch();
  }

  /// A tensor full of 7s, gaps included: whatever is not written shows.
  static Tensor dirty(const Shape& shape, DType dtype) {
    Tensor t = Tensor::empty(shape, dtype);
    const std::int64_t elements = t.rows() * t.pitch();
    for (std::int64_t i = 0; i < elements; ++i) {
      if (dtype == DType::f32) {
        static_cast<float*>(t.raw_data())[i] = 7;
      } else {
        static_cast<double*>(t.raw_data())[i] = 7;
      }
    }
    return t;
  }
};

/// Gradients of one backward call, by name.
struct AttentionGradTensors {
  Tensor d_x, d_gamma, d_w_qkv, d_w_out, d_b_out;

  AttentionGradTensors(const AttentionOperands& in, kernels::AttentionBlockGrads& grads, bool with_bias) {
    grads.d_y = in.d_y.raw_data(), grads.d_y_pitch = in.d_y.pitch();
    d_x = AttentionOperands::dirty(in.x.shape(), in.x.dtype());
    d_gamma = Tensor::full(in.gamma.shape(), 7, in.x.dtype());
    d_w_qkv = Tensor::full(in.w_qkv.shape(), 7, in.x.dtype());
    d_w_out = Tensor::full(in.w_out.shape(), 7, in.x.dtype());
    grads.d_x = d_x.raw_data(), grads.d_x_pitch = d_x.pitch();
    grads.d_gamma = d_gamma.raw_data();
    grads.d_w_qkv = d_w_qkv.raw_data(), grads.d_w_qkv_pitch = d_w_qkv.pitch();
    grads.d_w_out = d_w_out.raw_data(), grads.d_w_out_pitch = d_w_out.pitch();
    if (with_bias) {
      d_b_out = Tensor::full(in.b_out.shape(), 7, in.x.dtype());
      grads.d_b_out = d_b_out.raw_data();
    }
  }

  /// "name error" of every gradient further than `tolerance` from `reference` in relative L2, or with a dirty gap.
  std::string differences(const AttentionGradTensors& reference, double tolerance) const {
    std::string text;
    const auto compare = [&](const char* name, const Tensor& got, const Tensor& expected) {
      if (!expected.defined()) return;
      const double error = rel_l2(got, expected);
      if (!(error <= tolerance)) text += std::string(name) + " " + std::to_string(error) + "; ";
      if (!gaps_are_zero(got)) text += std::string(name) + " has a gap that is not zero; ";
    };
    compare("d_x", d_x, reference.d_x);
    compare("d_gamma", d_gamma, reference.d_gamma);
    compare("d_w_qkv", d_w_qkv, reference.d_w_qkv);
    compare("d_w_out", d_w_out, reference.d_w_out);
    compare("d_b_out", d_b_out, reference.d_b_out);
    return text;
  }
};

/// A plain [rows, cols] view of f64 operands for compositions written in a test.
struct Rows {
  std::vector<double> values;
  std::int64_t cols;
  explicit Rows(const Tensor& t) : values(t.to_doubles()), cols(t.cols()) {}
  Rows(std::int64_t rows, std::int64_t num_cols)
      : values(static_cast<std::size_t>(rows * num_cols), 0.0), cols(num_cols) {}
  double& at(std::int64_t row, std::int64_t col) { return values[static_cast<std::size_t>(row * cols + col)]; }
  double at(std::int64_t row, std::int64_t col) const { return values[static_cast<std::size_t>(row * cols + col)]; }
};

/// Projected rows of a block, [P,3ND], from two-pass statistics in f64.
inline Rows project_qkv(const AttentionOperands& in) {
  const Rows x(in.x), gamma(in.gamma), w(in.w_qkv);
  const std::int64_t P = in.x.rows(), C = in.size.C, width = 3 * in.size.N * in.size.D;
  Rows out(P, width);
  for (std::int64_t p = 0; p < P; ++p) {
    double sum = 0, squares = 0;
    for (std::int64_t c = 0; c < C; ++c) sum += x.at(p, c);
    for (std::int64_t c = 0; c < C; ++c) squares += (x.at(p, c) - sum / C) * (x.at(p, c) - sum / C);
    const double deviation = std::sqrt(squares / C + 1e-5);
    for (std::int64_t o = 0; o < width; ++o) {
      for (std::int64_t c = 0; c < C; ++c) {
        out.at(p, o) += (x.at(p, c) - sum / C) / deviation * gamma.at(0, c) * w.at(o, c);
      }
    }
  }
  return out;
}

/// x + a w_out^T (+ b_out) in f64.
inline Tensor finish_block(const AttentionOperands& in, const Rows& a, bool with_bias) {
  const Rows x(in.x), w(in.w_out), b(in.b_out);
  Rows y(in.x.rows(), in.size.C);
  for (std::int64_t p = 0; p < in.x.rows(); ++p) {
    for (std::int64_t c = 0; c < in.size.C; ++c) {
      double sum = x.at(p, c) + (with_bias ? b.at(0, c) : 0.0);
      for (std::int64_t k = 0; k < a.cols; ++k) sum += a.at(p, k) * w.at(c, k);
      y.at(p, c) = sum;
    }
  }
  return Tensor::from_values(y.values, in.x.shape());
}

}  // namespace avid::test
