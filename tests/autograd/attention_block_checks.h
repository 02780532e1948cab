// tests/autograd/attention_block_checks.h -- what the three attention blocks of the U-Net have in common as ops:
// operands, gradients against finite differences, frozen inputs, what the rule keeps, messages
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/var.h"
#include "tensor/ops/attention_block.h"
#include "tests/doctest.h"
#include "tests/gradcheck.h"
#include "tests/kernels/attention_block_cases.h"
#include "tests/support.h"

namespace avid::test {

/// An attention block as the checks see it: a function of x [B,T,H,W,C], norm_gamma [C], w_qkv [3ND,C], w_out [C,ND]
/// and, for two of them, one operand more.
struct AttentionBlockOp {
  std::string name;
  std::function<Var(const std::vector<Var>&, const AttentionOptions&)> apply;
  std::function<Shape(const AttentionCase&)> fifth = nullptr;  ///< shape of the last operand; empty: there is none

  std::vector<Tensor> operands(const AttentionCase& s, std::uint64_t seed) const {
    std::vector<Tensor> made = {
        random_tensor({s.B, s.T, s.H, s.W, s.C}, DType::f64, seed, 2.0),
        random_tensor({s.C}, DType::f64, seed + 1, 1.5), random_tensor({3 * s.N * s.D, s.C}, DType::f64, seed + 2),
        random_tensor({s.C, s.N * s.D}, DType::f64, seed + 3)};
    if (fifth) made.push_back(random_tensor(fifth(s), DType::f64, seed + 4));
    return made;
  }

  static std::vector<Var> vars(const std::vector<Tensor>& tensors, bool requires_grad = false) {
    std::vector<Var> made;
    for (const Tensor& t : tensors) made.emplace_back(t, requires_grad);
    return made;
  }

  void check_gradients(const std::vector<AttentionCase>& cases) const {
    std::uint64_t seed = 0;
    for (const AttentionCase& s : cases) {
      CAPTURE(s.name());
      const auto f = [&](const std::vector<Var>& in) { return apply(in, {.heads = s.N, .head_dim = s.D}); };
      CHECK(gradient_errors(f, operands(s, seed += 10)) == "");
    }
  }

  void check_frozen() const {
    const std::vector<Tensor> tensors = operands(kSmall, 50);
    std::vector<Var> in = vars(tensors);
    CHECK_FALSE(apply(in, kOptions).requires_grad());
    in[0] = Var(tensors[0], true);
    apply(in, kOptions).backward(random_tensor(tensors[0].shape(), DType::f64, 51));
    CHECK(in[0].grad().defined());
    for (std::size_t i = 1; i < in.size(); ++i) CHECK_FALSE(in[i].grad().defined());
  }

  void check_saves_only_its_inputs() const {
    const std::vector<Tensor> tensors = operands(kSmall, 50);
    const std::vector<Var> in = vars(tensors, true);
    const std::size_t before = saved_stats().bytes;
    const Var out = apply(in, kOptions);
    std::size_t inputs = 0;
    for (const Tensor& t : tensors) inputs += t.num_bytes();
    CHECK(saved_stats().bytes - before <= inputs + 64 * sizeof(float));
  }

  void check_zero_projection_gives_x(const AttentionCase& sizes) const {
    std::vector<Tensor> tensors = operands(sizes, 60);
    tensors[3].fill(0);
    CHECK(same_bits(apply(vars(tensors), {.heads = sizes.N, .head_dim = sizes.D}).value(), tensors[0]));
  }

  /// What the op says when operand `index` of the small case is `bad`.
  std::string message(std::size_t index, const Tensor& bad) const {
    std::vector<Var> in = vars(operands(kSmall, 70));
    in[index] = Var(bad);
    try {
      apply(in, kOptions);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  void check_messages_of_common_operands() const {
    const auto zeros = [](const Shape& shape) { return Tensor::zeros(shape, DType::f64); };
    CHECK(message(0, zeros({2, 3, 5})) == name + ": x: expected [B,T,H,W,C] with C > 0, got f64 [2,3,5]");
    CHECK(message(1, zeros({6})) == name + ": norm_gamma: expected [5] (the channels of x), got f64 [6]");
    CHECK(
        message(2, zeros({96, 5})) ==
        name + ": w_qkv: expected [192,5] (3 * heads * head_dim by the channels of x), got f64 [96,5]");
    CHECK(
        message(3, zeros({64, 5})) ==
        name + ": w_out: expected [5,64] (the channels of x by heads * head_dim), got f64 [64,5]");
    CHECK(message(3, Tensor::zeros({5, 64}, DType::f32)) == name + ": w_out: expected f64 as x, got f32 [5,64]");
  }

  static inline const AttentionCase kSmall = {.B = 1, .T = 2, .H = 2, .W = 3, .C = 5, .N = 2, .D = 32};
  static inline const AttentionOptions kOptions{.heads = 2, .head_dim = 32};
};

}  // namespace avid::test
