// tests/autograd/attention_on_device_test.cpp -- temporal_attention and attention on a device (the simulator, or a GPU)
// agree with the CPU: dispatch, devices, workspaces, gradients in the types of a device
//
// What the kernels compute is tested in tests/sim; this is about tensors and gradients.
#include <algorithm>
#include <cmath>
#include <functional>

#include "autograd/ops/attention.h"
#include "autograd/ops/temporal_attention.h"
#include "tests/doctest.h"
#include "tests/kernels/attention_block_cases.h"
#include "tests/support.h"

#if AVID_HAVE_SIM

namespace avid::test {
namespace {

const Device kDevice = test::device_under_test();
const Device kHost{};

/// Rounded to bf16, so that both element types hold the same numbers.
Tensor random(const Shape& shape, std::uint64_t seed, double scale) {
  return random_tensor(shape, DType::f64, seed, scale).to(DType::bf16).to(DType::f32);
}

/// out and the gradients of all inputs, forward and backward through the graph.
std::vector<Tensor> run(
    const std::vector<Tensor>& inputs, const Tensor& d_out, const std::function<Var(const std::vector<Var>&)>& op) {
  std::vector<Var> vars;
  for (const Tensor& t : inputs) vars.emplace_back(t, true);
  const Var out = op(vars);
  out.backward(d_out);
  std::vector<Tensor> results{out.value()};
  for (const Var& v : vars) results.push_back(v.grad());
  return results;
}

/// The op there, in f32 and bf16, against the CPU in f32. Inputs listed in `parameters` stay f32 there: the graph
/// converts matrices.
void compare(
    const std::vector<Tensor>& inputs, const std::vector<std::size_t>& parameters,
    const std::function<Var(const std::vector<Var>&)>& op) {
  const Tensor d_out = random(inputs[0].shape(), 99, 1.0);
  const std::vector<Tensor> expected = run(inputs, d_out, op);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    CAPTURE(name_of(dtype));
    std::vector<Tensor> there;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const bool parameter = std::find(parameters.begin(), parameters.end(), i) != parameters.end();
      there.push_back((parameter ? inputs[i] : inputs[i].to(dtype)).to(kDevice));
    }
    const std::vector<Tensor> got = run(there, d_out.to(dtype).to(kDevice), op);
    for (std::size_t i = 0; i < got.size(); ++i) {
      CAPTURE(i);
      REQUIRE(got[i].defined());
      CHECK(got[i].device() == kDevice);
      const Tensor here = got[i].to(kHost);
      CHECK(gaps_are_zero(here));
      CHECK(rel_l2(here.to(DType::f32), expected[i]) < (dtype == DType::f32 ? 1e-5 : 4e-2));
    }
  }
}

}  // namespace

TEST_CASE("attention_on_device/temporal_attention/fused, composed and many frames") {
  struct Size {
    std::int64_t B, T, H, W, C, N, D;
  };
  std::uint64_t seed = 0;
  for (const Size& s : {Size{1, 8, 2, 3, 50, 2, 50}, Size{2, 3, 1, 3, 12, 2, 8}, Size{1, 10, 1, 2, 16, 1, 32}}) {
    CAPTURE(s.C);
    const std::vector<float> values = rotary_frequencies(s.D);
    const Tensor freqs = Tensor::from_values(values, {static_cast<std::int64_t>(values.size())});
    compare(
        {random({s.B, s.T, s.H, s.W, s.C}, seed += 10, 2.0), random({s.C}, seed + 1, 1.5),
         random({3 * s.N * s.D, s.C}, seed + 2, 1.2 / std::sqrt(static_cast<double>(s.C))),
         random({s.C, s.N * s.D}, seed + 3, 1.0 / std::sqrt(static_cast<double>(s.N * s.D))),
         random({32, s.N}, seed + 4, 1.0)},
        {1, 2, 3, 4}, [&](const std::vector<Var>& in) {
          return temporal_attention(
              in[0], in[1], in[2], in[3], in[4], freqs.to(in[0].value().device()), {.heads = s.N, .head_dim = s.D});
        });
  }
}

TEST_CASE("attention_on_device/temporal_attention/frames that do not fit are an error") {
  const Tensor x = Tensor::zeros({1, 200, 1, 1, 8}, DType::f32, kDevice);
  CHECK_THROWS_AS(
      temporal_attention_fwd(
          x, Tensor::zeros({8}, DType::f32, kDevice), Tensor::zeros({96, 8}, DType::f32, kDevice),
          Tensor::zeros({8, 32}, DType::f32, kDevice), Tensor::zeros({32, 1}, DType::f32, kDevice),
          Tensor::zeros({16}, DType::f32, kDevice), {.heads = 1, .head_dim = 32}),
      ShapeError);
}

TEST_CASE("attention_on_device/attention/self and cross") {
  for (const std::int64_t K : {5, 70}) {
    CAPTURE(K);
    compare(
        {random({2, 5, 24}, 500, 1.0), random({2, K, 24}, 501, 1.0), random({2, K, 24}, 502, 1.0)}, {},
        [](const std::vector<Var>& in) { return attention(in[0], in[1], in[2], {.heads = 3}); });
  }
}

TEST_CASE("attention_on_device/attention/wide heads and mixed devices are errors") {
  const Tensor wide = Tensor::zeros({1, 2, 80}, DType::f32, kDevice);
  CHECK_THROWS_WITH_AS(
      attention_fwd(wide, wide, wide, {.heads = 1}),
      "attention: q: expected heads of at most 64 channels on a device, got 80", ShapeError);
  CHECK_THROWS_AS(attention_fwd(wide, Tensor::zeros({1, 2, 80}), wide, {.heads = 2}), DeviceError);
}

}  // namespace avid::test

#endif
