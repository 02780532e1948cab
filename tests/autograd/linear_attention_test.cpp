// tests/autograd/linear_attention_test.cpp -- gradient check in f64, gradients on a device, frozen inputs, messages
#include "autograd/ops/linear_attention.h"

#include <cmath>

#include "autograd/ops/cast.h"
#include "tests/doctest.h"
#include "tests/gradcheck.h"
#include "tests/support.h"

namespace avid::test {
namespace {

std::vector<Tensor> operands(
    std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t W, std::int64_t C, std::int64_t N, std::int64_t D,
    std::uint64_t seed) {
  return {
      random_tensor({B, T, H, W, C}, DType::f64, seed, 2.0), random_tensor({C}, DType::f64, seed + 1, 1.5),
      random_tensor({3 * N * D, C}, DType::f64, seed + 2), random_tensor({C, N * D}, DType::f64, seed + 3),
      random_tensor({C}, DType::f64, seed + 4)};
}

}  // namespace

TEST_CASE("linear_attention/gradient/all inputs in f64") {
  std::uint64_t seed = 0;
  for (const auto& [B, T, H, W, C, N, D] :
       std::vector<std::array<std::int64_t, 7>>{{1, 2, 2, 3, 5, 2, 6}, {2, 1, 1, 4, 4, 1, 32}, {1, 1, 1, 1, 3, 1, 4}}) {
    const auto f = [&, N = N, D = D](const std::vector<Var>& in) {
      return linear_attention(in[0], in[1], in[2], in[3], in[4], {.heads = N, .head_dim = D});
    };
    CHECK(gradient_errors(f, operands(B, T, H, W, C, N, D, seed += 10)) == "");
  }
}

#if AVID_HAVE_SIM
TEST_CASE("linear_attention/device/gradients in bf16 are those of the CPU") {
  // 20 channels: two passes over x and d_y; 106: composed of launches.
  const Device sim{DeviceKind::sim, 0};
  for (const std::int64_t C : {20, 106}) {
    CAPTURE(C);
    std::vector<Tensor> host = operands(1, 2, 3, 13, C, 3, 32, 90);
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
  const auto tensors = operands(1, 2, 2, 3, 5, 2, 32, 50);
  const AttentionOptions options{.heads = 2, .head_dim = 32};
  std::vector<Var> frozen;
  for (const Tensor& t : tensors) frozen.emplace_back(t);
  CHECK_FALSE(linear_attention(frozen[0], frozen[1], frozen[2], frozen[3], frozen[4], options).requires_grad());
  std::vector<Var> only_x = frozen;
  only_x[0] = Var(tensors[0], true);
  linear_attention(only_x[0], only_x[1], only_x[2], only_x[3], only_x[4], options)
      .backward(random_tensor(tensors[0].shape(), DType::f64, 51));
  CHECK(only_x[0].grad().defined());
  for (std::size_t i = 1; i < 5; ++i) CHECK_FALSE(only_x[i].grad().defined());
}

TEST_CASE("linear_attention/saved/the rule keeps the input and nothing of its own") {
  const auto tensors = operands(1, 2, 2, 3, 5, 2, 32, 50);
  const AttentionOptions options{.heads = 2, .head_dim = 32};
  std::vector<Var> in;
  for (const Tensor& t : tensors) in.emplace_back(t, true);
  const std::size_t before = saved_stats().bytes;
  const Var out = linear_attention(in[0], in[1], in[2], in[3], in[4], options);
  std::size_t inputs = 0;
  for (const Tensor& t : tensors) inputs += t.num_bytes();
  CHECK(saved_stats().bytes - before <= inputs + 64 * sizeof(float));
}

TEST_CASE("linear_attention/errors/messages name the operand, what it should be and what came") {
  const auto tensors = operands(1, 2, 2, 3, 5, 2, 32, 70);
  const AttentionOptions options{.heads = 2, .head_dim = 32};
  auto message = [&](std::size_t index, const Tensor& bad) {
    std::vector<Var> in;
    for (const Tensor& t : tensors) in.emplace_back(t);
    in[index] = Var(bad);
    try {
      linear_attention(in[0], in[1], in[2], in[3], in[4], options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(
      message(0, Tensor::zeros({2, 3, 5}, DType::f64)) ==
      "linear_attention: x: expected [B,T,H,W,C] with C > 0, got f64 [2,3,5]");
  CHECK(
      message(1, Tensor::zeros({6}, DType::f64)) ==
      "linear_attention: norm_gamma: expected [5] (the channels of x), got f64 [6]");
  CHECK(
      message(2, Tensor::zeros({96, 5}, DType::f64)) ==
      "linear_attention: w_qkv: expected [192,5] (3 * heads * head_dim by the channels of x), got f64 [96,5]");
  CHECK(
      message(3, Tensor::zeros({64, 5}, DType::f64)) ==
      "linear_attention: w_out: expected [5,64] (the channels of x by heads * head_dim), got f64 [64,5]");
  CHECK(message(3, Tensor::zeros({5, 64}, DType::f32)) == "linear_attention: w_out: expected f64 as x, got f32 [5,64]");
  CHECK(
      message(4, Tensor::zeros({4}, DType::f64)) ==
      "linear_attention: b_out: expected [5] (the channels of x), got f64 [4]");
}

}  // namespace avid::test
