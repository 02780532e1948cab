// tests/autograd/temporal_attention_test.cpp -- gradient check in f64, frozen inputs, messages
#include "autograd/ops/temporal_attention.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/gradcheck.h"
#include "tests/support.h"

namespace avid::test {
namespace {

/// 10000^(-2r/rotated) for rotated = min(32, head_dim).
Tensor freqs(std::int64_t head_dim) {
  const std::int64_t R = std::min<std::int64_t>(32, head_dim) / 2;
  std::vector<float> values;
  for (std::int64_t r = 0; r < R; ++r) {
    values.push_back(static_cast<float>(std::pow(1e4, -static_cast<double>(r) / static_cast<double>(R))));
  }
  return Tensor::from_values(values, {R});
}

std::vector<Tensor> operands(
    std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t W, std::int64_t C, std::int64_t N, std::int64_t D,
    std::uint64_t seed) {
  return {
      random_tensor({B, T, H, W, C}, DType::f64, seed, 2.0), random_tensor({C}, DType::f64, seed + 1, 1.5),
      random_tensor({3 * N * D, C}, DType::f64, seed + 2), random_tensor({C, N * D}, DType::f64, seed + 3),
      random_tensor({32, N}, DType::f64, seed + 4)};
}

}  // namespace

TEST_CASE("temporal_attention/gradient/all inputs in f64") {
  std::uint64_t seed = 0;
  for (const auto& [B, T, H, W, C, N, D] :
       std::vector<std::array<std::int64_t, 7>>{{1, 4, 2, 3, 5, 2, 6}, {2, 3, 1, 2, 4, 1, 34}, {1, 1, 1, 2, 3, 1, 4}}) {
    const auto f = [&, N = N, D = D](const std::vector<Var>& in) {
      return temporal_attention(in[0], in[1], in[2], in[3], in[4], freqs(D), {.heads = N, .head_dim = D});
    };
    CHECK(gradient_errors(f, operands(B, T, H, W, C, N, D, seed += 10)) == "");
  }
}

TEST_CASE("temporal_attention/frozen/parameters get no gradient and a frozen path records nothing") {
  const auto tensors = operands(1, 2, 2, 3, 5, 2, 32, 50);
  const AttentionOptions options{.heads = 2, .head_dim = 32};
  std::vector<Var> frozen;
  for (const Tensor& t : tensors) frozen.emplace_back(t);
  CHECK_FALSE(
      temporal_attention(frozen[0], frozen[1], frozen[2], frozen[3], frozen[4], freqs(32), options).requires_grad());
  std::vector<Var> only_x = frozen;
  only_x[0] = Var(tensors[0], true);
  temporal_attention(only_x[0], only_x[1], only_x[2], only_x[3], only_x[4], freqs(32), options)
      .backward(random_tensor(tensors[0].shape(), DType::f64, 51));
  CHECK(only_x[0].grad().defined());
  for (std::size_t i = 1; i < 5; ++i) CHECK_FALSE(only_x[i].grad().defined());
}

TEST_CASE("temporal_attention/saved/the rule keeps the input and nothing of its own") {
  const auto tensors = operands(1, 2, 2, 3, 5, 2, 32, 50);
  const AttentionOptions options{.heads = 2, .head_dim = 32};
  std::vector<Var> in;
  for (const Tensor& t : tensors) in.emplace_back(t, true);
  const std::size_t before = saved_stats().bytes;
  const Var out = temporal_attention(in[0], in[1], in[2], in[3], in[4], freqs(32), options);
  std::size_t inputs = 0;
  for (const Tensor& t : tensors) inputs += t.num_bytes();
  CHECK(saved_stats().bytes - before <= inputs + 64 * sizeof(float));
}

TEST_CASE("temporal_attention/zero output projection/property_21 frames do not mix") {
  auto tensors = operands(1, 4, 2, 3, 5, 2, 32, 60);
  tensors[3].fill(0);
  const Var out = temporal_attention(
      Var(tensors[0]), Var(tensors[1]), Var(tensors[2]), Var(tensors[3]), Var(tensors[4]), freqs(32),
      {.heads = 2, .head_dim = 32});
  CHECK(same_bits(out.value(), tensors[0]));
}

TEST_CASE("temporal_attention/errors/messages name the operand, what it should be and what came") {
  const auto tensors = operands(1, 2, 2, 3, 5, 2, 32, 70);
  const AttentionOptions options{.heads = 2, .head_dim = 32};
  auto message = [&](std::size_t index, const Tensor& bad) {
    std::vector<Var> in;
    for (const Tensor& t : tensors) in.emplace_back(t);
    in[index] = Var(bad);
    try {
      temporal_attention(in[0], in[1], in[2], in[3], in[4], freqs(32), options);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  CHECK(
      message(0, Tensor::zeros({2, 3, 5}, DType::f64)) ==
      "temporal_attention: x: expected [B,T,H,W,C] with C > 0, got f64 [2,3,5]");
  CHECK(
      message(1, Tensor::zeros({6}, DType::f64)) ==
      "temporal_attention: norm_gamma: expected [5] (the channels of x), got f64 [6]");
  CHECK(
      message(2, Tensor::zeros({96, 5}, DType::f64)) ==
      "temporal_attention: w_qkv: expected [192,5] (3 * heads * head_dim by the channels of x), got f64 [96,5]");
  CHECK(
      message(3, Tensor::zeros({64, 5}, DType::f64)) ==
      "temporal_attention: w_out: expected [5,64] (the channels of x by heads * head_dim), got f64 [64,5]");
  CHECK(
      message(3, Tensor::zeros({5, 64}, DType::f32)) == "temporal_attention: w_out: expected f64 as x, got f32 [5,64]");
  CHECK(
      message(4, Tensor::zeros({32, 3}, DType::f64)) ==
      "temporal_attention: bias_table: expected [32,2], got f64 [32,3]");
  std::vector<Var> in;
  for (const Tensor& t : tensors) in.emplace_back(t);
  CHECK_THROWS_WITH_AS(
      temporal_attention(in[0], in[1], in[2], in[3], in[4], Tensor::zeros({17}), options),
      "temporal_attention: rotary_freqs: expected at most 16 frequencies (half of head_dim 32), got f32 [17]",
      ShapeError);
}

}  // namespace avid::test
