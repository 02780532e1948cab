// tests/kernels/spatial_attention_test.cpp -- reference against a composition, SIMD path against reference, properties
#include "kernels/spatial_attention.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/kernels/attention_block_cases.h"

namespace avid::test {
namespace {

using namespace avid::kernels;

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

const FrameBlock kBlock = {
    .fwd = spatial_attention_fwd,
    .fwd_reference = spatial_attention_fwd_reference,
    .bwd = spatial_attention_bwd,
    .bwd_reference = spatial_attention_bwd_reference,
    .composed = composed,
    .with_bias = false,
    .cases = {
        {.B = 1, .T = 1, .H = 1, .W = 1, .C = 3, .N = 1, .D = 24},
        {.B = 2, .T = 3, .H = 3, .W = 5, .C = 7, .N = 2, .D = 24},
        {.B = 1, .T = 2, .H = 8, .W = 8, .C = 8, .N = 2, .D = 32},
        {.B = 2, .T = 1, .H = 1, .W = 17, .C = 12, .N = 3, .D = 40},
        {.B = 1, .T = 2, .H = 7, .W = 9, .C = 50, .N = 2, .D = 50},
        {.B = 1, .T = 1, .H = 13, .W = 15, .C = 24, .N = 1, .D = 64},
    }};

AttentionBlockArgs args(const AttentionOperands& in, Tensor& y) { return kBlock.args(in, y); }

}  // namespace

TEST_CASE("spatial_attention/reference/equals a composition in f64") { kBlock.check_reference_against_composition(); }

TEST_CASE("spatial_attention/channel_major/forward equals the f64 reference over awkward sizes") {
  kBlock.check_forward_against_reference();
}

TEST_CASE("spatial_attention/channel_major/gradients equal the f64 reference over awkward sizes") {
  kBlock.check_gradients_against_reference();
}

TEST_CASE("spatial_attention/channel_major/gradients that nobody wants are not written") {
  kBlock.check_unwanted_gradients_are_not_written();
}

TEST_CASE("spatial_attention/channel_major/the number of threads changes no bit") {
  kBlock.check_threads_change_no_bit();
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

TEST_CASE("spatial_attention/empty/no pixels, no frames, no clips") { kBlock.check_empty(); }

}  // namespace avid::test
