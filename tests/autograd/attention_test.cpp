// tests/autograd/attention_test.cpp -- gradient check in f64, f32 against f64, a composition, messages
#include "autograd/ops/attention.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/gradcheck.h"
#include "tests/support.h"

namespace avid::test {
namespace {

std::vector<Tensor> operands(
    std::int64_t B, std::int64_t Q, std::int64_t K, std::int64_t width, std::uint64_t seed, DType dtype = DType::f64) {
  return {
      random_tensor({B, Q, width}, DType::f64, seed, 2.0).to(DType::f32).to(dtype),
      random_tensor({B, K, width}, DType::f64, seed + 1, 2.0).to(DType::f32).to(dtype),
      random_tensor({B, K, width}, DType::f64, seed + 2, 2.0).to(DType::f32).to(dtype)};
}

/// The equation, one output element at a time.
std::vector<double> composed(const std::vector<Tensor>& in, std::int64_t N, double scale) {
  const std::int64_t B = in[0].dim(0), Q = in[0].dim(1), K = in[1].dim(1), width = in[0].cols(), D = width / N;
  const auto q = in[0].to_doubles(), k = in[1].to_doubles(), v = in[2].to_doubles();
  const auto at = [&](std::int64_t length, std::int64_t b, std::int64_t i, std::int64_t c) {
    return static_cast<std::size_t>((b * length + i) * width + c);
  };
  std::vector<double> out(q.size());
  for (std::int64_t b = 0; b < B; ++b) {
    for (std::int64_t i = 0; i < Q; ++i) {
      for (std::int64_t c = 0; c < width; ++c) {
        double numerator = 0, denominator = 0;
        for (std::int64_t j = 0; j < K; ++j) {
          double logit = 0;
          for (std::int64_t d = c / D * D; d < c / D * D + D; ++d) logit += q[at(Q, b, i, d)] * k[at(K, b, j, d)];
          numerator += std::exp(scale * logit) * v[at(K, b, j, c)];
          denominator += std::exp(scale * logit);
        }
        out[at(Q, b, i, c)] = numerator / denominator;
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("attention/forward/equals the equation in f64, and f32 equals f64") {
  std::uint64_t seed = 0;
  for (const auto& [B, Q, K, N, D] : std::vector<std::array<std::int64_t, 5>>{
           {1, 1, 1, 1, 1}, {2, 3, 5, 2, 7}, {1, 40, 77, 3, 20}, {3, 9, 1, 1, 64}}) {
    const auto in = operands(B, Q, K, N * D, seed += 10);
    const SoftmaxAttentionOptions options{.heads = N};
    const SoftmaxAttention got = attention_fwd(in[0], in[1], in[2], options);
    const double scale = 1 / std::sqrt(static_cast<double>(D));
    CHECK(rel_l2(got.out, Tensor::from_values(composed(in, N, scale), in[0].shape())) < 1e-13);
    const SoftmaxAttention half = attention_fwd(in[0], in[1], in[2], {.heads = N, .scale = 0.5 * scale});
    CHECK(rel_l2(half.out, Tensor::from_values(composed(in, N, 0.5 * scale), in[0].shape())) < 1e-13);

    const auto in32 = operands(B, Q, K, N * D, seed, DType::f32);
    const Tensor d_out = random_tensor(in[0].shape(), DType::f64, seed + 5).to(DType::f32);
    const SoftmaxAttention got32 = attention_fwd(in32[0], in32[1], in32[2], options);
    CHECK(rel_l2(got32.out, got.out) < 1e-6);
    CHECK(gaps_are_zero(got32.out));
    const auto grads = attention_bwd(d_out.to(DType::f64), in[0], in[1], in[2], got, options, {});
    const auto grads32 = attention_bwd(d_out, in32[0], in32[1], in32[2], got32, options, {});
    CHECK(rel_l2(grads32.d_v, grads.d_v) < 2e-6);
    CHECK(gaps_are_zero(grads32.d_v));
    if (K == 1) continue;  // the softmax is constant: q and k have no gradient but noise
    CHECK(rel_l2(grads32.d_q, grads.d_q) < 5e-6);
    CHECK(rel_l2(grads32.d_k, grads.d_k) < 5e-6);
  }
}

TEST_CASE("attention/gradient/all inputs in f64") {
  std::uint64_t seed = 100;
  for (const auto& [B, Q, K, N, D] :
       std::vector<std::array<std::int64_t, 5>>{{1, 3, 4, 2, 3}, {2, 2, 3, 1, 5}, {1, 4, 1, 1, 2}}) {
    const auto f = [&, N = N](const std::vector<Var>& in) { return attention(in[0], in[1], in[2], {.heads = N}); };
    CHECK(gradient_errors(f, operands(B, Q, K, N * D, seed += 10)) == "");
  }
}

TEST_CASE("attention/bf16/on the CPU is f32 rounded at the stores") {
  auto in = operands(1, 3, 5, 6, 150, DType::f32);
  for (Tensor& t : in) t = t.to(DType::bf16);
  const std::vector<Tensor> wide = {in[0].to(DType::f32), in[1].to(DType::f32), in[2].to(DType::f32)};
  const SoftmaxAttention got = attention_fwd(in[0], in[1], in[2], {.heads = 2});
  CHECK(same_bits(got.out, attention_fwd(wide[0], wide[1], wide[2], {.heads = 2}).out.to(DType::bf16)));
  const auto grads = attention_bwd(in[0], in[0], in[1], in[2], got, {.heads = 2}, {});
  const auto expected =
      attention_bwd(wide[0], wide[0], wide[1], wide[2], {got.out.to(DType::f32), got.log_sum}, {.heads = 2}, {});
  CHECK(same_bits(grads.d_k, expected.d_k.to(DType::bf16)));
}

TEST_CASE("attention/frozen/inputs without need get no gradient") {
  const auto in = operands(1, 3, 4, 6, 200);
  const Var q(in[0], true), k(in[1]), v(in[2]);
  attention(q, k, v, {.heads = 2}).backward(random_tensor(in[0].shape(), DType::f64, 201));
  CHECK(q.grad().defined());
  CHECK_FALSE(k.grad().defined());
  CHECK_FALSE(attention(k, k, v, {.heads = 2}).requires_grad());
}

TEST_CASE("attention/errors/messages name the operand, what it should be and what came") {
  const auto in = operands(2, 3, 4, 6, 300);
  CHECK_THROWS_WITH_AS(
      attention_fwd(in[0], in[1], in[2], {.heads = 4}),
      "attention: options.heads: expected a divisor of 6 (channels of q), got 4", ShapeError);
  CHECK_THROWS_WITH_AS(
      attention_fwd(in[0], Tensor::zeros({2, 4, 5}, DType::f64), in[2], {.heads = 2}),
      "attention: k: expected [2,K,6] beside q, got f64 [2,4,5]", ShapeError);
  CHECK_THROWS_WITH_AS(
      attention_fwd(in[0], Tensor::zeros({2, 0, 6}, DType::f64), Tensor::zeros({2, 0, 6}, DType::f64), {.heads = 2}),
      "attention: k: expected at least one key, got f64 [2,0,6]", ShapeError);
}

TEST_CASE("attention/empty/no queries") {
  const Tensor none = Tensor::zeros({2, 0, 6}), keys = Tensor::zeros({2, 4, 6});
  const SoftmaxAttention result = attention_fwd(none, keys, keys, {.heads = 2});
  CHECK(result.out.numel() == 0);
  const auto grads = attention_bwd(none, none, keys, keys, result, {.heads = 2}, {});
  CHECK(max_abs_diff(grads.d_k, Tensor::zeros(keys.shape())) == 0);
}

}  // namespace avid::test
