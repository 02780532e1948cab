// tests/autograd/spatial_attention_test.cpp -- gradient check in f64, frozen inputs, messages
#include "autograd/ops/spatial_attention.h"

#include "tests/autograd/attention_block_checks.h"

namespace avid::test {
namespace {

const AttentionBlockOp kOp = {
    .name = "spatial_attention", .apply = [](const std::vector<Var>& in, const AttentionOptions& options) {
      return spatial_attention(in[0], in[1], in[2], in[3], options);
    }};

}  // namespace

TEST_CASE("spatial_attention/gradient/all inputs in f64") {
  kOp.check_gradients({
      {.B = 1, .T = 2, .H = 2, .W = 3, .C = 5, .N = 2, .D = 6},
      {.B = 2, .T = 1, .H = 1, .W = 4, .C = 4, .N = 1, .D = 32},
      {.B = 1, .T = 1, .H = 1, .W = 1, .C = 3, .N = 1, .D = 4},
  });
}

TEST_CASE("spatial_attention/frozen/parameters get no gradient and a frozen path records nothing") {
  kOp.check_frozen();
}

TEST_CASE("spatial_attention/saved/the rule keeps the input and nothing of its own") {
  kOp.check_saves_only_its_inputs();
}

TEST_CASE("spatial_attention/zero output projection/x comes back") {
  kOp.check_zero_projection_gives_x({.B = 1, .T = 2, .H = 2, .W = 3, .C = 5, .N = 2, .D = 32});
}

TEST_CASE("spatial_attention/errors/messages name the operand, what it should be and what came") {
  kOp.check_messages_of_common_operands();
}

}  // namespace avid::test
