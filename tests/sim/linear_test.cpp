// tests/sim/linear_test.cpp -- linear's device kernels in the simulator, against the f64 reference
#include "kernels/linear.h"

#include "tests/sim/conv_support.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::LinearSize;
using kernels::Rows;
using kernels::Sim;
using kernels::Stream;

Rows<const double> dense(const std::vector<double>& v, std::int64_t cols) {
  return {v.empty() ? nullptr : v.data(), cols};
}

/// All three passes of one size, with bias and residual, against linear_ref in f64 on the same values.
template <class Elem>
void check_linear(const LinearSize& s) {
  INFO((sizeof(Elem) == 2 ? "bf16 P" : "f32 P") << s.P << " I" << s.I << "+" << s.I2 << " O" << s.O);
  const std::int64_t I = s.I + s.I2;
  const auto x = DeviceRows<Elem>::random(s.P, s.I, 1), w = DeviceRows<Elem>::random(s.O, I, 3);
  const auto x2 = s.I2 > 0 ? DeviceRows<Elem>::random(s.P, s.I2, 2) : DeviceRows<Elem>();
  const auto bias = DeviceRows<float>::random(1, s.O, 4);
  const auto residual = DeviceRows<Elem>::random(s.P, s.O, 6), d_out = DeviceRows<Elem>::random(s.P, s.O, 5);
  const std::vector<double> x_ref = x.values(), x2_ref = x2.values(), w_ref = w.values(), bias_ref = bias.values(),
                            residual_ref = residual.values(), d_out_ref = d_out.values();

  std::vector<double> expected(static_cast<std::size_t>(s.P * s.O));
  kernels::linear_ref_fwd<double>(
      s, dense(x_ref, s.I), dense(x2_ref, s.I2), dense(w_ref, I), bias_ref.data(), dense(residual_ref, s.O),
      {expected.data(), s.O});
  auto got = DeviceRows<Elem>::poisoned(s.P, s.O);
  Workspace fwd_space(kernels::linear_fwd_workspace_bytes<Elem>(s));
  kernels::linear_fwd<Sim, Elem>(
      Stream{}, s, x.rows(), x2.rows(), w.rows(), bias.rows().data, residual.rows(), got.rows(), fwd_space.data());
  CHECK(worst_error(got.values(), expected, kUnit<Elem>) < 1.0);
  CHECK(got.gaps_are_zero());

  std::vector<double> d_x_ref(static_cast<std::size_t>(s.P * s.I)), d_x2_ref(static_cast<std::size_t>(s.P * s.I2));
  kernels::linear_ref_bwd_data<double>(
      s, dense(d_out_ref, s.O), dense(w_ref, I), {d_x_ref.data(), s.I}, {s.I2 > 0 ? d_x2_ref.data() : nullptr, s.I2});
  auto d_x = DeviceRows<Elem>::poisoned(s.P, s.I);
  auto d_x2 = s.I2 > 0 ? DeviceRows<Elem>::poisoned(s.P, s.I2) : DeviceRows<Elem>();
  Workspace data_space(kernels::linear_bwd_data_workspace_bytes<Elem>(s));
  kernels::linear_bwd_data<Sim, Elem>(Stream{}, s, d_out.rows(), w.rows(), d_x.rows(), d_x2.rows(), data_space.data());
  CHECK(worst_error(d_x.values(), d_x_ref, kUnit<Elem>) < 1.0);
  CHECK(worst_error(d_x2.values(), d_x2_ref, kUnit<Elem>) < 1.0);
  CHECK(d_x.gaps_are_zero());
  CHECK(d_x2.gaps_are_zero());
  // Again, beginning at what other uses of x and x2 contributed.
  const auto add_x = DeviceRows<Elem>::random(s.P, s.I, 8);
  const auto add_x2 = s.I2 > 0 ? DeviceRows<Elem>::random(s.P, s.I2, 9) : DeviceRows<Elem>();
  add_to(d_x_ref, add_x.values());
  add_to(d_x2_ref, add_x2.values());
  kernels::linear_bwd_data<Sim, Elem>(
      Stream{}, s, d_out.rows(), w.rows(), d_x.rows(), d_x2.rows(), data_space.data(), add_x.rows(), add_x2.rows());
  CHECK(worst_error(d_x.values(), d_x_ref, kUnit<Elem>) < 1.0);
  CHECK(worst_error(d_x2.values(), d_x2_ref, kUnit<Elem>) < 1.0);

  std::vector<double> d_w_ref(static_cast<std::size_t>(s.O * I)), d_bias_ref(static_cast<std::size_t>(s.O));
  kernels::linear_ref_bwd_weight<double>(
      s, dense(d_out_ref, s.O), dense(x_ref, s.I), dense(x2_ref, s.I2), {d_w_ref.data(), I}, d_bias_ref.data());
  DeviceRows<float> d_w(s.O, I), d_bias = DeviceRows<float>::poisoned(1, s.O);
  Workspace weight_space(kernels::linear_bwd_weight_workspace_bytes<Elem>(s));
  kernels::linear_bwd_weight<Sim, Elem>(
      Stream{}, s, d_out.rows(), x.rows(), x2.rows(), d_w.rows(), d_bias.rows().data, weight_space.data());
  CHECK(worst_error(d_w.values(), d_w_ref, kSumUnit<Elem>) < 1.0);  // gradients of parameters are f32
  CHECK(d_w.gaps_are_zero());
  CHECK(worst_error(d_bias.values(), d_bias_ref, kUnit<float>) < 1.0);
}

}  // namespace

TEST_CASE("linear/device/small_in_every_order") {
  for_each_order([] {
    check_linear<bf16>({.P = 37, .I = 9, .I2 = 4, .O = 21});
    check_linear<float>({.P = 35, .I = 7, .I2 = 3, .O = 18});
  });
}

TEST_CASE_TEMPLATE("linear/device/sizes", Elem, float, bf16) {
  check_linear<Elem>({.P = 1, .I = 1, .I2 = 0, .O = 1});
  check_linear<Elem>({.P = 3, .I = 50, .I2 = 0, .O = 100});
  check_linear<Elem>({.P = 33, .I = 90, .I2 = 50, .O = 4});
  check_linear<Elem>({.P = 65, .I = 64, .I2 = 8, .O = 65});
  check_linear<Elem>({.P = 2, .I = 16, .I2 = 0, .O = 700});  // FiLM: many columns, few rows
  check_linear<Elem>({.P = 700, .I = 12, .I2 = 0, .O = 3});  // a head: many rows, few columns
  check_linear<Elem>({.P = 2100, .I = 6, .I2 = 0, .O = 9});  // several splits of the weight gradient
}

// Tensor cores cut their sums: 4096 terms would lose 7e-5 in one accumulator.
TEST_CASE("linear/device/long sums in f32") {
  check_linear<float>({.P = 5, .I = 4096, .I2 = 0, .O = 9});
  check_linear<float>({.P = 17, .I = 6, .I2 = 0, .O = 4096});
}

TEST_CASE_TEMPLATE("linear/device/in_place_residual", Elem, float, bf16) {
  const LinearSize s{.P = 40, .I = 24, .I2 = 0, .O = 20};
  const auto x = DeviceRows<Elem>::random(s.P, s.I, 1), w = DeviceRows<Elem>::random(s.O, s.I, 2);
  const auto residual = DeviceRows<Elem>::random(s.P, s.O, 3);
  auto apart = DeviceRows<Elem>::poisoned(s.P, s.O), in_place = residual;
  kernels::linear_fwd<Sim, Elem>(Stream{}, s, x.rows(), {}, w.rows(), nullptr, residual.rows(), apart.rows(), nullptr);
  kernels::linear_fwd<Sim, Elem>(
      Stream{}, s, x.rows(), {}, w.rows(), nullptr, in_place.rows(), in_place.rows(), nullptr);
  CHECK(apart.bytes() == in_place.bytes());
}

TEST_CASE_TEMPLATE("linear/device/the_same_bits_in_every_order", Elem, float, bf16) {
  const LinearSize s{.P = 1500, .I = 10, .I2 = 0, .O = 5};
  const auto x = DeviceRows<Elem>::random(s.P, s.I, 1), d_out = DeviceRows<Elem>::random(s.P, s.O, 2);
  std::vector<std::string> first;
  for_each_order([&] {
    DeviceRows<float> d_w(s.O, s.I), d_bias(1, s.O);
    Workspace space(kernels::linear_bwd_weight_workspace_bytes<Elem>(s));
    kernels::linear_bwd_weight<Sim, Elem>(
        Stream{}, s, d_out.rows(), x.rows(), {}, d_w.rows(), d_bias.rows().data, space.data());
    const std::vector<std::string> bits = {d_w.bytes()[0], d_bias.bytes()[0]};
    if (first.empty()) first = bits;
    CHECK(bits == first);
  });
}

TEST_CASE_TEMPLATE("linear/device/empty", Elem, float, bf16) {
  const LinearSize s{.P = 0, .I = 5, .I2 = 0, .O = 6};
  const auto w = DeviceRows<Elem>::random(s.O, s.I, 1);
  kernels::linear_fwd<Sim, Elem>(Stream{}, s, {}, {}, w.rows(), nullptr, {}, {}, nullptr);
  DeviceRows<float> d_w = DeviceRows<float>::random(s.O, s.I, 2), d_bias = DeviceRows<float>::random(1, s.O, 3);
  kernels::linear_bwd_weight<Sim, Elem>(Stream{}, s, {}, {}, {}, d_w.rows(), d_bias.rows().data, nullptr);
  for (double v : d_w.values()) CHECK(v == 0.0);
  for (double v : d_bias.values()) CHECK(v == 0.0);
}

}  // namespace avid::test
