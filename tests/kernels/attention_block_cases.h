// tests/kernels/attention_block_cases.h -- operands, calls and checks shared by the tests of the three attention blocks
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention_block.h"
#include "tests/doctest.h"
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

/// Frequencies of the rotary code: 10000^(-2r/rotated) for rotated = min(32, head_dim), r below half of that.
inline std::vector<float> rotary_frequencies(std::int64_t head_dim) {
  const std::int64_t R = std::min<std::int64_t>(32, head_dim) / 2;
  std::vector<float> freqs;
  for (std::int64_t r = 0; r < R; ++r)
    freqs.push_back(static_cast<float>(std::pow(10000.0, -static_cast<double>(r) / static_cast<double>(R))));
  return freqs;
}

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

  /// d_x, d_gamma, d_w_qkv, d_w_out and, where the block has it, d_b_out.
  std::vector<const Tensor*> list() const {
    std::vector<const Tensor*> all = {&d_x, &d_gamma, &d_w_qkv, &d_w_out};
    if (d_b_out.defined()) all.push_back(&d_b_out);
    return all;
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

/// A block that works frame by frame, and what its tests need to know of it.
struct FrameBlock {
  void (*fwd)(const kernels::AttentionBlockArgs&), (*fwd_reference)(const kernels::AttentionBlockArgs&);
  void (*bwd)(const kernels::AttentionBlockArgs&, const kernels::AttentionBlockGrads&),
      (*bwd_reference)(const kernels::AttentionBlockArgs&, const kernels::AttentionBlockGrads&);
  Tensor (*composed)(const AttentionOperands&);  ///< the block written once more, in f64
  bool with_bias;                                ///< b_out is added
  std::vector<AttentionCase> cases;              ///< awkward sizes

  kernels::AttentionBlockArgs args(const AttentionOperands& in, Tensor& y) const {
    kernels::AttentionBlockArgs p;
    in.set(p, y, with_bias);
    return p;
  }

  void check_reference_against_composition() const {
    std::uint64_t seed = 10;
    for (const AttentionCase& c : cases) {
      const AttentionOperands in(c, seed += 20);
      Tensor y;
      fwd_reference(args(in, y));
      CHECK_MESSAGE(rel_l2(y, composed(in)) < 1e-13, c.name());
      CHECK(gaps_are_zero(y));
    }
  }

  void check_forward_against_reference() const {
    std::uint64_t seed = 1000;
    for (const AttentionCase& c : cases) {
      const AttentionOperands in(c, seed += 20), in32 = in.to(DType::f32);
      Tensor y, y32;
      fwd_reference(args(in, y));
      fwd(args(in32, y32));
      CHECK_MESSAGE(rel_l2(y32, y) < 1e-6, c.name(), rel_l2(y32, y));
      CHECK_MESSAGE(gaps_are_zero(y32), c.name());
    }
  }

  void check_gradients_against_reference() const {
    std::uint64_t seed = 2000;
    for (const AttentionCase& c : cases) {
      const AttentionOperands in(c, seed += 20), in32 = in.to(DType::f32);
      Tensor y, y32;
      kernels::AttentionBlockGrads g, g32;
      const AttentionGradTensors out(in, g, with_bias), out32(in32, g32, with_bias);
      bwd_reference(args(in, y), g);
      bwd(args(in32, y32), g32);
      CHECK_MESSAGE(out32.differences(out, 1e-5) == "", c.name());
    }
  }

  /// Every gradient alone has the bits that it has among all, and the others' memory stays as it was.
  void check_unwanted_gradients_are_not_written() const {
    const AttentionOperands in =
        AttentionOperands({.B = 1, .T = 2, .H = 3, .W = 7, .C = 8, .N = 2, .D = 32}, 77).to(DType::f32);
    Tensor y;
    const auto operands = args(in, y);
    kernels::AttentionBlockGrads all;
    const AttentionGradTensors expected(in, all, with_bias);
    bwd(operands, all);
    for (int only = 0; only < (with_bias ? 5 : 4); ++only) {
      kernels::AttentionBlockGrads one;
      const AttentionGradTensors got(in, one, with_bias);
      if (only != 0) one.d_x = nullptr;
      if (only != 1) one.d_gamma = nullptr;
      if (only != 2) one.d_w_qkv = nullptr;
      if (only != 3) one.d_w_out = nullptr;
      if (only != 4) one.d_b_out = nullptr;
      bwd(operands, one);
      const auto got_all = got.list(), expected_all = expected.list();
      for (std::size_t i = 0; i < got_all.size(); ++i) {
        const Tensor& t = *got_all[i];
        if (static_cast<int>(i) == only) {
          CHECK_MESSAGE(same_bits(t, *expected_all[i]), i);
        } else {
          CHECK_MESSAGE(max_abs_diff(t, Tensor::full(t.shape(), 7)) == 0, only, " wrote ", i);
        }
      }
    }
  }

  void check_threads_change_no_bit() const {
    const AttentionOperands in =
        AttentionOperands({.B = 2, .T = 3, .H = 17, .W = 16, .C = 12, .N = 2, .D = 32}, 9).to(DType::f32);
    const int threads = omp_get_max_threads();
    std::vector<AttentionGradTensors> results;
    std::vector<Tensor> outputs(2);
    for (std::size_t run = 0; run < 2; ++run) {
      omp_set_num_threads(run == 0 ? 1 : 3);
      fwd(args(in, outputs[run]));
      kernels::AttentionBlockGrads g;
      results.emplace_back(in, g, with_bias);
      Tensor y;
      bwd(args(in, y), g);
    }
    omp_set_num_threads(threads);
    CHECK(same_bits(outputs[0], outputs[1]));
    const auto alone = results[0].list(), together = results[1].list();
    for (std::size_t i = 0; i < alone.size(); ++i) CHECK_MESSAGE(same_bits(*alone[i], *together[i]), i);
  }

  /// No pixels, no frames, no clips: the parameters' gradients are zero.
  void check_empty() const {
    for (const AttentionCase& c :
         {AttentionCase{.B = 0, .T = 2, .H = 2, .W = 2, .C = 4, .N = 1, .D = 8},
          AttentionCase{.B = 1, .T = 0, .H = 2, .W = 2, .C = 4, .N = 1, .D = 8},
          AttentionCase{.B = 1, .T = 2, .H = 0, .W = 2, .C = 4, .N = 1, .D = 8}}) {
      for (const DType dtype : {DType::f32, DType::f64}) {
        const AttentionOperands in = AttentionOperands(c, 8).to(dtype);
        Tensor y;
        fwd(args(in, y));
        kernels::AttentionBlockGrads g;
        const AttentionGradTensors out(in, g, with_bias);
        bwd(args(in, y), g);
        for (const Tensor* t : out.list())
          if (t != &out.d_x) CHECK(max_abs_diff(*t, Tensor::zeros(t->shape(), dtype)) == 0);
      }
    }
  }
};

}  // namespace avid::test
