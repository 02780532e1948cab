// tests/sim/conv_transpose3d_test.cpp -- conv_transpose3d's device kernels in the simulator, against the f64 reference
#include "kernels/conv_transpose3d.h"

#include "tests/sim/conv_support.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::ConvTranspose3dSize;
using kernels::Rows;
using kernels::Sim;
using kernels::Stream;

struct Geometry {
  std::array<std::int64_t, 3> in, kernel{1, 1, 1}, stride{1, 1, 1}, padding{};
};

ConvTranspose3dSize size_of(const Geometry& g, std::int64_t B, std::int64_t I, std::int64_t O) {
  ConvTranspose3dSize s{
      .B = B, .in = g.in, .I = I, .O = O, .kernel = g.kernel, .stride = g.stride, .padding = g.padding};
  for (std::size_t d = 0; d < 3; ++d) s.out[d] = (g.in[d] - 1) * g.stride[d] - 2 * g.padding[d] + g.kernel[d];
  return s;
}

Rows<const double> dense(const std::vector<double>& v, std::int64_t cols) { return {v.data(), cols}; }

template <class Elem>
void check_conv(const ConvTranspose3dSize& s) {
  INFO(
      (sizeof(Elem) == 2 ? "bf16 " : "f32 ") << "I" << s.I << " O" << s.O << " in " << s.in[0] << "x" << s.in[1] << "x"
                                             << s.in[2] << " kernel y " << s.kernel[1] << " stride y " << s.stride[1]);
  const std::int64_t in = s.in_positions(), out = s.out_positions(), taps = s.taps();
  const auto x = DeviceRows<Elem>::random(in, s.I, 1), w = DeviceRows<Elem>::random(s.I * taps, s.O, 3);
  const auto bias = DeviceRows<float>::random(1, s.O, 4);
  const auto d_out = DeviceRows<Elem>::random(out, s.O, 5);
  const std::vector<double> x_ref = x.values(), w_ref = w.values(), bias_ref = bias.values(),
                            d_out_ref = d_out.values();

  std::vector<double> expected(static_cast<std::size_t>(out * s.O));
  kernels::conv_transpose3d_ref_fwd<double>(
      s, dense(x_ref, s.I), dense(w_ref, s.O), bias_ref.data(), {expected.data(), s.O});
  auto got = DeviceRows<Elem>::poisoned(out, s.O);
  Workspace fwd_space(kernels::conv_transpose3d_fwd_workspace_bytes<Elem>(s));
  kernels::conv_transpose3d_fwd<Sim, Elem>(
      Stream{}, s, x.rows(), w.rows(), bias.rows().data, got.rows(), fwd_space.data());
  CHECK(worst_error(got.values(), expected, kUnit<Elem>) < 1.0);
  CHECK(got.gaps_are_zero());

  std::vector<double> d_x_ref(static_cast<std::size_t>(in * s.I));
  kernels::conv_transpose3d_ref_bwd_data<double>(s, dense(d_out_ref, s.O), dense(w_ref, s.O), {d_x_ref.data(), s.I});
  auto d_x = DeviceRows<Elem>::poisoned(in, s.I);
  kernels::conv_transpose3d_bwd_data<Sim, Elem>(Stream{}, s, d_out.rows(), w.rows(), d_x.rows());
  CHECK(worst_error(d_x.values(), d_x_ref, kUnit<Elem>) < 1.0);
  CHECK(d_x.gaps_are_zero());

  std::vector<double> d_w_ref(static_cast<std::size_t>(s.I * taps * s.O)), d_bias_ref(static_cast<std::size_t>(s.O));
  kernels::conv_transpose3d_ref_bwd_weight<double>(
      s, dense(d_out_ref, s.O), dense(x_ref, s.I), {d_w_ref.data(), s.O}, d_bias_ref.data());
  DeviceRows<float> d_w(s.I * taps, s.O), d_bias = DeviceRows<float>::poisoned(1, s.O);
  Workspace weight_space(kernels::conv_transpose3d_bwd_weight_workspace_bytes<Elem>(s));
  kernels::conv_transpose3d_bwd_weight<Sim, Elem>(
      Stream{}, s, d_out.rows(), x.rows(), d_w.rows(), d_bias.rows().data, weight_space.data());
  CHECK(worst_error(d_w.values(), d_w_ref, kSumUnit<Elem>) < 1.0);
  CHECK(d_w.gaps_are_zero());
  CHECK(worst_error(d_bias.values(), d_bias_ref, kUnit<float>) < 1.0);
}

}  // namespace

TEST_CASE("conv_transpose3d/device/small_in_every_order") {
  for_each_order([] {
    check_conv<bf16>(
        size_of({.in = {1, 3, 4}, .kernel = {1, 4, 4}, .stride = {1, 2, 2}, .padding = {0, 1, 1}}, 1, 10, 12));
  });
}

TEST_CASE_TEMPLATE("conv_transpose3d/device/sizes", Elem, float, bf16) {
  check_conv<Elem>(size_of(
      {.in = {2, 3, 5}, .kernel = {1, 4, 4}, .stride = {1, 2, 2}, .padding = {0, 1, 1}}, 2, 10, 12));  // the U-Net's
  check_conv<Elem>(
      size_of({.in = {1, 4, 4}, .kernel = {1, 4, 4}, .stride = {1, 2, 2}, .padding = {0, 1, 1}}, 1, 50, 90));
  check_conv<Elem>(size_of(
      {.in = {2, 2, 3}, .kernel = {3, 1, 2}, .stride = {2, 3, 2}, .padding = {1, 0, 0}}, 1, 3,
      5));  // phases without taps
  check_conv<Elem>(size_of({.in = {1, 5, 4}, .kernel = {1, 3, 3}, .padding = {0, 1, 1}}, 1, 6, 4));
  check_conv<Elem>(size_of({.in = {1, 1, 1}, .kernel = {1, 5, 5}, .stride = {1, 3, 3}, .padding = {0, 2, 2}}, 1, 4, 1));
}

}  // namespace avid::test
