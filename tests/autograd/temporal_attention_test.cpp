// tests/autograd/temporal_attention_test.cpp -- gradient check in f64, frozen inputs, messages
#include "autograd/ops/temporal_attention.h"

#include "tests/autograd/attention_block_checks.h"

namespace avid::test {
namespace {

Tensor freqs(std::int64_t head_dim) {
  const std::vector<float> values = rotary_frequencies(head_dim);
  return Tensor::from_values(values, {static_cast<std::int64_t>(values.size())});
}

const AttentionBlockOp kOp = {
    .name = "temporal_attention",
    .apply =
        [](const std::vector<Var>& in, const AttentionOptions& options) {
          return temporal_attention(in[0], in[1], in[2], in[3], in[4], freqs(options.head_dim), options);
        },
    .fifth =
        [](const AttentionCase& s) {
          return Shape{32, s.N};
        }};

}  // namespace

TEST_CASE("temporal_attention/gradient/all inputs in f64") {
  kOp.check_gradients({
      {.B = 1, .T = 4, .H = 2, .W = 3, .C = 5, .N = 2, .D = 6},
      {.B = 2, .T = 3, .H = 1, .W = 2, .C = 4, .N = 1, .D = 34},
      {.B = 1, .T = 1, .H = 1, .W = 2, .C = 3, .N = 1, .D = 4},
  });
}

TEST_CASE("temporal_attention/frozen/parameters get no gradient and a frozen path records nothing") {
  kOp.check_frozen();
}

TEST_CASE("temporal_attention/saved/the rule keeps the input and nothing of its own") {
  kOp.check_saves_only_its_inputs();
}

TEST_CASE("temporal_attention/zero output projection/property_21 frames do not mix") {
  kOp.check_zero_projection_gives_x({.B = 1, .T = 4, .H = 2, .W = 3, .C = 5, .N = 2, .D = 32});
}

TEST_CASE("temporal_attention/errors/messages name the operand, what it should be and what came") {
  kOp.check_messages_of_common_operands();
  CHECK(
      kOp.message(4, Tensor::zeros({32, 3}, DType::f64)) ==
      "temporal_attention: bias_table: expected [32,2], got f64 [32,3]");
  const std::vector<Var> in = AttentionBlockOp::vars(kOp.operands(AttentionBlockOp::kSmall, 70));
  CHECK_THROWS_WITH_AS(
      temporal_attention(in[0], in[1], in[2], in[3], in[4], Tensor::zeros({17}), AttentionBlockOp::kOptions),
      "temporal_attention: rotary_freqs: expected at most 16 frequencies (half of head_dim 32), got f32 [17]",
      ShapeError);
}

}  // namespace avid::test
