// tests/sim/gather_gemm_test.cpp -- every tile of the products and weight gradients, whatever the rule picks
#include "kernels/gather_gemm.h"

#include <type_traits>
#include <utility>

#include "kernels/device/weight_grad_tiles.h"
#include "tests/sim/gather_line.h"
#include "tests/sim/orders.h"

namespace avid::test {

TEST_CASE_TEMPLATE("gather_gemm/every_tile", Elem, float, bf16) {
  using Tiles = kernels::GatherGemmTiles<Elem>;
  for (int i = 0; i < Tiles::kCount; ++i)
    Tiles::choose(i, 0, 0, 1, [&]<class Tile>() {
      check_product<Elem>({.W = Tile::BM + 1, .I = 20, .I2 = 9, .N = Tile::BN + 2}, i);
    });
}

TEST_CASE_TEMPLATE("gather_gemm/weight_grad_every_tile", Elem, float, bf16) {
  using Tiles = kernels::WeightGradTiles<Elem>;
  for (int i = 0; i < Tiles::kCount;
       ++i)  // M is 3 taps x channels: one tile and a bit of the first source, a part of the second
    Tiles::choose(i, 0, 0, 1, [&]<class Tile>() {
      check_weight_grad<Elem>({.W = 70, .I = Tile::BM / 3 + 2, .I2 = 5, .N = Tile::BN + 2}, i);
    });
}

TEST_CASE("gather_gemm/rule/layers_of_the_networks") {
  const auto picked = []<class Tiles>(std::type_identity<Tiles>, std::int64_t M, std::int64_t N, std::int64_t splits) {
    std::pair<int, int> tile;
    Tiles::choose(kernels::kChooseTile, M, N, splits, [&]<class Tile>() { tile = {Tile::BM, Tile::BN}; });
    return tile;
  };
  constexpr std::type_identity<kernels::GatherGemmTiles<bf16>> product{};
  constexpr std::int64_t kPositions = 64 * 8 * 64 * 64;  // a batch at full resolution
  CHECK(picked(product, kPositions, 56, 1) == std::pair(256, 56));
  CHECK(picked(product, kPositions, 96, 1) == std::pair(256, 96));
  CHECK(picked(product, kPositions, 104, 1) == std::pair(192, 104));
  CHECK(picked(product, kPositions, 8, 1) == std::pair(128, 16));
  CHECK(picked(product, kPositions / 4, 184, 1) == std::pair(256, 96));
  CHECK(picked(product, 16, 12400, 1) == std::pair(32, 32));
}

TEST_CASE("gather_gemm/wide_tiles_in_every_order") {
  for_each_order([] {
    check_product<bf16>({.W = 193, .I = 12, .I2 = 3, .N = 104}, 6);
    check_weight_grad<bf16>({.W = 300, .I = 12, .I2 = 3, .N = 20}, 2);
  });
}

}  // namespace avid::test
