// tests/sim/conv3d_norm_film_silu_test.cpp -- convolutions that end in a norm, against f64 and the two kernels they
// replace
#include "kernels/conv3d_norm_film_silu.h"

#include "kernels/device/conv_products.h"
#include "kernels/device/conv_tiles.h"
#include "kernels/rms_norm_film_silu.h"
#include "tests/sim/arch.h"
#include "tests/sim/conv_support.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::Conv3dSize;
using kernels::kFirstHaloMmaTile, kernels::kFirstHaloTile, kernels::kFirstWgmmaTile;
using kernels::Rows;
using kernels::Sim;
using kernels::Stream;

struct Case {
  std::int64_t B, T, H, W, I, I2, O;
  std::int64_t k = 3, stride = 1, padding = 1;
  bool film = true, residual = true, bias = true;
  double x_scale = 1;

  Conv3dSize size() const {
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

Rows<const double> dense(const std::vector<double>& v, std::int64_t cols) {
  return {v.empty() ? nullptr : v.data(), cols};
}

/// rms_norm_film_silu of rows in f64, by the reference loops.
std::vector<double> normed(
    const Case& c, const Conv3dSize& s, const std::vector<double>& u, const std::vector<double>& gamma,
    const std::vector<double>& film, const std::vector<double>& residual) {
  std::vector<double> out(u.size());
  kernels::rms_norm_film_silu_fwd_reference<double>(
      {.F = c.B * c.T,
       .S = s.out[1] * s.out[2],
       .C = c.O,
       .x = dense(u, c.O),
       .gamma = gamma.data(),
       .film = c.film ? dense(film, 2 * c.O) : Rows<const double>{},
       .residual = c.residual ? dense(residual, c.O) : Rows<const double>{},
       .out = {out.data(), c.O}});
  return out;
}

/// With u and without, with this tile: u against conv3d_fwd's bits and f64, out against rms_norm_film_silu_fwd's bits
/// of u and against f64.
void check(const Case& c, int tile) {
  INFO(
      "tile " << tile << " B " << c.B << " T " << c.T << " " << c.H << "x" << c.W << " k " << c.k << " I " << c.I << "+"
              << c.I2 << " O " << c.O << " film " << c.film << " residual " << c.residual << " bias " << c.bias);
  const Conv3dSize s = c.size();
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
  const auto run = [&](Rows<bf16> out, Rows<bf16> u) {
    norm.sums = kernels::chunk_rows("test", "u", u, c.O);
    kernels::conv_products::forward<Sim, bf16>(
        "test", Stream{}, s, x.rows(), x2.rows(), w.rows(), bias_data, added, out, space.data(), tile, norm);
  };
  auto out = DeviceRows<bf16>::poisoned(positions, c.O), u = out, alone = out;
  run(out.rows(), u.rows());
  run(alone.rows(), {});
  CHECK(alone.bytes() == out.bytes());
  CHECK(out.gaps_are_zero());
  CHECK(u.gaps_are_zero());

  // The two kernels.
  auto plain = DeviceRows<bf16>::poisoned(positions, c.O), then = plain;
  kernels::conv_products::forward<Sim, bf16>(
      "test", Stream{}, s, x.rows(), x2.rows(), w.rows(), bias_data, {}, plain.rows(), space.data(), tile);
  CHECK(u.bytes() == plain.bytes());
  kernels::RmsNormFilmSiluDeviceArgs<bf16> p;
  p.F = F, p.S = s.out[1] * s.out[2], p.C = c.O;
  p.x = plain.rows(), p.gamma = norm.gamma, p.film = norm.film, p.residual = added, p.out = then.rows();
  kernels::rms_norm_film_silu_fwd<Sim>(Stream{}, p);
  CHECK(out.bytes() == then.bytes());

  // f64: of the stored u one rounding, and of the product itself another before it.
  const std::vector<double> bias_ref = c.bias ? bias.values() : std::vector<double>();
  const std::vector<double> x_ref = x.values(), x2_ref = x2.values(), w_ref = w.values();
  std::vector<double> product(static_cast<std::size_t>(positions * c.O));
  kernels::conv3d_ref_fwd<double>(
      s, dense(x_ref, c.I), dense(x2_ref, c.I2), dense(w_ref, I), c.bias ? bias_ref.data() : nullptr,
      {product.data(), c.O});
  CHECK(worst_error(u.values(), product, kUnit<bf16>) < 1.0);
  const auto of = [&](const std::vector<double>& rows) {
    return normed(c, s, rows, gamma.values(), film.values(), residual.values());
  };
  CHECK(worst_error(out.values(), of(u.values()), kUnit<bf16>) < 1.0);
  CHECK(worst_error(out.values(), of(product), kUnit<bf16>) < 2.0);
}

/// More frames of 5x7 than a tile of BM positions holds; windows of one tap, or three by three.
Case frames_past(std::int64_t BM, std::int64_t O, std::int64_t k) {
  return {.B = 1, .T = BM / 35 + 1, .H = 5, .W = 7, .I = 9, .I2 = k == 1 ? 5 : 0, .O = O, .k = k, .padding = k / 2};
}

}  // namespace

TEST_CASE("conv3d_norm_film_silu/every_tile_of_mma") {
  using Tiles = kernels::GatherGemmTiles<bf16>;
  int seen = 0;
  for (int i = 0; i < Tiles::kCount; ++i)
    Tiles::with(i, [&]<class Tile>() {
      if (Tile::kWarpsN > 1) return;
      check(frames_past(Tile::BM, Tile::BN - 3, 1), i);
      ++seen;
    });
  CHECK(seen == 7);
  check(frames_past(256, 53, 3), kFirstHaloMmaTile);
}

TEST_CASE("conv3d_norm_film_silu/every_tile_of_wgmma") {
  const OnArch arch(90);
  for (int i = 0; i < kernels::WgmmaTiles::kCount; ++i)
    kernels::WgmmaTiles::with(
        i, [&]<class Tile>() { check(frames_past(Tile::BM, Tile::BN - 3, 1), kFirstWgmmaTile + i); });
  for (int i = 0; i < kernels::HaloTiles::kCount; ++i)
    kernels::HaloTiles::with(
        i, [&]<class Tile>() { check(frames_past(Tile::BM, Tile::BN - 3, 3), kFirstHaloTile + i); });
}

TEST_CASE("conv3d_norm_film_silu/widths") {
  for (const std::int64_t T : {1, 3}) {
    check({.B = 1, .T = T, .H = 5, .W = 7, .I = 3, .I2 = 0, .O = 1}, 0);
    check({.B = 1, .T = T, .H = 5, .W = 7, .I = 3, .I2 = 0, .O = 3}, 2);
    check({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 50}, 4);
    check({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 50}, kFirstHaloMmaTile);
    check({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 90}, 5);
    check({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 100}, 6);
    check({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 104}, 6);
  }
}

TEST_CASE("conv3d_norm_film_silu/absent operands") {
  const Case all{.B = 2, .T = 2, .H = 5, .W = 3, .I = 8, .I2 = 0, .O = 20};
  for (int tile : {1, kFirstHaloMmaTile}) {
    for (int change = 0; change < 4; ++change) {
      Case c = all;
      if (change == 0) c.film = false;
      if (change == 1) c.residual = false;
      if (change == 2) c.bias = false;
      if (change == 3) c.film = c.residual = c.bias = false;
      check(c, tile);
    }
  }
}

TEST_CASE("conv3d_norm_film_silu/geometry") {
  check({.B = 2, .T = 3, .H = 4, .W = 3, .I = 8, .I2 = 8, .O = 20, .k = 1, .padding = 0}, 3);  // 1x1
  check({.B = 1, .T = 3, .H = 8, .W = 6, .I = 8, .I2 = 0, .O = 12, .k = 4, .stride = 2}, 0);   // halves the image
  check({.B = 1, .T = 2, .H = 5, .W = 5, .I = 3, .I2 = 0, .O = 12, .k = 5, .padding = 0}, 0);  // frames of one row
  check({.B = 1, .T = 1, .H = 1, .W = 1, .I = 1, .I2 = 0, .O = 8, .k = 1, .padding = 0}, 0);   // one position
  check({.B = 2, .T = 2, .H = 17, .W = 17, .I = 8, .I2 = 0, .O = 9}, 4);  // blocks that begin inside a frame
}

TEST_CASE("conv3d_norm_film_silu/rows of zeros stand on the floor of the norm, tiny ones do not") {
  check({.B = 1, .T = 2, .H = 3, .W = 3, .I = 8, .I2 = 0, .O = 10, .bias = false, .x_scale = 0}, 0);
  check({.B = 1, .T = 2, .H = 3, .W = 3, .I = 8, .I2 = 0, .O = 10, .bias = false, .x_scale = 1e-10}, 0);
  check({.B = 1, .T = 2, .H = 3, .W = 3, .I = 8, .I2 = 0, .O = 10, .bias = false, .x_scale = 1e-14}, 0);  // below it
}

TEST_CASE("conv3d_norm_film_silu/a row that is not finite has gaps of zeros") {
  const Conv3dSize s{.B = 1, .in = {1, 1, 2}, .out = {1, 1, 2}, .I = 8, .O = 3};
  auto x = DeviceRows<bf16>::random(2, 8, 1);
  x.at(1)[0] = bf16(std::numeric_limits<float>::quiet_NaN());
  const auto w = DeviceRows<bf16>::random(3, 8, 2);
  const auto gamma = DeviceRows<float>::random(1, 3, 3);
  auto out = DeviceRows<bf16>::poisoned(2, 3);
  REQUIRE(kernels::conv3d_norm_film_silu_is_one_kernel<Sim>(s));
  kernels::conv3d_norm_film_silu_fwd<Sim>(
      Stream{}, s, {.x = x.rows(), .w = w.rows(), .gamma = gamma.rows().data, .out = out.rows()});
  CHECK(std::isfinite(static_cast<float>(out.at(0)[2])));
  CHECK(std::isnan(static_cast<float>(out.at(1)[2])));
  CHECK(out.gaps_are_zero());
}

TEST_CASE("conv3d_norm_film_silu/in_every_order") {
  for_each_order([] {
    check({.B = 1, .T = 2, .H = 5, .W = 7, .I = 3, .I2 = 2, .O = 13}, 0);
    check({.B = 1, .T = 2, .H = 5, .W = 7, .I = 3, .I2 = 2, .O = 53}, kFirstHaloMmaTile);
    const OnArch arch(90);
    check({.B = 1, .T = 2, .H = 5, .W = 7, .I = 3, .I2 = 2, .O = 53}, kFirstHaloTile);
    check({.B = 1, .T = 2, .H = 5, .W = 7, .I = 3, .I2 = 2, .O = 53}, kFirstWgmmaTile);
    check({.B = 1, .T = 1, .H = 5, .W = 7, .I = 320, .I2 = 330, .O = 20}, kFirstHaloTile + 2);  // in several passes
  });
}

TEST_CASE("conv3d_norm_film_silu/rule/the product's tile decides") {
  const auto fuses = [](std::int64_t side, std::int64_t I, std::int64_t O) {
    const Case c{.B = 64, .T = 8, .H = side, .W = side, .I = I, .I2 = 0, .O = O};
    return kernels::conv3d_norm_film_silu_is_one_kernel<Sim>(c.size());
  };
  for (const int version : {80, 90}) {
    const OnArch arch(version);
    CAPTURE(version);
    for (const std::int64_t O : {50, 90, 100}) {
      CAPTURE(O);
      CHECK(fuses(64, O, O));
      CHECK(fuses(64, 2 * O, O));
      CHECK(fuses(32, 2 * O, O));
    }
    CHECK_FALSE(fuses(32, 180, 180));  // two columns of blocks
    CHECK_FALSE(fuses(8, 720, 720));
    CHECK_FALSE(kernels::conv3d_norm_film_silu_is_one_kernel<Sim>(Case{.B = 0, .T = 8, .H = 4, .W = 4, .O = 8}.size()));
    CHECK_FALSE(kernels::conv3d_norm_film_silu_is_one_kernel<Sim>(
        Case{.B = 4096, .T = 8, .H = 1, .W = 1, .I = 8, .I2 = 0, .O = 100, .k = 1, .padding = 0}
            .size()));  // a frame per position
  }
}

TEST_CASE("conv3d_norm_film_silu/rule/coefficients of the frames that a block meets") {
  kernels::GatherGemm<bf16> p;
  p.out[0].chunks = 13;
  const auto frames = [&](int F, int S, int tile) {
    p.norm.F = F, p.norm.S = S;
    return kernels::norm_frames(p, tile);
  };
  CHECK(frames(512, 4096, 6) == 2);  // 192 positions
  CHECK(frames(512, 190, 6) == 3);
  CHECK(frames(512, 191, 6) == 2);
  CHECK(frames(1, 4096, 6) == 1);
  CHECK(frames(512, 6, 6) == 33);
  CHECK(frames(512, 5, 6) == 0);  // 40 frames of 832 bytes beside 26624 bytes of rows, in 58368
  CHECK(frames(512, 0, 6) == 0);
  CHECK(frames(512, 4096, 5) == 0);  // 96 columns
  CHECK(frames(512, 4096, 7) == 0);  // 128 columns by two warps
  CHECK(frames(512, 4096, kFirstWgmmaTile + 2) == 2);
  CHECK(frames(512, 4096, kFirstWgmmaTile + 1) == 0);
  CHECK(frames(512, 4096, kFirstHaloTile + 2) == 0);  // no window
  p.out[1].chunks = 1;
  CHECK(frames(512, 4096, 6) == 0);
  CHECK_THROWS_WITH_AS(
      check({.B = 1, .T = 1, .H = 3, .W = 3, .I = 8, .I2 = 0, .O = 100}, 5),
      "gather_gemm: norm: tile 5 does not hold rows of 100 columns with their frames' coefficients | ask can_norm_rows "
      "first",
      kernels::GpuError);
}

}  // namespace avid::test
