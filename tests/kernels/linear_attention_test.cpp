// tests/kernels/linear_attention_test.cpp -- reference against a composition, SIMD path against reference, properties
#include "kernels/linear_attention.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/kernels/attention_block_cases.h"

namespace avid::test {
namespace {

using namespace avid::kernels;

/// The block written once more: position by position, with the context of a head formed first.
Tensor composed(const AttentionOperands& in) {
  const auto [B, T, H, W, C, N, D] = in.size;
  const std::int64_t S = H * W, width = N * D;
  const Rows qkv = project_qkv(in);
  Rows a(in.x.rows(), width);
  for (std::int64_t frame = 0; frame < B * T; ++frame) {
    for (std::int64_t n = 0; n < N; ++n) {
      Rows context(D, D);
      for (std::int64_t i = 0; i < D; ++i) {
        double total = 0;
        for (std::int64_t s = 0; s < S; ++s) total += std::exp(qkv.at(frame * S + s, width + n * D + i));
        for (std::int64_t s = 0; s < S; ++s) {
          const double k = std::exp(qkv.at(frame * S + s, width + n * D + i)) / total;
          for (std::int64_t j = 0; j < D; ++j) context.at(i, j) += k * qkv.at(frame * S + s, 2 * width + n * D + j);
        }
      }
      for (std::int64_t s = 0; s < S; ++s) {
        double total = 0;
        for (std::int64_t i = 0; i < D; ++i) total += std::exp(qkv.at(frame * S + s, n * D + i));
        for (std::int64_t i = 0; i < D; ++i) {
          const double q = std::exp(qkv.at(frame * S + s, n * D + i)) / total / std::sqrt(static_cast<double>(D));
          for (std::int64_t j = 0; j < D; ++j) a.at(frame * S + s, n * D + j) += q * context.at(i, j);
        }
      }
    }
  }
  return finish_block(in, a, true);
}

const FrameBlock kBlock = {
    .fwd = linear_attention_fwd,
    .fwd_reference = linear_attention_fwd_reference,
    .bwd = linear_attention_bwd,
    .bwd_reference = linear_attention_bwd_reference,
    .composed = composed,
    .with_bias = true,
    .cases = {
        {.B = 1, .T = 1, .H = 1, .W = 1, .C = 3, .N = 1, .D = 32},
        {.B = 2, .T = 3, .H = 3, .W = 5, .C = 7, .N = 2, .D = 24},
        {.B = 1, .T = 2, .H = 5, .W = 7, .C = 8, .N = 2, .D = 32},
        {.B = 2, .T = 1, .H = 1, .W = 17, .C = 12, .N = 3, .D = 40},
        {.B = 1, .T = 2, .H = 16, .W = 9, .C = 50, .N = 2, .D = 32},
        {.B = 1, .T = 1, .H = 33, .W = 41, .C = 24, .N = 1, .D = 32},
    }};

AttentionBlockArgs args(const AttentionOperands& in, Tensor& y) { return kBlock.args(in, y); }

}  // namespace

TEST_CASE("linear_attention/reference/equals a composition in f64") { kBlock.check_reference_against_composition(); }

TEST_CASE("linear_attention/channel_major/forward equals the f64 reference over awkward sizes") {
  kBlock.check_forward_against_reference();
}

TEST_CASE("linear_attention/channel_major/gradients equal the f64 reference over awkward sizes") {
  kBlock.check_gradients_against_reference();
}

TEST_CASE("linear_attention/channel_major/gradients that nobody wants are not written") {
  kBlock.check_unwanted_gradients_are_not_written();
}

TEST_CASE("linear_attention/channel_major/the number of threads changes no bit") {
  kBlock.check_threads_change_no_bit();
}

TEST_CASE("linear_attention/channel_major/property_17 constant v gives v times head_dim to the minus a half") {
  // One channel of x is the same everywhere after the norm only if x is; so v is made constant through zero weights and
  // a norm whose input is constant over positions: x differs between channels, not between positions.
  AttentionOperands in({.B = 1, .T = 2, .H = 4, .W = 5, .C = 8, .N = 2, .D = 32}, 3);
  auto x = in.x.to_doubles();
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = x[i % 8];
  in.x = Tensor::from_values(x, in.x.shape()).to(DType::f32).to(DType::f64);
  const Rows qkv = project_qkv(in);
  Rows a(in.x.rows(), 64);
  for (std::int64_t p = 0; p < in.x.rows(); ++p) {
    for (std::int64_t j = 0; j < 64; ++j) a.at(p, j) = qkv.at(p, 128 + j) / std::sqrt(32.0);
  }
  const Tensor expected = finish_block(in, a, true);
  Tensor y, y32;
  linear_attention_fwd_reference(args(in, y));
  CHECK(rel_l2(y, expected) < 1e-13);
  const AttentionOperands in32 = in.to(DType::f32);
  linear_attention_fwd(args(in32, y32));
  CHECK(rel_l2(y32, expected) < 1e-6);
}

TEST_CASE("linear_attention/channel_major/property_18 a permutation of the pixels permutes the output") {
  const AttentionOperands in({.B = 1, .T = 1, .H = 5, .W = 7, .C = 8, .N = 2, .D = 32}, 4);
  const auto permuted = [](const Tensor& t) {  // 8 is coprime to 35
    const Rows from(t);
    Rows to(35, 8);
    for (std::int64_t s = 0; s < 35; ++s) {
      for (std::int64_t c = 0; c < 8; ++c) to.at(s * 8 % 35, c) = from.at(s, c);
    }
    return Tensor::from_values(to.values, t.shape());
  };
  AttentionOperands moved = in;
  moved.x = permuted(in.x);
  const AttentionOperands in32 = in.to(DType::f32), moved32 = moved.to(DType::f32);
  Tensor y, moved_y;
  linear_attention_fwd(args(in32, y));
  linear_attention_fwd(args(moved32, moved_y));
  CHECK(rel_l2(moved_y.to(DType::f64), permuted(y.to(DType::f64))) < 1e-6);
}

TEST_CASE("linear_attention/empty/no pixels, no frames, no clips") { kBlock.check_empty(); }

}  // namespace avid::test
