// tests/tensor/norms_on_device_test.cpp -- norms and attention blocks through their ops: a device gives what the CPU
// gives
#include <utility>

#include "tensor/ops/group_norm_silu.h"
#include "tensor/ops/layer_norm.h"
#include "tensor/ops/linear_attention.h"
#include "tensor/ops/rms_norm_film_silu.h"
#include "tensor/ops/spatial_attention.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::test;

#if AVID_HAVE_SIM
namespace {

const Device kDevice = test::device_under_test();

Tensor f32(const Shape& shape, std::uint64_t seed, double scale = 1.0) {
  return random_tensor(shape, DType::f32, seed, scale);
}

/// The tensor as the CPU sees it, in f32.
Tensor back(const Tensor& t) { return t.to(Device{}).to(DType::f32); }

/// Agreement of a device's result with the CPU's.
void check_close(const Tensor& device, const Tensor& cpu, double tolerance) {
  CHECK(device.device() == kDevice);
  CHECK(rel_l2(back(device), cpu) < tolerance);
  CHECK(gaps_are_zero(device.to(Device{})));
}

/// bf16 operands are rounded first, so that both sides see the same numbers.
Tensor rounded(const Tensor& t, DType dtype) { return dtype == DType::bf16 ? t.to(DType::bf16).to(DType::f32) : t; }

struct OnDevice {
  DType dtype;
  double tolerance;
  Tensor operator()(const Tensor& t) const { return t.to(dtype).to(kDevice); }
};
const OnDevice kTypes[] = {{DType::f32, 1e-5}, {DType::bf16, 3e-2}};

}  // namespace

TEST_CASE("norms_on_device/rms_norm_film_silu") {
  for (const OnDevice& on : kTypes) {
    const Tensor x = rounded(f32({2, 2, 3, 3, 10}, 1), on.dtype), d_out = rounded(f32({2, 2, 3, 3, 10}, 2), on.dtype);
    const Tensor gamma = f32({10}, 3), film = rounded(f32({2, 2, 20}, 4), on.dtype);
    const Tensor cpu = rms_norm_film_silu_fwd(x, gamma, film, d_out);
    const auto grads = rms_norm_film_silu_bwd(d_out, x, gamma, film, {});
    // FiLM in f32, and as a linear layer leaves it.
    for (const Tensor& device_film : {film.to(kDevice), on(film)}) {
      check_close(rms_norm_film_silu_fwd(on(x), gamma.to(kDevice), device_film, on(d_out)), cpu, on.tolerance);
      const auto got = rms_norm_film_silu_bwd(on(d_out), on(x), gamma.to(kDevice), device_film, {});
      check_close(got.d_x, grads.d_x, on.tolerance);
      check_close(got.d_gamma, grads.d_gamma, on.tolerance);
      check_close(got.d_film, grads.d_film, on.tolerance);
      CHECK(got.d_gamma.dtype() == DType::f32);
      CHECK(got.d_film.dtype() == device_film.dtype());
    }
  }
}

TEST_CASE("norms_on_device/layer_norm") {
  for (const OnDevice& on : kTypes) {
    const Tensor x = rounded(f32({3, 4, 50}, 1), on.dtype), d_out = rounded(f32({3, 4, 50}, 2), on.dtype);
    const Tensor gamma = f32({50}, 3), beta = f32({50}, 4);
    check_close(
        layer_norm_fwd(on(x), gamma.to(kDevice), beta.to(kDevice)), layer_norm_fwd(x, gamma, beta), on.tolerance);
    const auto grads = layer_norm_bwd(d_out, x, gamma, 1e-5, {});
    const auto got = layer_norm_bwd(on(d_out), on(x), gamma.to(kDevice), 1e-5, {});
    check_close(got.d_x, grads.d_x, on.tolerance);
    check_close(got.d_gamma, grads.d_gamma, on.tolerance);
    check_close(got.d_beta, grads.d_beta, on.tolerance);
  }
}

TEST_CASE("norms_on_device/group_norm_silu") {
  for (const OnDevice& on : kTypes)
    for (const GroupNormScope scope : {GroupNormScope::frame, GroupNormScope::clip}) {
      const GroupNormOptions options{.groups = 3, .scope = scope};
      const Tensor x = rounded(f32({1, 2, 4, 5, 12}, 1), on.dtype), d_out = rounded(f32({1, 2, 4, 5, 12}, 2), on.dtype);
      const Tensor gamma = f32({12}, 3), beta = f32({12}, 4);
      check_close(
          group_norm_silu_fwd(on(x), gamma.to(kDevice), beta.to(kDevice), options),
          group_norm_silu_fwd(x, gamma, beta, options), on.tolerance);
      const auto grads = group_norm_silu_bwd(d_out, x, gamma, beta, options, {});
      const auto got = group_norm_silu_bwd(on(d_out), on(x), gamma.to(kDevice), beta.to(kDevice), options, {});
      check_close(got.d_x, grads.d_x, on.tolerance);
      check_close(got.d_gamma, grads.d_gamma, on.tolerance);
      check_close(got.d_beta, grads.d_beta, on.tolerance);
    }
}

TEST_CASE("norms_on_device/attention_blocks") {
  const AttentionOptions options{.heads = 2, .head_dim = 32};
  for (const OnDevice& on : kTypes) {
    const Tensor x = rounded(f32({1, 2, 3, 4, 10}, 1), on.dtype), d_out = rounded(f32({1, 2, 3, 4, 10}, 2), on.dtype);
    const Tensor gamma = f32({10}, 3), b_out = f32({10}, 4);
    const Tensor w_qkv = rounded(f32({192, 10}, 5, 0.5), on.dtype), w_out = rounded(f32({10, 64}, 6, 0.3), on.dtype);
    const AttentionNeeds needs{.b_out = true};
    check_close(
        linear_attention_fwd(on(x), gamma.to(kDevice), on(w_qkv), on(w_out), b_out.to(kDevice), options),
        linear_attention_fwd(x, gamma, w_qkv, w_out, b_out, options), on.tolerance);
    check_close(
        spatial_attention_fwd(on(x), gamma.to(kDevice), on(w_qkv), on(w_out), options),
        spatial_attention_fwd(x, gamma, w_qkv, w_out, options), on.tolerance);
    const AttentionGrads linear = linear_attention_bwd(d_out, x, gamma, w_qkv, w_out, b_out, options, needs);
    const AttentionGrads spatial = spatial_attention_bwd(d_out, x, gamma, w_qkv, w_out, options, {});
    const AttentionGrads linear_got = linear_attention_bwd(
        on(d_out), on(x), gamma.to(kDevice), on(w_qkv), on(w_out), b_out.to(kDevice), options, needs);
    const AttentionGrads spatial_got =
        spatial_attention_bwd(on(d_out), on(x), gamma.to(kDevice), on(w_qkv), on(w_out), options, {});
    for (const auto& [got, cpu] : {std::pair{&linear_got, &linear}, {&spatial_got, &spatial}}) {
      INFO("linear: " << (cpu == &linear));
      check_close(got->d_x, cpu->d_x, on.tolerance);
      check_close(got->d_norm_gamma, cpu->d_norm_gamma, on.tolerance);
      check_close(got->d_w_qkv, cpu->d_w_qkv, on.tolerance);
      check_close(got->d_w_out, cpu->d_w_out, on.tolerance);
    }
    check_close(linear_got.d_b_out, linear.d_b_out, on.tolerance);
  }
}

TEST_CASE("norms_on_device/linear_attention_keeps_sums_over_keys_in_bf16") {
  const AttentionOptions options{.heads = 2, .head_dim = 32};
  const AttentionNeeds needs{.b_out = true};
  for (const OnDevice& on : kTypes) {
    const Tensor x = rounded(f32({1, 2, 3, 4, 10}, 1), on.dtype), d_out = rounded(f32({1, 2, 3, 4, 10}, 2), on.dtype);
    const Tensor gamma = f32({10}, 3), b_out = f32({10}, 4);
    const Tensor w_qkv = rounded(f32({192, 10}, 5, 0.5), on.dtype), w_out = rounded(f32({10, 64}, 6, 0.3), on.dtype);
    Tensor key_sums;
    linear_attention_fwd(on(x), gamma.to(kDevice), on(w_qkv), on(w_out), b_out.to(kDevice), options, &key_sums);
    CHECK(key_sums.defined() == (on.dtype == DType::bf16));
    if (!key_sums.defined()) continue;
    CHECK(key_sums.shape() == Shape{2 * 2 * (32 * 16 + 32)});
    const AttentionGrads expected = linear_attention_bwd(d_out, x, gamma, w_qkv, w_out, b_out, options, needs);
    const AttentionGrads got = linear_attention_bwd(
        on(d_out), on(x), gamma.to(kDevice), on(w_qkv), on(w_out), b_out.to(kDevice), options, needs, key_sums);
    check_close(got.d_x, expected.d_x, on.tolerance);
    check_close(got.d_w_qkv, expected.d_w_qkv, on.tolerance);
    check_close(got.d_w_out, expected.d_w_out, on.tolerance);
    CHECK_THROWS_AS(
        linear_attention_bwd(
            on(d_out), on(x), gamma.to(kDevice), on(w_qkv), on(w_out), b_out.to(kDevice), options, needs,
            Tensor::zeros({5}, DType::f32, kDevice)),
        ShapeError);
  }
}

TEST_CASE("norms_on_device/errors") {
  const Tensor x = Tensor::zeros({1, 1, 2, 2, 4}, DType::bf16, kDevice), gamma = Tensor::zeros({4});
  CHECK_THROWS_WITH_AS(
      layer_norm_fwd(x, gamma, {}),
      ("layer_norm: gamma: expected a tensor on " + kDevice.to_string() + ", got one on cpu").c_str(), DeviceError);
  CHECK_THROWS_AS(layer_norm_fwd(x, gamma.to(DType::bf16).to(kDevice), {}), DTypeError);
  CHECK_THROWS_AS(layer_norm_fwd(Tensor::zeros({2, 4}, DType::f64, kDevice), gamma.to(kDevice), {}), DTypeError);
  CHECK_THROWS_WITH_AS(
      spatial_attention_fwd(
          x, gamma.to(kDevice), Tensor::zeros({195, 4}, DType::bf16, kDevice),
          Tensor::zeros({4, 65}, DType::bf16, kDevice), {.heads = 1, .head_dim = 65}),
      "spatial_attention: options: expected head_dim <= 64 on a device, got 65", ShapeError);
}
#endif
