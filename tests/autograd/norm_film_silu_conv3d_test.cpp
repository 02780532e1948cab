// tests/autograd/norm_film_silu_conv3d_test.cpp -- a ResNet block's convolutions with their norms: gradients, and
// one kernel for what lies between on a device
#include "autograd/ops/norm_film_silu_conv3d.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "autograd/ops/conv3d.h"
#include "autograd/ops/conv3d_norm_film_silu.h"
#include "autograd/ops/rms_norm_film_silu.h"
#include "kernels/op_timer.h"
#include "kernels/op_watch.h"
#include "tensor/ops/norm_film_silu_conv3d.h"
#include "tests/autograd/device_run.h"
#include "tests/doctest.h"
#include "tests/gradcheck.h"

using namespace avid;
using namespace avid::test;

namespace {

constexpr Conv3dOptions kSame{.padding = {0, 1, 1}};

enum Operand : std::size_t { kX, kW1, kB1, kX2, kGamma1, kFilm, kW2, kB2, kGamma2, kResidual, kCount };

Var chained(const std::vector<Var>& in) {
  return conv3d_norm_film_silu(
      conv3d_norm_film_silu_for_conv3d(in[kX], in[kW1], in[kB1], kSame, in[kX2], in[kGamma1], in[kFilm]), in[kW2],
      in[kB2], kSame, in[kGamma2], {}, in[kResidual]);
}
Var composed(const std::vector<Var>& in) {
  const Var hidden = rms_norm_film_silu(conv3d(in[kX], in[kW1], in[kB1], kSame, in[kX2]), in[kGamma1], in[kFilm], {});
  return rms_norm_film_silu(conv3d(hidden, in[kW2], in[kB2], kSame), in[kGamma2], {}, in[kResidual]);
}

/// I + I2 channels to M between the two convolutions, to O.
std::vector<Tensor> operands(DType dtype, std::int64_t I, std::int64_t I2, std::int64_t M, std::int64_t O) {
  const Shape in{2, 2, 3, 4, I};
  std::vector<Tensor> t(kCount);
  t[kX] = random_tensor(in, dtype, 1), t[kX2] = random_tensor(in.with_cols(I2), dtype, 2);
  t[kW1] = random_tensor({M, 1, 3, 3, I + I2}, dtype, 3), t[kB1] = random_tensor({M}, dtype, 4);
  t[kGamma1] = random_tensor({M}, dtype, 5), t[kFilm] = random_tensor({2, 2, 2 * M}, dtype, 6);
  t[kW2] = random_tensor({O, 1, 3, 3, M}, dtype, 7), t[kB2] = random_tensor({O}, dtype, 8);
  t[kGamma2] = random_tensor({O}, dtype, 9), t[kResidual] = random_tensor(in.with_cols(O), dtype, 10);
  return t;
}

}  // namespace

TEST_CASE("norm_film_silu_conv3d/gradient/of the chain, with and without what may be absent") {
  const std::vector<Tensor> all = operands(DType::f64, 2, 1, 3, 2);
  CHECK(gradient_errors(chained, all) == "");
  for (const std::size_t absent : {kB1, kFilm, kB2, kResidual}) {
    std::vector<Tensor> some = all;
    some[absent] = Tensor();
    CHECK(gradient_errors(chained, some) == "");
  }
}

TEST_CASE("norm_film_silu_conv3d/cpu/is the ops one by one") {
  const std::vector<Tensor> in = operands(DType::f32, 3, 2, 4, 5);
  CHECK_FALSE(norm_film_silu_conv3d_bwd_is_one_kernel(in[kResidual], in[kW2], kSame));
  CHECK_THROWS_WITH_AS(
      norm_film_silu_conv3d_bwd(in[kResidual], in[kW2], kSame, in[kResidual], in[kGamma1], {}, {}),
      "norm_film_silu_conv3d: expected bf16 operands on a device whose kernel for this data gradient holds whole rows "
      "| "
      "call conv3d_bwd_data, then rms_norm_film_silu_bwd",
      DeviceError);
}

#if AVID_HAVE_SIM
namespace {

const Device kDevice = device_under_test();

/// The operands on the device: activations in `dtype`, parameters in f32. FiLM as the linear layer leaves it.
std::vector<Tensor> on_device(std::vector<Tensor> operands, DType dtype) {
  for (const std::size_t i : {kX, kX2, kFilm, kResidual})
    if (operands[i].defined()) operands[i] = operands[i].to(dtype);
  for (Tensor& t : operands)
    if (t.defined()) t = t.to(kDevice);
  return operands;
}

/// The sums over rows between the two convolutions are added in another order, everything else has the same bits.
void check_same(const DeviceRun& a, const DeviceRun& b) {
  CHECK(same_bits(a.out, b.out));
  REQUIRE(a.grads.size() == b.grads.size());
  for (std::size_t i = 0; i < a.grads.size(); ++i) {
    CAPTURE(i);
    REQUIRE(a.grads[i].defined() == b.grads[i].defined());
    if (!a.grads[i].defined()) continue;
    if (i == kGamma1)
      CHECK(rel_l2(a.grads[i], b.grads[i]) < 1e-6);
    else if (i == kFilm)
      CHECK(rel_l2(a.grads[i], b.grads[i]) < 1e-3);  // rounded to bf16: a few of them to the other side
    else
      CHECK(same_bits(a.grads[i], b.grads[i]));
  }
}

bool took_one_kernel(const DeviceRun& r) { return r.times.contains("norm_film_silu_conv3d_bwd"); }

const std::vector<bool> kAll(kCount, true), kNone(kCount, false);

}  // namespace

TEST_CASE("norm_film_silu_conv3d/device/one kernel gives the gradients of two") {
  const std::vector<Tensor> in = on_device(operands(DType::f32, 8, 5, 13, 11), DType::bf16);
  const DeviceRun reference = run(composed, in, kAll), got = run(chained, in, kAll);
  CHECK(took_one_kernel(got));
  CHECK(got.times.at("rms_norm_film_silu_bwd").calls == 1);  // of the second norm
  CHECK(reference.times.at("rms_norm_film_silu_bwd").calls == 2);
  check_same(got, reference);
  for (const std::size_t absent : {kB1, kX2, kFilm, kB2, kResidual}) {
    std::vector<Tensor> some = in;
    some[absent] = Tensor();
    if (absent == kX2) some[kW1] = random_tensor({13, 1, 3, 3, 8}, DType::f32, 3).to(kDevice);
    check_same(run(chained, some, kAll), run(composed, some, kAll));
  }
  CHECK(same_bits(run(chained, in, kNone).out, reference.out));
}

TEST_CASE("norm_film_silu_conv3d/device/each gradient alone") {
  const std::vector<Tensor> in = on_device(operands(DType::f32, 8, 5, 13, 11), DType::bf16);
  for (std::size_t only = 0; only < kCount; ++only) {
    CAPTURE(only);
    std::vector<bool> wants = kNone;
    wants[only] = true;
    const DeviceRun got = run(chained, in, wants);
    check_same(got, run(composed, in, wants));
    CHECK(took_one_kernel(got) == (only < kW2));  // through the norm only where something before it asks
    const bool of_norms = only == kGamma1 || only == kFilm || only >= kGamma2;
    CHECK(got.times.contains("conv3d_bwd") == !of_norms);
  }
}

TEST_CASE("norm_film_silu_conv3d/device/f32, and rows that no block holds, take two kernels") {
  const std::vector<Tensor> f32 = on_device(operands(DType::f32, 4, 3, 6, 5), DType::f32);
  const DeviceRun of_f32 = run(chained, f32, kAll);
  CHECK_FALSE(took_one_kernel(of_f32));
  check_same(of_f32, run(composed, f32, kAll));
  const std::vector<Tensor> wide = on_device(operands(DType::f32, 3, 2, 300, 8), DType::bf16);
  const DeviceRun of_wide = run(chained, wide, kAll);
  CHECK_FALSE(took_one_kernel(of_wide));
  check_same(of_wide, run(composed, wide, kAll));
}

TEST_CASE("norm_film_silu_conv3d/device/saves what the two save") {
  const std::vector<Tensor> in = on_device(operands(DType::f32, 8, 5, 13, 11), DType::bf16);
  const auto saved = [&](auto&& f, bool grad) {
    std::vector<Var> vars;
    for (const Tensor& t : in) vars.emplace_back(t, grad);
    const std::size_t before = saved_stats().bytes;
    const Var out = f(vars);
    return saved_stats().bytes - before;
  };
  CHECK(saved(chained, true) == saved(composed, true));
  CHECK(saved(chained, false) == 0);
}

TEST_CASE("norm_film_silu_conv3d/device/in a recompute region") {
  const std::vector<Tensor> in = on_device(operands(DType::f32, 8, 5, 13, 11), DType::bf16);
  const DeviceRun got = run([](const std::vector<Var>& vars) { return recompute("test", chained, vars); }, in, kAll);
  CHECK(took_one_kernel(got));
  check_same(got, run(composed, in, kAll));
}

TEST_CASE("norm_film_silu_conv3d/device/counts the work of the two") {
  const std::vector<Tensor> in = on_device(operands(DType::f32, 8, 5, 13, 11), DType::bf16);
  const double positions = 2 * 2 * 3 * 4;
  CHECK(
      run(chained, in, kAll).times.at("norm_film_silu_conv3d_bwd").flops ==
      2 * positions * 9 * 13 * 11 + 30 * positions * 13);
}

TEST_CASE("norm_film_silu_conv3d/device/who times single ops is told their sizes and passes") {
  struct : kernels::OpClock {
    void begin() override {}
    double end() override { return 1; }
  } clock;
  std::map<std::string, std::vector<std::map<std::string, std::int64_t>>> seen;
  kernels::set_op_watch(&clock, [&](const kernels::WatchedCall& call) {
    if (call.flops > 0) seen[call.op].push_back(call.sizes);
  });
  run(chained, on_device(operands(DType::f32, 8, 5, 13, 11), DType::bf16), kAll);
  kernels::set_op_watch(nullptr);
  using Sizes = std::map<std::string, std::int64_t>;
  const auto sizes = [](std::int64_t I, std::int64_t I2, std::int64_t O, const Sizes& more) {
    Sizes all{{"clips", 2},    {"frames", 2},     {"height", 3},  {"width", 4},
              {"channels", I}, {"channels2", I2}, {"outputs", O}, {"padding_frames", 0}};
    for (const char* side : {"_height", "_width"})
      all.insert({{std::string("kernel") + side, 3}, {std::string("padding") + side, 1}});
    for (const char* name : {"kernel_frames", "stride_frames", "stride_height", "stride_width"}) all[name] = 1;
    all.insert(more.begin(), more.end());
    return all;
  };
  const Sizes first = sizes(8, 5, 13, {{"fwd", 1}, {"film", 1}, {"residual", 0}}),
              second = sizes(13, 0, 11, {{"fwd", 1}, {"film", 0}, {"residual", 1}});
  CHECK(seen["conv3d_norm_film_silu"] == std::vector{first, second});
  CHECK(seen["norm_film_silu_conv3d_bwd"] == std::vector{sizes(13, 0, 11, {{"data", 1}, {"film", 1}})});
  const Sizes weights = sizes(13, 0, 11, {{"weights", 1}}), both = sizes(8, 5, 13, {{"data", 1}, {"weights", 1}});
  CHECK(seen["conv3d_bwd"] == std::vector{weights, both});
}
#endif
