// tests/sim/conv3d_norm_film_silu_wgmma_test.cpp -- convolutions that end in a norm, on compute capability 9.0
#include "kernels/device/conv_tiles.h"
#include "tests/sim/arch.h"
#include "tests/sim/conv_norm.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::kFirstHaloTile, kernels::kFirstWgmmaTile;

}  // namespace

TEST_CASE("conv3d_norm_film_silu_wgmma/every_tile") {
  const OnArch arch(90);
  for (int i = 0; i < kernels::WgmmaTiles::kCount; ++i)
    kernels::WgmmaTiles::with(
        i, [&]<class Tile>() { check_norm(frames_past(Tile::BM, Tile::BN - 3, 1), kFirstWgmmaTile + i); });
  for (int i = 0; i < kernels::HaloTiles::kCount; ++i)
    kernels::HaloTiles::with(i, [&]<class Tile>() {
      check_norm(frames_past(Tile::BM, Tile::BN - 3, 3), kFirstHaloTile + i);
      // Patches: two in a frame, or one, so that a block's lie in several.
      check_norm({.B = 1, .T = 5, .H = 8, .W = 16, .I = 9, .I2 = 0, .O = 20}, kFirstHaloTile + i);
      check_norm({.B = 1, .T = 5, .H = 8, .W = 8, .I = 9, .I2 = 3, .O = 20}, kFirstHaloTile + i);
    });
  check_norm({.B = 1, .T = 2, .H = 8, .W = 8, .I = 9, .I2 = 0, .O = 180}, kFirstHaloTile + 6);  // eight lanes a row
  check_norm(frames_past(128, 180, 1), kFirstWgmmaTile + 5);  // eight lanes a row, though the tile has room for 16
}

TEST_CASE("conv3d_norm_film_silu_wgmma/absent operands") {
  const OnArch arch(90);
  for (int tile : {kFirstWgmmaTile, kFirstHaloTile}) {
    check_norm({.B = 1, .T = 2, .H = 5, .W = 3, .I = 8, .I2 = 3, .O = 20, .film = false, .residual = false}, tile);
    check_norm({.B = 1, .T = 2, .H = 5, .W = 3, .I = 8, .I2 = 0, .O = 20, .bias = false}, tile);
  }
}

TEST_CASE("conv3d_norm_film_silu_wgmma/in_every_order") {
  const OnArch arch(90);
  for_each_order([] {
    check_norm({.B = 1, .T = 2, .H = 5, .W = 7, .I = 3, .I2 = 2, .O = 53}, kFirstHaloTile);
    check_norm({.B = 1, .T = 2, .H = 5, .W = 7, .I = 3, .I2 = 2, .O = 53}, kFirstWgmmaTile);
    check_norm({.B = 1, .T = 1, .H = 5, .W = 7, .I = 180, .I2 = 0, .O = 20}, kFirstHaloTile + 2);  // in two passes
    check_norm({.B = 1, .T = 3, .H = 8, .W = 8, .I = 3, .I2 = 2, .O = 181}, kFirstHaloTile + 5);   // a frame a patch
  });
}

}  // namespace avid::test
