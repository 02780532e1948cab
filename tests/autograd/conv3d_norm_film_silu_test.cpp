// tests/autograd/conv3d_norm_film_silu_test.cpp -- a convolution and the norm behind it: gradients, and one kernel
// instead of two on a device
#include "autograd/ops/conv3d_norm_film_silu.h"

#include <string>
#include <utility>
#include <vector>

#include "autograd/ops/conv3d.h"
#include "autograd/ops/rms_norm_film_silu.h"
#include "kernels/op_timer.h"
#include "tensor/ops/conv3d_norm_film_silu.h"
#include "tests/autograd/device_run.h"
#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

namespace {

constexpr Conv3dOptions kSame{.padding = {0, 1, 1}};

/// Inputs: x, w, b, x2, gamma, film, residual.
Var one(const std::vector<Var>& in) {
  return conv3d_norm_film_silu(in[0], in[1], in[2], kSame, in[3], in[4], in[5], in[6]);
}
Var two(const std::vector<Var>& in) {
  return rms_norm_film_silu(conv3d(in[0], in[1], in[2], kSame, in[3]), in[4], in[5], in[6]);
}

std::vector<Tensor> operands(DType dtype, std::int64_t I, std::int64_t I2, std::int64_t O) {
  const Shape in{2, 2, 3, 4, I}, out{2, 2, 3, 4, O};
  return {random_tensor(in, dtype, 1),  random_tensor({O, 1, 3, 3, I + I2}, dtype, 2),
          random_tensor({O}, dtype, 3), random_tensor(in.with_cols(I2), dtype, 4),
          random_tensor({O}, dtype, 5), random_tensor({2, 2, 2 * O}, dtype, 6),
          random_tensor(out, dtype, 7)};
}

}  // namespace

TEST_CASE("conv3d_norm_film_silu/gradient/with_and_without_what_may_be_absent") {
  const std::vector<Tensor> all = operands(DType::f64, 3, 2, 4);
  CHECK(gradient_errors(one, all) == "");
  for (const std::size_t absent : {2, 3, 5, 6}) {
    std::vector<Tensor> some = all;
    some[absent] = Tensor();
    if (absent == 3) some[1] = random_tensor({4, 1, 3, 3, 3}, DType::f64, 2);
    CHECK(gradient_errors(one, some) == "");
  }
}

TEST_CASE("conv3d_norm_film_silu/cpu/is the two ops to the bit") {
  std::vector<Var> in;
  for (const Tensor& t : operands(DType::f32, 5, 3, 6)) in.emplace_back(t);
  kernels::set_op_timing(kernels::Collect::sums);
  const Var out = one(in);
  const auto times = kernels::op_times();
  kernels::set_op_timing(kernels::Collect::nothing);
  CHECK(same_bits(out.value(), two(in).value()));
  CHECK(times.contains("conv3d"));
  CHECK(times.contains("rms_norm_film_silu"));
  CHECK_FALSE(times.contains("conv3d_norm_film_silu"));
  CHECK_FALSE(conv3d_norm_film_silu_is_one_kernel(in[0].value(), in[1].value(), kSame, in[3].value()));
  CHECK_THROWS_WITH_AS(
      conv3d_norm_film_silu_fwd(
          in[0].value(), in[1].value(), in[2].value(), kSame, in[3].value(), in[4].value(), {}, {}, false),
      "conv3d_norm_film_silu: expected bf16 operands on a device whose kernel for this convolution holds whole rows | "
      "call conv3d, then rms_norm_film_silu_fwd",
      DeviceError);
}

#if AVID_HAVE_SIM
namespace {

const Device kDevice = device_under_test();

/// The operands on the device: activations in `dtype`, parameters in f32. FiLM as the linear layer leaves it.
std::vector<Tensor> on_device(std::vector<Tensor> operands, DType dtype) {
  for (const std::size_t i : {0, 3, 5, 6}) operands[i] = operands[i].to(dtype);
  for (Tensor& t : operands) t = t.to(kDevice);
  return operands;
}

void check_same(const DeviceRun& a, const DeviceRun& b) {
  CHECK(same_bits(a.out, b.out));
  CHECK(gaps_are_zero(a.out));
  REQUIRE(a.grads.size() == b.grads.size());
  for (std::size_t i = 0; i < a.grads.size(); ++i) {
    CAPTURE(i);
    REQUIRE(a.grads[i].defined() == b.grads[i].defined());
    if (a.grads[i].defined()) CHECK(same_bits(a.grads[i], b.grads[i]));
  }
}

const std::vector<bool> kAll(7, true), kNone(7, false);

}  // namespace

TEST_CASE("conv3d_norm_film_silu/device/one kernel gives the bits of two, and their gradients") {
  const std::vector<Tensor> in = on_device(operands(DType::f32, 8, 5, 11), DType::bf16);
  REQUIRE(conv3d_norm_film_silu_is_one_kernel(in[0], in[1].to(DType::bf16), kSame, in[3]));
  const DeviceRun reference = run(two, in, kAll), got = run(one, in, kAll);
  CHECK(reference.times.contains("conv3d"));
  CHECK(got.times.contains("conv3d_norm_film_silu"));
  CHECK_FALSE(got.times.contains("conv3d"));
  CHECK_FALSE(got.times.contains("rms_norm_film_silu"));
  check_same(got, reference);
  CHECK(same_bits(run(one, in, kNone).out, reference.out));
  for (const std::size_t absent : {2, 3, 5, 6}) {
    std::vector<Tensor> some = in;
    some[absent] = Tensor();
    if (absent == 3) some[1] = random_tensor({11, 1, 3, 3, 8}, DType::f32, 2).to(kDevice);
    check_same(run(one, some, kAll), run(two, some, kAll));
  }
  for (std::size_t only = 0; only < 7; ++only) {  // one gradient each
    std::vector<bool> wants = kNone;
    wants[only] = true;
    check_same(run(one, in, wants), run(two, in, wants));
  }
}

TEST_CASE("conv3d_norm_film_silu/device/f32, and rows that no block holds, take two kernels") {
  const std::vector<Tensor> f32 = on_device(operands(DType::f32, 8, 5, 11), DType::f32);
  CHECK(run(one, f32, kNone).times.contains("rms_norm_film_silu"));
  check_same(run(one, f32, kAll), run(two, f32, kAll));
  const std::vector<Tensor> wide = on_device(operands(DType::f32, 3, 2, 300), DType::bf16);
  CHECK(run(one, wide, kNone).times.contains("rms_norm_film_silu"));
  check_same(run(one, wide, kAll), run(two, wide, kAll));
}

TEST_CASE("conv3d_norm_film_silu/device/saves what the two save, and writes u only for a gradient") {
  const std::vector<Tensor> in = on_device(operands(DType::f32, 8, 5, 11), DType::bf16);
  const auto saved = [&](auto&& f, bool grad) {
    std::vector<Var> vars;
    for (const Tensor& t : in) vars.emplace_back(t, grad);
    const std::size_t before = saved_stats().bytes;
    const Var out = f(vars);
    return saved_stats().bytes - before;
  };
  CHECK(saved(one, true) == saved(two, true));
  CHECK(saved(one, false) == 0);

  // x 8, x2 5, out, residual 11 channels of bf16 at 48 positions; w's copy; bias, gamma f32; FiLM once in each type.
  constexpr double kP = 2 * 2 * 3 * 4, kX = kP * 16, kOut = kP * 32, kW = 11 * 9 * 16 * 2;
  constexpr double kVectors = 2 * 12 * 4, kFilm = 4 * 24 * (2 + 4);
  const auto cost = run(one, in, kNone).times.at("conv3d_norm_film_silu"),
             two_rows = run(two, in, kNone).times.at("conv3d");
  CHECK(cost.bytes == 2 * kX + kW + kVectors + kFilm + 2 * kOut);
  CHECK(run(one, in, kAll).times.at("conv3d_norm_film_silu").bytes == cost.bytes + kOut);
  const auto norm = run(two, in, kNone).times.at("rms_norm_film_silu");
  CHECK(cost.flops == two_rows.flops + norm.flops);
}

TEST_CASE("conv3d_norm_film_silu/device/in a recompute region") {
  const std::vector<Tensor> in = on_device(operands(DType::f32, 8, 5, 11), DType::bf16);
  check_same(
      run([](const std::vector<Var>& vars) { return recompute("test", one, vars); }, in, kAll), run(two, in, kAll));
}
#endif
