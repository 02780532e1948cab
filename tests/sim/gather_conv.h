// tests/sim/gather_conv.h -- a convolution in a plane with a given tile, against the f64 reference
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "kernels/device/conv_products.h"
#include "kernels/sim/traffic.h"
#include "tests/sim/conv_support.h"

namespace avid::test {

inline kernels::Rows<const double> dense_rows(const std::vector<double>& v, std::int64_t cols) {
  return {v.empty() ? nullptr : v.data(), cols};
}

/// Forward with bias, and the data gradient added to another one, of kh x kw windows in a plane.
inline void check_conv(
    std::int64_t H, std::int64_t W, std::int64_t k, std::int64_t stride, std::int64_t padding, std::int64_t I,
    std::int64_t I2, std::int64_t O, int tile) {
  kernels::Conv3dSize s{
      .B = 2, .in = {1, H, W}, .I = I, .I2 = I2, .O = O, .kernel = {1, k, k}, .stride = {1, stride, stride}};
  s.padding = {0, padding, padding};
  s.out = {1, (H + 2 * padding - k) / stride + 1, (W + 2 * padding - k) / stride + 1};
  INFO(
      "in " << H << "x" << W << " kernel " << k << " stride " << stride << " padding " << padding << " I " << I << "+"
            << I2 << " O " << O << " tile " << tile);
  const std::int64_t in = s.in_positions(), out = s.out_positions(), taps = s.taps();
  const auto x = DeviceRows<bf16>::random(in, I, 1), w = DeviceRows<bf16>::random(O * taps, I + I2, 3);
  const auto x2 = I2 > 0 ? DeviceRows<bf16>::random(in, I2, 2) : DeviceRows<bf16>();
  const auto bias = DeviceRows<float>::random(1, O, 4);
  const auto d_out = DeviceRows<bf16>::random(out, O, 5);
  const std::vector<double> x_ref = x.values(), x2_ref = x2.values(), w_ref = w.values(), bias_ref = bias.values(),
                            d_out_ref = d_out.values();

  std::vector<double> expected(static_cast<std::size_t>(out * O));
  kernels::conv3d_ref_fwd<double>(
      s, dense_rows(x_ref, I), dense_rows(x2_ref, I2), dense_rows(w_ref, I + I2), bias_ref.data(),
      {expected.data(), O});
  auto got = DeviceRows<bf16>::poisoned(out, O);
  Workspace fwd_space(kernels::conv3d_fwd_workspace_bytes<bf16>(s));
  kernels::conv_products::forward<kernels::Sim, bf16>(
      "test", kernels::Stream{}, s, x.rows(), x2.rows(), w.rows(), bias.rows().data, {}, got.rows(), fwd_space.data(),
      tile);
  CHECK(worst_error(got.values(), expected, kUnit<bf16>) < 1.0);
  CHECK(got.gaps_are_zero());

  std::vector<double> d_x_ref(static_cast<std::size_t>(in * I)), d_x2_ref(static_cast<std::size_t>(in * I2));
  kernels::conv3d_ref_bwd_data<double>(
      s, dense_rows(d_out_ref, O), dense_rows(w_ref, I + I2), {d_x_ref.data(), I},
      {I2 > 0 ? d_x2_ref.data() : nullptr, I2});
  const auto add_x = DeviceRows<bf16>::random(in, I, 6), add_x2 = DeviceRows<bf16>::random(in, I2, 7);
  const std::vector<double> add_ref = add_x.values(), add2_ref = add_x2.values();
  for (std::size_t i = 0; i < add_ref.size(); ++i) d_x_ref[i] += add_ref[i];
  for (std::size_t i = 0; i < add2_ref.size(); ++i) d_x2_ref[i] += add2_ref[i];
  auto d_x = DeviceRows<bf16>::poisoned(in, I);
  auto d_x2 = I2 > 0 ? DeviceRows<bf16>::poisoned(in, I2) : DeviceRows<bf16>();
  Workspace data_space(kernels::conv3d_bwd_data_workspace_bytes<bf16>(s));
  kernels::conv_products::adjoint<kernels::Sim, bf16>(
      "test", kernels::Stream{}, s, d_out.rows(), w.rows(), nullptr, add_x.rows(), add_x2.rows(), d_x.rows(),
      d_x2.rows(), data_space.data(), tile);
  CHECK(worst_error(d_x.values(), d_x_ref, kUnit<bf16>) < 1.0);
  CHECK(worst_error(d_x2.values(), d_x2_ref, kUnit<bf16>) < 1.0);
  CHECK(d_x.gaps_are_zero());
  CHECK(d_x2.gaps_are_zero());
}

/// Where a 3x3 convolution of a 32x32 plane, I to O channels, goes through memory with a given tile. Only kernels with
/// race hooks (suite sim_race) tell of their accesses.
inline std::vector<kernels::simulator::TrafficLine> traffic_of_conv(std::int64_t I, std::int64_t O, int tile) {
  kernels::Conv3dSize s{.B = 1, .in = {1, 32, 32}, .I = I, .O = O, .kernel = {1, 3, 3}, .padding = {0, 1, 1}};
  s.out = s.in;
  const auto x = DeviceRows<bf16>::random(s.in_positions(), s.I, 1), w = DeviceRows<bf16>::random(s.O * 9, s.I, 2);
  auto out = DeviceRows<bf16>::poisoned(s.out_positions(), s.O);
  kernels::simulator::options().profile = true;
  kernels::conv_products::forward<kernels::Sim, bf16>(
      "test", kernels::Stream{}, s, x.rows(), {}, w.rows(), nullptr, {}, out.rows(), nullptr, tile);
  kernels::simulator::options().profile = false;
  return kernels::simulator::take_traffic_lines();
}

/// How many times as long as needed its results take through shared memory on their way out, 16 to 96 channels.
inline double staging_passes_of_conv(int tile) {
  double passes = 0, ideal = 0;
  bool named = false;  // builds without debug information do not know the lines
  for (const kernels::simulator::TrafficLine& line : traffic_of_conv(16, 96, tile)) {
    named =
        named || (line.kernel.find("gather_gemm") != std::string::npos && line.line.find(".cu") != std::string::npos);
    const bool written = line.write && line.line.find("gather_norm.h") != std::string::npos;
    const bool read = !line.write && line.bytes == 16 && line.line.find("tile_products.h") != std::string::npos;
    if (!line.shared || !(written || read)) continue;
    passes += static_cast<double>(line.units);
    ideal += static_cast<double>(line.ideal_units);
  }
  REQUIRE((ideal > 0 || !named));
  return named ? passes / ideal : 1;
}

/// Sectors of global memory that it reads, 64 to 16 channels.
inline std::uint64_t sectors_read_by_conv(int tile) {
  std::uint64_t sum = 0;
  for (const kernels::simulator::TrafficLine& line : traffic_of_conv(64, 16, tile))
    if (!line.shared && !line.write) sum += line.units;
  return sum;
}

/// With out's extents filled in.
inline kernels::Conv3dSize sized(kernels::Conv3dSize s) {
  for (std::size_t d = 0; d < 3; ++d) s.out[d] = (s.in[d] + 2 * s.padding[d] - s.kernel[d]) / s.stride[d] + 1;
  return s;
}

/// The gradients of weights and bias with a given tile; the bits of the former.
inline std::string check_conv_weight_grad(const kernels::Conv3dSize& s, int tile) {
  INFO(
      "B " << s.B << " in " << s.in[0] << "x" << s.in[1] << "x" << s.in[2] << " kernel " << s.kernel[0] << "x"
           << s.kernel[1] << "x" << s.kernel[2] << " stride " << s.stride[2] << " padding " << s.padding[2] << " I "
           << s.I << "+" << s.I2 << " O " << s.O << " tile " << tile);
  const std::int64_t in = s.in_positions(), out = s.out_positions(), rows = s.O * s.taps();
  const auto x = DeviceRows<bf16>::random(in, s.I, 1), d_out = DeviceRows<bf16>::random(out, s.O, 3);
  const auto x2 = s.I2 > 0 ? DeviceRows<bf16>::random(in, s.I2, 2) : DeviceRows<bf16>();
  const std::vector<double> x_ref = x.values(), x2_ref = x2.values(), d_out_ref = d_out.values();
  std::vector<double> expected(static_cast<std::size_t>(rows * (s.I + s.I2))), bias(static_cast<std::size_t>(s.O));
  kernels::conv3d_ref_bwd_weight<double>(
      s, dense_rows(d_out_ref, s.O), dense_rows(x_ref, s.I), dense_rows(x2_ref, s.I2), {expected.data(), s.I + s.I2},
      bias.data());

  auto d_w = DeviceRows<float>::poisoned(rows, s.I + s.I2);
  auto d_bias = DeviceRows<float>::poisoned(1, s.O);
  auto p = kernels::conv_products::weight_grad<bf16>(
      "test", s, d_out.rows(), x.rows(), x2.rows(), d_w.rows(), nullptr, d_bias.at(0));
  p.tile = tile;
  Workspace space(kernels::gather_weight_grad_workspace_bytes(p));
  p.workspace = static_cast<float*>(space.data());
  kernels::gather_weight_grad<kernels::Sim>(kernels::Stream{}, p);
  const std::vector<double> got = d_w.values();
  CHECK(worst_error(got, expected, kSumUnit<bf16>) < 1.0);
  CHECK(worst_error(d_bias.values(), bias, kUnit<float>) < 1.0);
  std::string bits(got.size() * sizeof(double), '\0');
  if (!got.empty()) std::memcpy(bits.data(), got.data(), bits.size());
  return bits;
}

/// k x k windows in a plane, two clips.
inline kernels::Conv3dSize plane(
    std::int64_t H, std::int64_t W, std::int64_t k, std::int64_t stride, std::int64_t padding, std::int64_t I,
    std::int64_t I2, std::int64_t O) {
  return sized(
      {.B = 2,
       .in = {1, H, W},
       .I = I,
       .I2 = I2,
       .O = O,
       .kernel = {1, k, k},
       .stride = {1, stride, stride},
       .padding = {0, padding, padding}});
}

}  // namespace avid::test
