// tests/kernels/spatial_attention_test.cpp -- reference against a composition, SIMD path against reference, properties
#include "kernels/spatial_attention.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/kernels/attention_block_cases.h"

namespace avid::test {
namespace {

using namespace avid::kernels;

AttentionBlockArgs args(const AttentionOperands& in, Tensor& y) {
  AttentionBlockArgs p;
  in.set(p, y, false);
  return p;
}

/// The block written once more, one (frame, head, query) at a time.
Tensor composed(const AttentionOperands& in) {
  const auto [B, T, H, W, C, N, D] = in.size;
  const std::int64_t S = H * W, width = N * D;
  const Rows qkv = project_qkv(in);
  Rows a(in.x.rows(), width);
  for (std::int64_t frame = 0; frame < B * T; ++frame) {
    for (std::int64_t n = 0; n < N; ++n) {
      for (std::int64_t query = frame * S; query < (frame + 1) * S; ++query) {
        std::vector<double> weight(static_cast<std::size_t>(S));
        double total = 0;
        for (std::int64_t j = 0; j < S; ++j) {
          double logit = 0;
          for (std::int64_t d = 0; d < D; ++d)
            logit += qkv.at(query, n * D + d) * qkv.at(frame * S + j, width + n * D + d);
          total += weight[static_cast<std::size_t>(j)] = std::exp(logit / std::sqrt(static_cast<double>(D)));
        }
        for (std::int64_t j = 0; j < S; ++j) {
          for (std::int64_t d = 0; d < D; ++d) {
            a.at(query, n * D + d) +=
                weight[static_cast<std::size_t>(j)] / total * qkv.at(frame * S + j, 2 * width + n * D + d);
          }
        }
      }
    }
  }
  return finish_block(in, a, false);
}

const std::vector<AttentionCase> kCases = {
    {.B = 1, .T = 1, .H = 1, .W = 1, .C = 3, .N = 1, .D = 24},
    {.B = 2, .T = 3, .H = 3, .W = 5, .C = 7, .N = 2, .D = 24},
    {.B = 1, .T = 2, .H = 8, .W = 8, .C = 8, .N = 2, .D = 32},
    {.B = 2, .T = 1, .H = 1, .W = 17, .C = 12, .N = 3, .D = 40},
    {.B = 1, .T = 2, .H = 7, .W = 9, .C = 50, .N = 2, .D = 50},
    {.B = 1, .T = 1, .H = 13, .W = 15, .C = 24, .N = 1, .D = 64},
};

}  // namespace

TEST_CASE("spatial_attention/reference/equals a composition in f64") {
  std::uint64_t seed = 10;
  for (const AttentionCase& c : kCases) {
    const AttentionOperands in(c, seed += 20);
    Tensor y;
    spatial_attention_fwd_reference(args(in, y));
    CHECK_MESSAGE(rel_l2(y, composed(in)) < 1e-13, c.name());
    CHECK(gaps_are_zero(y));
  }
}

TEST_CASE("spatial_attention/channel_major/forward equals the f64 reference over awkward sizes") {
  std::uint64_t seed = 1000;
  for (const AttentionCase& c : kCases) {
    const AttentionOperands in(c, seed += 20), in32 = in.to(DType::f32);
    Tensor y, y32;
    spatial_attention_fwd_reference(args(in, y));
    spatial_attention_fwd(args(in32, y32));
    CHECK_MESSAGE(rel_l2(y32, y) < 1e-6, c.name(), rel_l2(y32, y));
    CHECK_MESSAGE(gaps_are_zero(y32), c.name());
  }
}

TEST_CASE("spatial_attention/channel_major/gradients equal the f64 reference over awkward sizes") {
  std::uint64_t seed = 2000;
  for (const AttentionCase& c : kCases) {
    const AttentionOperands in(c, seed += 20), in32 = in.to(DType::f32);
    Tensor y, y32;
    AttentionBlockGrads g, g32;
    const AttentionGradTensors out(in, g, false), out32(in32, g32, false);
    spatial_attention_bwd_reference(args(in, y), g);
    spatial_attention_bwd(args(in32, y32), g32);
    CHECK_MESSAGE(out32.differences(out, 1e-5) == "", c.name());
  }
}

TEST_CASE("spatial_attention/channel_major/gradients that nobody wants are not written") {
  const AttentionOperands in =
      AttentionOperands({.B = 1, .T = 2, .H = 3, .W = 7, .C = 8, .N = 2, .D = 32}, 77).to(DType::f32);
  Tensor y;
  const auto operands = args(in, y);
  AttentionBlockGrads all;
  const AttentionGradTensors expected(in, all, false);
  spatial_attention_bwd(operands, all);
  for (int only = 0; only < 4; ++only) {
    AttentionBlockGrads one;
    const AttentionGradTensors got(in, one, false);
    if (only != 0) one.d_x = nullptr;
    if (only != 1) one.d_gamma = nullptr;
    if (only != 2) one.d_w_qkv = nullptr;
    if (only != 3) one.d_w_out = nullptr;
    spatial_attention_bwd(operands, one);
    const std::vector<std::pair<const Tensor*, const Tensor*>> pairs = {
        {&got.d_x, &expected.d_x},
        {&got.d_gamma, &expected.d_gamma},
        {&got.d_w_qkv, &expected.d_w_qkv},
        {&got.d_w_out, &expected.d_w_out}};
    for (int i = 0; i < 4; ++i) {
      const Tensor& t = *pairs[static_cast<std::size_t>(i)].first;
      if (i == only) {
        CHECK_MESSAGE(same_bits(t, *pairs[static_cast<std::size_t>(i)].second), i);
      } else {
        CHECK_MESSAGE(max_abs_diff(t, Tensor::full(t.shape(), 7)) == 0, only, " wrote ", i);
      }
    }
  }
}

TEST_CASE("spatial_attention/channel_major/frames are independent") {
  const AttentionOperands in =
      AttentionOperands({.B = 2, .T = 2, .H = 3, .W = 5, .C = 8, .N = 2, .D = 32}, 4).to(DType::f32);
  AttentionOperands changed = in;
  changed.x = in.x.clone();
  changed.x.data<float>()[(15 + 4) * in.x.pitch() + 2] += 1.0f;  // frame 1 of clip 0
  Tensor y, changed_y;
  spatial_attention_fwd(args(in, y));
  spatial_attention_fwd(args(changed, changed_y));
  for (std::int64_t row = 0; row < 60; ++row) {
    bool same = true;
    for (std::int64_t c = 0; c < 8; ++c) {
      same = same && y.data<float>()[row * y.pitch() + c] == changed_y.data<float>()[row * y.pitch() + c];
    }
    CHECK(same == !(row >= 15 && row < 30));
  }
}

TEST_CASE("spatial_attention/empty/no pixels, no frames, no clips") {
  for (const AttentionCase& c :
       {AttentionCase{.B = 0, .T = 2, .H = 2, .W = 2, .C = 4, .N = 1, .D = 8},
        AttentionCase{.B = 1, .T = 0, .H = 2, .W = 2, .C = 4, .N = 1, .D = 8},
        AttentionCase{.B = 1, .T = 2, .H = 0, .W = 2, .C = 4, .N = 1, .D = 8}}) {
    for (DType dtype : {DType::f32, DType::f64}) {
      const AttentionOperands in = AttentionOperands(c, 8).to(dtype);
      Tensor y;
      spatial_attention_fwd(args(in, y));
      AttentionBlockGrads g;
      const AttentionGradTensors out(in, g, false);
      spatial_attention_bwd(args(in, y), g);
      for (const Tensor* t : {&out.d_gamma, &out.d_w_qkv, &out.d_w_out}) {
        CHECK(max_abs_diff(*t, Tensor::zeros(t->shape(), dtype)) == 0);
      }
    }
  }
}

}  // namespace avid::test
