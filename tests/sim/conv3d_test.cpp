// tests/sim/conv3d_test.cpp -- conv3d's device kernels in the simulator, against the f64 reference
#include "kernels/conv3d.h"

#include "kernels/device/conv_tiles.h"
#include "tests/sim/conv_support.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::Conv3dSize;
using kernels::Rows;
using kernels::Sim;
using kernels::Stream;

struct Geometry {
  std::array<std::int64_t, 3> in, kernel{1, 1, 1}, stride{1, 1, 1}, padding{};
};

Conv3dSize size_of(const Geometry& g, std::int64_t B, std::int64_t I, std::int64_t I2, std::int64_t O) {
  Conv3dSize s{
      .B = B, .in = g.in, .I = I, .I2 = I2, .O = O, .kernel = g.kernel, .stride = g.stride, .padding = g.padding};
  for (std::size_t d = 0; d < 3; ++d) s.out[d] = (g.in[d] + 2 * g.padding[d] - g.kernel[d]) / g.stride[d] + 1;
  return s;
}

std::string name_of(const Conv3dSize& s) {
  const auto three = [](const auto& v) {
    return std::to_string(v[0]) + "x" + std::to_string(v[1]) + "x" + std::to_string(v[2]);
  };
  return "B" + std::to_string(s.B) + " in " + three(s.in) + " kernel " + three(s.kernel) + " stride " +
         three(s.stride) + " padding " + three(s.padding) + " I" + std::to_string(s.I) + "+" + std::to_string(s.I2) +
         " O" + std::to_string(s.O);
}

/// Dense f64 rows for the reference.
Rows<const double> dense(const std::vector<double>& v, std::int64_t cols) {
  return {v.empty() ? nullptr : v.data(), cols};
}

/// All three passes of one size. The reference is conv3d_ref in f64 on the same values.
template <class Elem>
void check_conv(const Conv3dSize& s) {
  INFO((sizeof(Elem) == 2 ? "bf16 " : "f32 ") << name_of(s));
  const std::int64_t in = s.in_positions(), out = s.out_positions(), taps = s.taps(), I = s.I + s.I2;
  const auto x = DeviceRows<Elem>::random(in, s.I, 1), w = DeviceRows<Elem>::random(s.O * taps, I, 3);
  const auto x2 = s.I2 > 0 ? DeviceRows<Elem>::random(in, s.I2, 2) : DeviceRows<Elem>();
  const auto bias = DeviceRows<float>::random(1, s.O, 4);
  const auto d_out = DeviceRows<Elem>::random(out, s.O, 5);
  const std::vector<double> x_ref = x.values(), x2_ref = x2.values(), w_ref = w.values(), bias_ref = bias.values(),
                            d_out_ref = d_out.values();

  std::vector<double> expected(static_cast<std::size_t>(out * s.O));
  kernels::conv3d_ref_fwd<double>(
      s, dense(x_ref, s.I), dense(x2_ref, s.I2), dense(w_ref, I), bias_ref.data(), {expected.data(), s.O});
  auto got = DeviceRows<Elem>::poisoned(out, s.O);
  Workspace fwd_space(kernels::conv3d_fwd_workspace_bytes<Elem>(s));
  kernels::conv3d_fwd<Sim, Elem>(
      Stream{}, s, x.rows(), x2.rows(), w.rows(), bias.rows().data, got.rows(), fwd_space.data());
  CHECK(worst_error(got.values(), expected, kUnit<Elem>) < 1.0);
  CHECK(got.gaps_are_zero());

  std::vector<double> d_x_ref(static_cast<std::size_t>(in * s.I)), d_x2_ref(static_cast<std::size_t>(in * s.I2));
  kernels::conv3d_ref_bwd_data<double>(
      s, dense(d_out_ref, s.O), dense(w_ref, I), {d_x_ref.data(), s.I}, {s.I2 > 0 ? d_x2_ref.data() : nullptr, s.I2});
  auto d_x = DeviceRows<Elem>::poisoned(in, s.I);
  auto d_x2 = s.I2 > 0 ? DeviceRows<Elem>::poisoned(in, s.I2) : DeviceRows<Elem>();
  Workspace data_space(kernels::conv3d_bwd_data_workspace_bytes<Elem>(s));
  kernels::conv3d_bwd_data<Sim, Elem>(Stream{}, s, d_out.rows(), w.rows(), d_x.rows(), d_x2.rows(), data_space.data());
  CHECK(worst_error(d_x.values(), d_x_ref, kUnit<Elem>) < 1.0);
  CHECK(worst_error(d_x2.values(), d_x2_ref, kUnit<Elem>) < 1.0);
  CHECK(d_x.gaps_are_zero());
  CHECK(d_x2.gaps_are_zero());
  // Again, beginning at what other uses of x and x2 contributed.
  const auto add_x = DeviceRows<Elem>::random(in, s.I, 8);
  const auto add_x2 = s.I2 > 0 ? DeviceRows<Elem>::random(in, s.I2, 9) : DeviceRows<Elem>();
  add_to(d_x_ref, add_x.values());
  add_to(d_x2_ref, add_x2.values());
  kernels::conv3d_bwd_data<Sim, Elem>(
      Stream{}, s, d_out.rows(), w.rows(), d_x.rows(), d_x2.rows(), data_space.data(), add_x.rows(), add_x2.rows());
  CHECK(worst_error(d_x.values(), d_x_ref, kUnit<Elem>) < 1.0);
  CHECK(worst_error(d_x2.values(), d_x2_ref, kUnit<Elem>) < 1.0);

  std::vector<double> d_w_ref(static_cast<std::size_t>(s.O * taps * I)), d_bias_ref(static_cast<std::size_t>(s.O));
  kernels::conv3d_ref_bwd_weight<double>(
      s, dense(d_out_ref, s.O), dense(x_ref, s.I), dense(x2_ref, s.I2), {d_w_ref.data(), I}, d_bias_ref.data());
  DeviceRows<float> d_w(s.O * taps, I), d_bias = DeviceRows<float>::poisoned(1, s.O);
  Workspace weight_space(kernels::conv3d_bwd_weight_workspace_bytes<Elem>(s));
  kernels::conv3d_bwd_weight<Sim, Elem>(
      Stream{}, s, d_out.rows(), x.rows(), x2.rows(), d_w.rows(), d_bias.rows().data, weight_space.data());
  CHECK(worst_error(d_w.values(), d_w_ref, kSumUnit<Elem>) < 1.0);  // gradients of parameters are f32
  CHECK(d_w.gaps_are_zero());
  CHECK(worst_error(d_bias.values(), d_bias_ref, kUnit<float>) < 1.0);
}

constexpr Geometry k3x3{.in = {1, 5, 7}, .kernel = {1, 3, 3}, .padding = {0, 1, 1}};

}  // namespace

TEST_CASE("conv3d/device/small_in_every_order") {
  for_each_order([] {
    check_conv<bf16>(size_of(k3x3, 1, 9, 0, 4));
    check_conv<float>(size_of(k3x3, 1, 5, 3, 3));
    check_conv<bf16>(
        size_of({.in = {2, 6, 5}, .kernel = {1, 4, 4}, .stride = {1, 2, 2}, .padding = {0, 1, 1}}, 1, 10, 0, 12));
  });
}

TEST_CASE_TEMPLATE("conv3d/device/channels", Elem, float, bf16) {
  for (const auto& [I, I2, O] :
       {std::array<std::int64_t, 3>{1, 0, 1},
        {3, 0, 50},
        {9, 0, 16},
        {12, 0, 3},
        {50, 50, 8},
        {90, 0, 1},
        {100, 36, 100},
        {8, 7, 90}})
    check_conv<Elem>(size_of(k3x3, 1, I, I2, O));
}

TEST_CASE_TEMPLATE("conv3d/device/geometry", Elem, float, bf16) {
  check_conv<Elem>(size_of({.in = {3, 7, 9}}, 2, 5, 0, 6));                                             // 1x1
  check_conv<Elem>(size_of({.in = {3, 4, 5}, .kernel = {3, 1, 1}, .padding = {1, 0, 0}}, 2, 6, 0, 5));  // time only
  check_conv<Elem>(size_of({.in = {3, 4, 5}, .kernel = {3, 3, 3}, .padding = {1, 1, 1}}, 1, 6, 0, 5));
  check_conv<Elem>(size_of({.in = {1, 5, 6}, .kernel = {1, 3, 2}, .padding = {0, 1, 1}}, 1, 6, 0, 5));
  check_conv<Elem>(
      size_of({.in = {1, 9, 8}, .kernel = {1, 7, 7}, .padding = {0, 3, 3}}, 1, 9, 0, 8));  // input convolution
  check_conv<Elem>(
      size_of({.in = {2, 8, 6}, .kernel = {1, 4, 4}, .stride = {1, 2, 2}, .padding = {0, 1, 1}}, 1, 12, 0, 10));
  check_conv<Elem>(size_of(
      {.in = {4, 7, 8}, .kernel = {2, 1, 3}, .stride = {2, 3, 2}, .padding = {1, 0, 2}}, 1, 4, 3,
      6));                                                                        // stride > kernel
  check_conv<Elem>(size_of({.in = {1, 3, 3}, .kernel = {1, 3, 3}}, 1, 8, 0, 8));  // one position
}

TEST_CASE_TEMPLATE("conv3d/device/empty_and_absent", Elem, float, bf16) {
  Conv3dSize s = size_of(k3x3, 0, 5, 0, 6);
  const auto w = DeviceRows<Elem>::random(s.O * s.taps(), s.I, 1);
  DeviceRows<float> d_w(s.O * s.taps(), s.I), d_bias = DeviceRows<float>::poisoned(1, s.O);
  kernels::conv3d_fwd<Sim, Elem>(Stream{}, s, {}, {}, w.rows(), nullptr, {}, nullptr);
  for (std::int64_t r = 0; r < s.O * s.taps(); ++r) std::fill_n(d_w.at(r), s.I, NAN);
  kernels::conv3d_bwd_weight<Sim, Elem>(Stream{}, s, {}, {}, {}, d_w.rows(), d_bias.rows().data, nullptr);
  for (double v : d_w.values()) CHECK(v == 0.0);
  for (double v : d_bias.values()) CHECK(v == 0.0);

  // One of the two gradients only, and bias gradients without anything else.
  s = size_of(k3x3, 1, 5, 4, 6);
  const auto d_out = DeviceRows<Elem>::random(s.out_positions(), s.O, 2);
  const auto weights = DeviceRows<Elem>::random(s.O * s.taps(), s.I + s.I2, 1);
  auto both = DeviceRows<Elem>::poisoned(s.in_positions(), s.I2), alone = both,
       first = DeviceRows<Elem>::poisoned(s.in_positions(), s.I);
  Workspace space(kernels::conv3d_bwd_data_workspace_bytes<Elem>(s));
  kernels::conv3d_bwd_data<Sim, Elem>(
      Stream{}, s, d_out.rows(), weights.rows(), first.rows(), both.rows(), space.data());
  kernels::conv3d_bwd_data<Sim, Elem>(Stream{}, s, d_out.rows(), weights.rows(), {}, alone.rows(), space.data());
  CHECK(both.bytes() == alone.bytes());
}

TEST_CASE("conv3d/device/rule/a tile's cost counts whole blocks, and whole waves of few") {
  const auto cost = [](std::int64_t M, std::int64_t N, std::int64_t splits = 1) {
    return kernels::tile_cost(M, N, splits, 8, 128, 96, 0.5);
  };
  const double wave = 128 * 96 / 0.5;
  CHECK(cost(1, 1) == wave);
  CHECK(cost(8 * 128, 96) == wave);
  CHECK(cost(4 * 128, 96, 2) == wave);
  CHECK(cost(8 * 128 + 1, 96) == 2 * wave);
  CHECK(cost(4 * 128, 2 * 96 + 1) == 2 * wave);
  CHECK(cost(32 * 128, 96) == 4 * wave);
  CHECK(cost(33 * 128, 96) == 33 / 8.0 * wave);
}

TEST_CASE("conv3d/device/rejects") {
  const Conv3dSize s = size_of({.in = {1, 20, 20}, .kernel = {1, 13, 1}}, 1, 8, 0, 8);
  const auto x = DeviceRows<float>::random(s.in_positions(), 8, 1), w = DeviceRows<float>::random(8 * 13, 8, 2);
  auto out = DeviceRows<float>::poisoned(s.out_positions(), 8);
  CHECK_THROWS_WITH_AS(
      (kernels::conv3d_fwd<Sim, float>(Stream{}, s, x.rows(), {}, w.rows(), nullptr, out.rows(), nullptr)),
      "conv3d_fwd: kernel in dimension y: at most 11 on a device, got 13", kernels::GpuError);
  const Conv3dSize row = size_of({.in = {1, 1, 1}}, 1, 8, 0, 8);
  CHECK_THROWS_AS(
      (kernels::conv3d_fwd<Sim, float>(Stream{}, row, {x.at(0) + 1, 8}, {}, w.rows(), nullptr, out.rows(), nullptr)),
      kernels::GpuError);
}

}  // namespace avid::test
