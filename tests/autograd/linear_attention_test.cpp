// tests/autograd/linear_attention_test.cpp -- gradient check in f64, gradients on a device, frozen inputs, messages
#include "autograd/ops/linear_attention.h"

#include "autograd/ops/cast.h"
#include "tests/autograd/attention_block_checks.h"

namespace avid::test {
namespace {

const AttentionBlockOp kOp = {
    .name = "linear_attention",
    .apply =
        [](const std::vector<Var>& in, const AttentionOptions& options) {
          return linear_attention(in[0], in[1], in[2], in[3], in[4], options);
        },
    .fifth = [](const AttentionCase& s) { return Shape{s.C}; }};

}  // namespace

TEST_CASE("linear_attention/gradient/all inputs in f64") {
  kOp.check_gradients({
      {.B = 1, .T = 2, .H = 2, .W = 3, .C = 5, .N = 2, .D = 6},
      {.B = 2, .T = 1, .H = 1, .W = 4, .C = 4, .N = 1, .D = 32},
      {.B = 1, .T = 1, .H = 1, .W = 1, .C = 3, .N = 1, .D = 4},
  });
}

#if AVID_HAVE_SIM
TEST_CASE("linear_attention/device/gradients in bf16 are those of the CPU") {
  // 20 channels: two passes over x and d_y; 106: composed of launches.
  const Device sim{DeviceKind::sim, 0};
  for (const std::int64_t C : {20, 106}) {
    CAPTURE(C);
    std::vector<Tensor> host = kOp.operands({.B = 1, .T = 2, .H = 3, .W = 13, .C = C, .N = 3, .D = 32}, 90);
    for (Tensor& t : host) t = t.to(DType::bf16).to(DType::f32);
    const Tensor d_out = random_tensor(host[0].shape(), DType::f32, 99).to(DType::bf16);
    std::vector<std::vector<Tensor>> grads;
    for (const Device device : {Device(), sim}) {
      std::vector<Var> in;
      for (const Tensor& t : host) in.emplace_back(t.to(device), true);
      const DType dtype = device.is_gpu() ? DType::bf16 : DType::f32;
      linear_attention(cast(in[0], dtype), in[1], in[2], in[3], in[4], {.heads = 3, .head_dim = 32})
          .backward(d_out.to(dtype).to(device));
      grads.emplace_back();
      for (const Var& v : in) grads.back().push_back(v.grad().to(Device()));
    }
    for (std::size_t i = 0; i < host.size(); ++i) CHECK_MESSAGE(rel_l2(grads[1][i], grads[0][i]) < 2e-2, i);
  }
}
#endif

TEST_CASE("linear_attention/frozen/parameters get no gradient and a frozen path records nothing") {
  kOp.check_frozen();
}

TEST_CASE("linear_attention/saved/the rule keeps the input and nothing of its own") {
  kOp.check_saves_only_its_inputs();
}

TEST_CASE("linear_attention/errors/messages name the operand, what it should be and what came") {
  kOp.check_messages_of_common_operands();
  CHECK(
      kOp.message(4, Tensor::zeros({4}, DType::f64)) ==
      "linear_attention: b_out: expected [5] (the channels of x), got f64 [4]");
}

}  // namespace avid::test
