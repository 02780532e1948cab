// tests/sim/gather_line.h -- the gathered product on a row of positions, against its definition in f64
#pragma once

#include "kernels/gather_gemm.h"
#include "tests/sim/conv_support.h"

namespace avid::test {

using kernels::Sim;
using kernels::Stream;

inline constexpr std::int64_t kTaps = 3;

/// A row of W positions, taps of 3 along it with padding 1, two sources of channels. By its definition in f64.
struct Line {
  std::int64_t W, I, I2, N;
  template <class F>
  void for_each_pair(F&& f) const {  // result r, tap k, source row
    for (std::int64_t r = 0; r < W; ++r)
      for (std::int64_t k = 0; k < kTaps; ++k)
        if (const std::int64_t at = r + k - 1; at >= 0 && at < W) f(r, k, at);
  }
  template <class Problem>
  void set_axes(Problem& p) const {
    p.B = 1;
    p.x = {.source = static_cast<int>(W), .result = static_cast<int>(W), .taps = kTaps, .stride = 1, .padding = 1};
  }
};

template <class Elem>
void check_product(const Line& line, int tile) {
  INFO("tile " << tile << (sizeof(Elem) == 2 ? " bf16" : " f32") << " W " << line.W << " N " << line.N);
  const auto x = DeviceRows<Elem>::random(line.W, line.I, 1), x2 = DeviceRows<Elem>::random(line.W, line.I2, 2);
  const auto w = DeviceRows<Elem>::random(line.N * kTaps, line.I + line.I2, 3);
  const auto residual = DeviceRows<Elem>::random(line.W, line.N, 4);
  const auto bias = DeviceRows<float>::random(1, line.N, 5);
  std::vector<double> expected = residual.values();
  for (std::int64_t r = 0; r < line.W; ++r)
    for (std::int64_t n = 0; n < line.N; ++n) expected[static_cast<std::size_t>(r * line.N + n)] += bias.at(0)[n];
  line.for_each_pair([&](std::int64_t r, std::int64_t k, std::int64_t at) {
    for (std::int64_t n = 0; n < line.N; ++n) {
      const Elem* row = w.at(n * kTaps + k);
      double sum = 0.0;
      for (std::int64_t i = 0; i < line.I; ++i)
        sum += static_cast<double>(static_cast<float>(x.at(at)[i])) * static_cast<double>(static_cast<float>(row[i]));
      for (std::int64_t i = 0; i < line.I2; ++i)
        sum += static_cast<double>(static_cast<float>(x2.at(at)[i])) *
               static_cast<double>(static_cast<float>(row[line.I + i]));
      expected[static_cast<std::size_t>(r * line.N + n)] += sum;
    }
  });

  const kernels::PackWeights<Elem> sizes{.from = w.rows(), .O = line.N, .taps = kTaps, .I = line.I, .I2 = line.I2};
  Workspace packed(sizes.to_bytes());
  kernels::PackWeights<Elem> pack = sizes;
  pack.to = static_cast<Elem*>(packed.data());
  kernels::pack_weights<Sim>(Stream{}, pack);

  auto out = DeviceRows<Elem>::poisoned(line.W, line.N);
  kernels::GatherGemm<Elem> p;
  line.set_axes(p);
  p.source[0] = kernels::chunk_rows("test", "x", x.rows(), line.I);
  p.source[1] = kernels::chunk_rows("test", "x2", x2.rows(), line.I2);
  p.source_channels[0] = static_cast<int>(line.I), p.source_channels[1] = static_cast<int>(line.I2);
  p.weights = pack.to;
  p.weight_row = static_cast<std::uint32_t>(pack.to_row_chunks());
  p.weight_tap[0] = p.source[0].chunks, p.weight_tap[1] = p.source[1].chunks;
  p.weight_source[1] = static_cast<int>(kTaps) * p.source[0].chunks;
  p.num_weight_rows = static_cast<int>(line.N);
  p.bias = bias.at(0), p.num_bias = static_cast<int>(line.N);
  p.residual = kernels::chunk_rows("test", "residual", residual.rows(), line.N);
  p.out[0] = kernels::chunk_rows("test", "out", out.rows(), line.N);
  p.tile = tile;
  kernels::gather_gemm<Sim>(Stream{}, p);
  CHECK(worst_error(out.values(), expected, kUnit<Elem>) < 1.0);
  CHECK(out.gaps_are_zero());
}

/// Its weight gradient, and that of a bias.
template <class Elem>
void check_weight_grad(const Line& line, int tile) {
  INFO("tile " << tile << (sizeof(Elem) == 2 ? " bf16" : " f32") << " W " << line.W << " N " << line.N);
  const auto x = DeviceRows<Elem>::random(line.W, line.I, 1), x2 = DeviceRows<Elem>::random(line.W, line.I2, 2);
  const auto d_out = DeviceRows<Elem>::random(line.W, line.N, 3);
  const std::int64_t I = line.I + line.I2;
  std::vector<double> expected(static_cast<std::size_t>(line.N * kTaps * I)), sums(static_cast<std::size_t>(line.N));
  for (std::int64_t r = 0; r < line.W; ++r)
    for (std::int64_t n = 0; n < line.N; ++n)
      sums[static_cast<std::size_t>(n)] += static_cast<double>(static_cast<float>(d_out.at(r)[n]));
  line.for_each_pair([&](std::int64_t r, std::int64_t k, std::int64_t at) {
    for (std::int64_t n = 0; n < line.N; ++n)
      for (std::int64_t i = 0; i < I; ++i)
        expected[static_cast<std::size_t>((n * kTaps + k) * I + i)] +=
            static_cast<double>(static_cast<float>(d_out.at(r)[n])) *
            static_cast<double>(static_cast<float>(i < line.I ? x.at(at)[i] : x2.at(at)[i - line.I]));
  });
  DeviceRows<float> d_w(line.N * kTaps, I);
  auto d_bias = DeviceRows<float>::poisoned(1, line.N);
  kernels::GatherWeightGrad<Elem> p;
  line.set_axes(p);
  p.source[0] = kernels::chunk_rows("test", "x", x.rows(), line.I);
  p.source[1] = kernels::chunk_rows("test", "x2", x2.rows(), line.I2);
  p.source_channels[0] = static_cast<int>(line.I), p.source_channels[1] = static_cast<int>(line.I2);
  p.rows = kernels::chunk_rows("test", "d_out", d_out.rows(), line.N);
  p.num_columns = static_cast<int>(line.N);
  p.d_w = d_w.rows(), p.d_bias = d_bias.at(0);
  p.tile = tile;
  Workspace space(kernels::gather_weight_grad_workspace_bytes(p));
  p.workspace = static_cast<float*>(space.data());
  kernels::gather_weight_grad<Sim>(Stream{}, p);
  CHECK(worst_error(d_w.values(), expected, kUnit<float>) < 1.0);
  CHECK(worst_error(d_bias.values(), sums, kUnit<float>) < 1.0);
  CHECK(d_w.gaps_are_zero());
}

}  // namespace avid::test
