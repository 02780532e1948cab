// tests/sim/conv3d_norm_film_silu_test.cpp -- convolutions that end in a norm, on mma.sync, and when they do
#include "kernels/conv3d_norm_film_silu.h"

#include "kernels/device/conv_tiles.h"
#include "tests/sim/arch.h"
#include "tests/sim/conv_norm.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::Conv3dSize;
using kernels::kFirstHaloMmaTile, kernels::kFirstHaloTile, kernels::kFirstWgmmaTile;
using kernels::Sim;
using kernels::Stream;

}  // namespace

TEST_CASE("conv3d_norm_film_silu/every_tile_of_mma") {
  using Tiles = kernels::GatherGemmTiles<bf16>;
  int seen = 0;
  for (int i = 0; i < Tiles::kCount; ++i)
    Tiles::with(i, [&]<class Tile>() {
      if (Tile::kWarpsN > 1) return;
      check_norm(frames_past(Tile::BM, Tile::BN - 3, 1), i);
      ++seen;
    });
  CHECK(seen == 7);
  using HaloTiles = kernels::HaloMmaTiles;
  for (int i = 0; i < HaloTiles::kCount; ++i)
    HaloTiles::with(i, [&]<class Tile>() {
      if (Tile::kWarpsN > 1) return;
      check_norm(frames_past(Tile::BM, Tile::BN - 3, 3), kFirstHaloMmaTile + i);
      ++seen;
    });
  CHECK(seen == 18);
}

TEST_CASE("conv3d_norm_film_silu/widths") {
  for (const std::int64_t T : {1, 3}) {
    check_norm({.B = 1, .T = T, .H = 5, .W = 7, .I = 3, .I2 = 0, .O = 1}, 0);
    check_norm({.B = 1, .T = T, .H = 5, .W = 7, .I = 3, .I2 = 0, .O = 3}, 2);
    check_norm({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 50}, 4);
    check_norm({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 50}, kFirstHaloMmaTile);
    check_norm({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 90}, 5);
    check_norm({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 100}, 6);
    check_norm({.B = 1, .T = T, .H = 5, .W = 7, .I = 8, .I2 = 0, .O = 104}, 6);
  }
}

TEST_CASE("conv3d_norm_film_silu/absent operands") {
  const NormCase all{.B = 2, .T = 2, .H = 5, .W = 3, .I = 8, .I2 = 0, .O = 20};
  for (int tile : {1, kFirstHaloMmaTile}) {
    for (int change = 0; change < 4; ++change) {
      NormCase c = all;
      if (change == 0) c.film = false;
      if (change == 1) c.residual = false;
      if (change == 2) c.bias = false;
      if (change == 3) c.film = c.residual = c.bias = false;
      check_norm(c, tile);
    }
  }
}

TEST_CASE("conv3d_norm_film_silu/the op") {
  check_norm({.B = 2, .T = 2, .H = 5, .W = 7, .I = 8, .I2 = 4, .O = 12}, kernels::kChooseTile);
  NormCase bare{.B = 1, .T = 1, .H = 4, .W = 4, .I = 8, .I2 = 0, .O = 12};
  bare.film = bare.residual = bare.bias = false;
  check_norm(bare, kernels::kChooseTile);
}

TEST_CASE("conv3d_norm_film_silu/geometry") {
  check_norm({.B = 2, .T = 3, .H = 4, .W = 3, .I = 8, .I2 = 8, .O = 20, .k = 1, .padding = 0}, 3);  // 1x1
  check_norm({.B = 1, .T = 3, .H = 8, .W = 6, .I = 8, .I2 = 0, .O = 12, .k = 4, .stride = 2}, 0);   // halves the image
  check_norm({.B = 1, .T = 2, .H = 5, .W = 5, .I = 3, .I2 = 0, .O = 12, .k = 5, .padding = 0}, 0);  // frames of one row
  check_norm({.B = 1, .T = 1, .H = 1, .W = 1, .I = 1, .I2 = 0, .O = 8, .k = 1, .padding = 0}, 0);   // one position
  check_norm({.B = 2, .T = 2, .H = 17, .W = 17, .I = 8, .I2 = 0, .O = 9}, 4);  // blocks that begin inside a frame
}

TEST_CASE("conv3d_norm_film_silu/rows of zeros stand on the floor of the norm, tiny ones do not") {
  check_norm({.B = 1, .T = 2, .H = 3, .W = 3, .I = 8, .I2 = 0, .O = 10, .bias = false, .x_scale = 0}, 0);
  check_norm({.B = 1, .T = 2, .H = 3, .W = 3, .I = 8, .I2 = 0, .O = 10, .bias = false, .x_scale = 1e-10}, 0);
  check_norm(
      {.B = 1, .T = 2, .H = 3, .W = 3, .I = 8, .I2 = 0, .O = 10, .bias = false, .x_scale = 1e-14}, 0);  // below it
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
    check_norm({.B = 1, .T = 2, .H = 5, .W = 7, .I = 3, .I2 = 2, .O = 13}, 0);
    check_norm({.B = 1, .T = 2, .H = 5, .W = 7, .I = 3, .I2 = 2, .O = 53}, kFirstHaloMmaTile);
  });
}

TEST_CASE("conv3d_norm_film_silu/rule/the product's tile decides") {
  const auto fuses = [](std::int64_t side, std::int64_t I, std::int64_t O) {
    const NormCase c{.B = 64, .T = 8, .H = side, .W = side, .I = I, .I2 = 0, .O = O};
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
    // 128 whole rows cost as much as two columns of blocks, and no norm of their own.
    for (const std::int64_t O : {180, 200}) CHECK(fuses(32, O, O));
    CHECK_FALSE(fuses(8, 720, 720));
    CHECK_FALSE(
        kernels::conv3d_norm_film_silu_is_one_kernel<Sim>(NormCase{.B = 0, .T = 8, .H = 4, .W = 4, .O = 8}.size()));
    CHECK_FALSE(kernels::conv3d_norm_film_silu_is_one_kernel<Sim>(
        NormCase{.B = 4096, .T = 8, .H = 1, .W = 1, .I = 8, .I2 = 0, .O = 100, .k = 1, .padding = 0}
            .size()));  // a frame per position
  }
}

TEST_CASE("conv3d_norm_film_silu/rule/coefficients of the frames that a block meets") {
  kernels::GatherGemm<bf16> p;
  p.out[0].chunks = 13;
  const auto frames = [&](int F, int S, int tile) {
    p.norm.F = F, p.norm.S = S;
    return kernels::norm_blocks(p, tile).frames;
  };
  CHECK(frames(512, 4096, 6) == 2);  // 192 positions
  CHECK(frames(512, 190, 6) == 2);   // blocks begin at even positions of a frame
  CHECK(frames(512, 187, 6) == 3);
  CHECK(frames(512, 191, 6) == 2);
  CHECK(frames(512, 384, 6) == 1);
  CHECK(frames(1, 4096, 6) == 1);
  CHECK(frames(512, 6, 6) == 32);
  CHECK(frames(512, 5, 6) == 0);  // 40 frames of 832 bytes beside 26624 bytes of rows, in 58368
  CHECK(frames(512, 0, 6) == 0);
  CHECK(frames(512, 4096, 5) == 0);                    // 96 columns
  CHECK(frames(512, 4096, 7) == 0);                    // 128 columns by two warps
  CHECK(frames(512, 4096, kFirstWgmmaTile + 2) == 1);  // 256
  CHECK(frames(512, 4096, kFirstWgmmaTile + 1) == 0);
  CHECK(frames(512, 4096, kFirstHaloTile + 2) == 0);  // no window
  p.out[1].chunks = 1;
  CHECK(frames(512, 4096, 6) == 0);
  CHECK_THROWS_WITH_AS(
      check_norm({.B = 1, .T = 1, .H = 3, .W = 3, .I = 8, .I2 = 0, .O = 100}, 5),
      "gather_gemm: norm: tile 5 does not hold rows of 100 columns with their frames' coefficients | ask norm_blocks "
      "first",
      kernels::GpuError);
}

}  // namespace avid::test
