// tests/sim/gather_gemm_halo_test.cpp -- windows whose rows are read once, on mma.sync
#include <string>

#include "kernels/device/conv_tiles.h"
#include "tests/sim/gather_conv.h"
#include "tests/sim/gather_line.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::kFirstHaloMmaTile;

/// 3x3 windows in two planes of 6x8, three chunks of channels.
kernels::GatherGemm<bf16> plane_product() {
  kernels::GatherGemm<bf16> p;
  p.B = 2;
  p.y = {.source = 6, .result = 6, .taps = 3, .stride = 1, .padding = 1};
  p.x = {.source = 8, .result = 8, .taps = 3, .stride = 1, .padding = 1};
  p.source[0].chunks = 2, p.source[1].chunks = 1;
  return p;
}
/// A block of 64 positions with 1000 bytes beside the tile, which takes at least 500; steps of four entries.
kernels::HaloNeeds needs(std::size_t limit, std::size_t least = 500) {
  return {.BM = 64, .other_bytes = 1000, .least_tile_bytes = least, .limit_bytes = limit, .entries_per_step = 4};
}

}  // namespace

TEST_CASE("gather_gemm_halo/plan/the raster and what a block needs") {
  const kernels::HaloPlan h = kernels::halo_plan(plane_product(), needs(100000));
  CHECK(h.pitch == 9);
  CHECK(h.rows == 7);
  CHECK(h.M == 2 * 7 * 9);
  CHECK(h.lead == 10);  // one row and one position
  CHECK(h.needed == 10 + 64 + 10);
  CHECK(h.plane == 85);  // odd
  CHECK(h.passes == 1);
  CHECK(h.planes_per_pass == 3);
  CHECK(h.entries == 16);  // 9 of the pair of planes, 5 pairs of taps of the third, whole steps
  CHECK(h.entries_per_pass == 16);
  CHECK(h.tile_bytes == 3 * 85 * 16);
  CHECK(h.shared_bytes == 3 * 85 * 16 + 1000 + 84 / 4 * 16 + 16 * 16);
  CHECK(kernels::halo_plan(plane_product(), needs(h.shared_bytes)).passes == 1);

  // The epilogue wants more than the tile has.
  const kernels::HaloPlan wide = kernels::halo_plan(plane_product(), needs(100000, 5000));
  CHECK(wide.tile_bytes == 5000);
  CHECK(wide.shared_bytes == h.shared_bytes + 5000 - h.tile_bytes);

  // A byte less than one pass needs: two planes, then one.
  const kernels::HaloPlan twice = kernels::halo_plan(plane_product(), needs(h.shared_bytes - 1));
  CHECK(twice.pitch == 9);
  CHECK(twice.passes == 2);
  CHECK(twice.planes_per_pass == 2);
  CHECK(twice.entries_per_pass == 12);
  CHECK(twice.entries == 12 + 8);
  CHECK(twice.tile_bytes == 2 * 85 * 16);
  CHECK(twice.shared_bytes == 2 * 85 * 16 + 1000 + 84 / 4 * 16 + 16 * 20);
  CHECK(kernels::halo_plan(plane_product(), needs(twice.shared_bytes)).pitch == 9);
  CHECK(kernels::halo_plan(plane_product(), needs(twice.shared_bytes - 1)).pitch == 0);

  // Windows that reach further along x than along y.
  kernels::GatherGemm<bf16> flat = plane_product();
  flat.x.taps = 5, flat.x.padding = 2;
  const kernels::HaloPlan wider = kernels::halo_plan(flat, needs(100000));
  CHECK(wider.pitch == 10);
  CHECK(wider.rows == 7);
  CHECK(wider.lead == 12);
}

TEST_CASE("gather_gemm_halo/plan/none unless the windows lie in a raster") {
  const auto has_plan = [](const kernels::GatherGemm<bf16>& p) {
    return kernels::halo_plan(p, needs(100000)).pitch > 0;
  };
  CHECK(has_plan(plane_product()));
  using Axis = kernels::GatherAxis kernels::GatherGemm<bf16>::*;
  for (const Axis axis :
       {&kernels::GatherGemm<bf16>::t, &kernels::GatherGemm<bf16>::y, &kernels::GatherGemm<bf16>::x}) {
    for (int change = 0; change < 3; ++change) {  // each alone
      auto p = plane_product();
      if (change == 0) (p.*axis).stride = 2;
      if (change == 1) --(p.*axis).result;
      if (change == 2) ++(p.*axis).result;
      CHECK_FALSE(has_plan(p));
    }
  }
  auto p = plane_product();
  p.t.taps = 3;  // a window in time
  CHECK_FALSE(has_plan(p));
  p = plane_product();
  p.t.padding = 1;
  CHECK_FALSE(has_plan(p));
  p = plane_product();
  p.y.taps = 1, p.y.padding = 0;
  CHECK(has_plan(p));  // along one axis
  p.x.taps = 1, p.x.padding = 0;
  CHECK_FALSE(has_plan(p));  // one tap
  p = plane_product();
  p.B = 1 << 26;  // positions past 2^31
  CHECK_FALSE(has_plan(p));
}

TEST_CASE("gather_gemm_halo/line/around a tile") {
  for (const std::int64_t W : {1, 255, 256, 257})
    check_product<bf16>({.W = W, .I = 20, .I2 = 9, .N = 58}, kFirstHaloMmaTile);
}

TEST_CASE("gather_gemm_halo/convolutions") {
  check_conv(5, 7, 3, 1, 1, 50, 0, 50, kFirstHaloMmaTile);
  check_conv(3, 17, 3, 1, 1, 1, 0, 3, kFirstHaloMmaTile);
  check_conv(6, 9, 3, 1, 1, 8, 7, 3, kFirstHaloMmaTile);
  check_conv(9, 8, 7, 1, 3, 16, 0, 10, kFirstHaloMmaTile);  // input convolution
  check_conv(4, 5, 5, 1, 2, 90, 0, 1, kFirstHaloMmaTile);
  check_conv(5, 4, 3, 1, 1, 320, 330, 20, kFirstHaloMmaTile);  // channels in several passes
}

TEST_CASE("gather_gemm_halo/in_every_order") {
  for_each_order([] {
    check_product<bf16>({.W = 257, .I = 50, .I2 = 3, .N = 8}, kFirstHaloMmaTile);
    check_product<bf16>({.W = 20, .I = 300, .I2 = 3, .N = 8}, kFirstHaloMmaTile);  // two passes
  });
}

TEST_CASE("gather_gemm_halo/rule/narrow layers of full resolution, and refused where windows do not lie in a raster") {
  kernels::GatherGemm<bf16> p;
  p.B = 16 * 8, p.y = p.x = {.source = 64, .result = 64, .taps = 3, .stride = 1, .padding = 1};
  p.source[0].chunks = 7;
  constexpr std::int64_t kPositions = 16 * 8 * 64 * 64;
  CHECK(kernels::choose_halo_tile(p, kPositions, 56) == kFirstHaloMmaTile);
  CHECK(kernels::choose_halo_tile(p, kPositions, 96) == kernels::kChooseTile);  // 256x96 is as fast
  p.B = 1;
  CHECK(kernels::choose_halo_tile(p, 64 * 64, 56) == kernels::kChooseTile);  // few blocks
  p.B = 16 * 8;
  p.x.stride = 2;
  CHECK(kernels::choose_halo_tile(p, kPositions, 56) == kernels::kChooseTile);
  CHECK_THROWS_AS(check_conv(5, 6, 1, 1, 0, 8, 0, 8, kFirstHaloMmaTile), kernels::GpuError);  // one tap
  CHECK_THROWS_AS(check_conv(8, 6, 4, 2, 1, 8, 0, 8, kFirstHaloMmaTile), kernels::GpuError);  // stride 2
  CHECK_THROWS_AS(check_conv(8, 6, 3, 1, 0, 8, 0, 8, kFirstHaloMmaTile), kernels::GpuError);  // a smaller result
}

TEST_CASE("gather_gemm_halo/traffic/reads less than half of what gathering reads") {
  if (std::string(sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  constexpr int kGathering = 4;  // 256x56 as well: nine reads of every row of 128 bytes, against 256 + 2 * 34 positions
  const std::uint64_t gathered = sectors_read_by_conv(kGathering), halo = sectors_read_by_conv(kFirstHaloMmaTile);
  CHECK(halo > 256 * 4);
  CHECK(2 * halo < gathered);
}

}  // namespace avid::test
