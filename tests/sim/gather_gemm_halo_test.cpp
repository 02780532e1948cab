// tests/sim/gather_gemm_halo_test.cpp -- windows whose rows are read once, on mma.sync
#include <string>

#include "kernels/device/conv_tiles.h"
#include "tests/sim/gather_conv.h"
#include "tests/sim/gather_line.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::kFirstHaloMmaTile;

}  // namespace

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
