// tests/sim/conv_norm.h -- a convolution that ends in a norm, with a given tile: against f64 and the two kernels that
// it replaces
#pragma once

#include "kernels/conv3d_norm_film_silu.h"
#include "kernels/device/conv_products.h"
#include "kernels/rms_norm_film_silu.h"
#include "tests/sim/conv_support.h"

namespace avid::test {

/// A convolution with k x k windows in the planes of B * T frames, ended by a norm.
struct NormCase {
  std::int64_t B = 0, T = 0, H = 0, W = 0, I = 0, I2 = 0, O = 0;
  std::int64_t k = 3, stride = 1, padding = 1;
  bool film = true, residual = true, bias = true;
  double x_scale = 1;

  kernels::Conv3dSize size() const {
    const auto out = [&](std::int64_t extent) { return (extent + 2 * padding - k) / stride + 1; };
    return {
        .B = B,
        .in = {T, H, W},
        .out = {T, out(H), out(W)},
        .I = I,
        .I2 = I2,
        .O = O,
        .kernel = {1, k, k},
        .stride = {1, stride, stride},
        .padding = {0, padding, padding}};
  }
};

inline kernels::Rows<const double> dense_f64(const std::vector<double>& v, std::int64_t cols) {
  return {v.empty() ? nullptr : v.data(), cols};
}

/// rms_norm_film_silu of rows in f64, by the reference loops.
inline std::vector<double> normed(
    const NormCase& c, const kernels::Conv3dSize& s, const std::vector<double>& u, const std::vector<double>& gamma,
    const std::vector<double>& film, const std::vector<double>& residual) {
  std::vector<double> out(u.size());
  kernels::rms_norm_film_silu_fwd_reference<double>(
      {.F = c.B * c.T,
       .S = s.out[1] * s.out[2],
       .C = c.O,
       .x = dense_f64(u, c.O),
       .gamma = gamma.data(),
       .film = c.film ? dense_f64(film, 2 * c.O) : kernels::Rows<const double>{},
       .residual = c.residual ? dense_f64(residual, c.O) : kernels::Rows<const double>{},
       .out = {out.data(), c.O}});
  return out;
}

/// With u and without, with this tile: u against conv3d_fwd's bits and f64, out against rms_norm_film_silu_fwd's bits
/// of u and against f64.
inline void check_norm(const NormCase& c, int tile) {
  INFO(
      "tile " << tile << " B " << c.B << " T " << c.T << " " << c.H << "x" << c.W << " k " << c.k << " I " << c.I << "+"
              << c.I2 << " O " << c.O << " film " << c.film << " residual " << c.residual << " bias " << c.bias);
  const kernels::Conv3dSize s = c.size();
  const std::int64_t in = s.in_positions(), positions = s.out_positions(), F = c.B * c.T, I = c.I + c.I2;
  auto x = DeviceRows<bf16>::random(in, c.I, 1);
  const auto x2 = c.I2 > 0 ? DeviceRows<bf16>::random(in, c.I2, 2) : DeviceRows<bf16>();
  const auto w = DeviceRows<bf16>::random(c.O * s.taps(), I, 3);
  const auto bias = DeviceRows<float>::random(1, c.O, 4), gamma = DeviceRows<float>::random(1, c.O, 5);
  const auto film = DeviceRows<float>::random(F, 2 * c.O, 6);
  const auto residual = DeviceRows<bf16>::random(positions, c.O, 7);
  for (std::int64_t r = 0; r < in; ++r)
    for (std::int64_t i = 0; i < c.I; ++i)
      x.at(r)[i] = bf16(static_cast<float>(c.x_scale) * static_cast<float>(x.at(r)[i]));
  const float* bias_data = c.bias ? bias.rows().data : nullptr;

  kernels::RowNorm<bf16> norm = kernels::conv_products::row_norm<bf16>(s);
  norm.gamma = gamma.rows().data;
  if (c.film) norm.film = film.rows();
  kernels::Rows<const bf16> added;
  if (c.residual) added = residual.rows();
  Workspace space(kernels::conv3d_fwd_workspace_bytes<bf16>(s));
  const auto run = [&](kernels::Rows<bf16> out, kernels::Rows<bf16> u) {
    norm.sums = kernels::chunk_rows("test", "u", u, c.O);
    kernels::conv_products::forward<kernels::Sim, bf16>(
        "test", kernels::Stream{}, s, x.rows(), x2.rows(), w.rows(), bias_data, added, out, space.data(), tile, norm);
  };
  auto out = DeviceRows<bf16>::poisoned(positions, c.O), u = out, alone = out;
  run(out.rows(), u.rows());
  run(alone.rows(), {});
  CHECK(alone.bytes() == out.bytes());
  CHECK(out.gaps_are_zero());
  CHECK(u.gaps_are_zero());

  // The two kernels.
  auto plain = DeviceRows<bf16>::poisoned(positions, c.O), then = plain;
  kernels::conv_products::forward<kernels::Sim, bf16>(
      "test", kernels::Stream{}, s, x.rows(), x2.rows(), w.rows(), bias_data, {}, plain.rows(), space.data(), tile);
  CHECK(u.bytes() == plain.bytes());
  kernels::RmsNormFilmSiluDeviceArgs<bf16> p;
  p.F = F, p.S = s.out[1] * s.out[2], p.C = c.O;
  p.x = plain.rows(), p.gamma = norm.gamma, p.film = norm.film, p.residual = added, p.out = then.rows();
  kernels::rms_norm_film_silu_fwd<kernels::Sim>(kernels::Stream{}, p);
  CHECK(out.bytes() == then.bytes());

  // The op hands everything on.
  if (tile == kernels::kChooseTile) {
    REQUIRE(kernels::conv3d_norm_film_silu_is_one_kernel<kernels::Sim>(s));
    auto op_out = DeviceRows<bf16>::poisoned(positions, c.O), op_u = op_out;
    kernels::conv3d_norm_film_silu_fwd<kernels::Sim>(
        kernels::Stream{}, s,
        {.x = x.rows(),
         .x2 = x2.rows(),
         .w = w.rows(),
         .bias = bias_data,
         .gamma = norm.gamma,
         .film = norm.film,
         .residual = added,
         .u = op_u.rows(),
         .out = op_out.rows(),
         .workspace = space.data()});
    CHECK(op_out.bytes() == out.bytes());
    CHECK(op_u.bytes() == u.bytes());
  }

  // f64: of the stored u one rounding, and of the product itself another before it.
  const std::vector<double> bias_ref = c.bias ? bias.values() : std::vector<double>();
  const std::vector<double> x_ref = x.values(), x2_ref = x2.values(), w_ref = w.values();
  std::vector<double> product(static_cast<std::size_t>(positions * c.O));
  kernels::conv3d_ref_fwd<double>(
      s, dense_f64(x_ref, c.I), dense_f64(x2_ref, c.I2), dense_f64(w_ref, I), c.bias ? bias_ref.data() : nullptr,
      {product.data(), c.O});
  CHECK(worst_error(u.values(), product, kUnit<bf16>) < 1.0);
  const auto of = [&](const std::vector<double>& rows) {
    return normed(c, s, rows, gamma.values(), film.values(), residual.values());
  };
  CHECK(worst_error(out.values(), of(u.values()), kUnit<bf16>) < 1.0);
  CHECK(worst_error(out.values(), of(product), kUnit<bf16>) < 2.0);
}

/// More frames of 5x7 than a tile of BM positions holds; windows of one tap, or three by three.
inline NormCase frames_past(std::int64_t BM, std::int64_t O, std::int64_t k) {
  return {.B = 1, .T = BM / 35 + 1, .H = 5, .W = 7, .I = 9, .I2 = k == 1 ? 5 : 0, .O = O, .k = k, .padding = k / 2};
}

}  // namespace avid::test
