// tests/sim/gather_gemm_halo_wgmma_test.cpp -- windows whose rows are read once, on compute capability 9.0
#include <string>
#include <utility>
#include <vector>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/weight_runs.h"
#include "tests/sim/arch.h"
#include "tests/sim/gather_conv.h"
#include "tests/sim/gather_line.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::Conv3dSize;
using kernels::HaloTiles;
using kernels::kFirstHaloTile;
using kernels::kFirstWgmmaTile;

}  // namespace

TEST_CASE("gather_gemm_halo_wgmma/every_tile") {
  const OnArch arch(90);
  for (int i = 0; i < HaloTiles::kCount; ++i)
    HaloTiles::with(i, [&]<class Tile>() {
      check_product<bf16>({.W = Tile::BM + 1, .I = 20, .I2 = 9, .N = Tile::BN + 2}, kFirstHaloTile + i);
    });
}

// 3x3 of frames of 8x8 patches: strips of five, of one, which a block passes the ends of.
TEST_CASE("gather_gemm_halo_wgmma/every_tile of patches") {
  const OnArch arch(90);
  for (int i = 0; i < HaloTiles::kCount; ++i)
    HaloTiles::with(i, [&]<class Tile>() {
      check_conv(40, 8, 3, 1, 1, 12, 9, Tile::BN + 2, kFirstHaloTile + i);
      check_conv(8, 40, 3, 1, 1, 8, 0, 10, kFirstHaloTile + i);
    });
}

TEST_CASE("gather_gemm_halo_wgmma/patches") {
  const OnArch arch(90);
  with_and_without_tensor_copies([] { check_conv(16, 16, 3, 1, 1, 90, 0, 90, kFirstHaloTile + 1); });
  check_conv(16, 24, 7, 1, 3, 16, 0, 10, kFirstHaloTile + 1);
  check_conv(24, 8, 5, 1, 2, 1, 0, 1, kFirstHaloTile);
  check_conv(16, 8, 3, 1, 1, 200, 180, 20, kFirstHaloTile + 6);  // channels in several passes
  check_conv(16, 12, 3, 1, 1, 20, 0, 20, kFirstHaloTile);        // H is a multiple of 8, W is not
  check_conv(12, 16, 3, 1, 1, 20, 0, 20, kFirstHaloTile);
}

TEST_CASE("gather_gemm_halo_wgmma/plan/no product past the edges where both extents are multiples of 8") {
  kernels::GatherGemm<bf16> p;
  p.B = 6;
  const auto plan = [&](int H, int W, int taps, int chunks) {
    p.y = {.source = H, .result = H, .taps = taps, .stride = 1, .padding = taps / 2};
    p.x = {.source = W, .result = W, .taps = taps, .stride = 1, .padding = taps / 2};
    p.source[0].chunks = chunks;
    return kernels::halo_plan(p, kernels::HaloTile<104, 3, 3>::needs());
  };
  // Three patches are 24 lines; a strip has 8 of them, so that a block may pass one end, and there is a line of zeros.
  const kernels::HaloPlan large = plan(64, 64, 3, 12);
  CHECK(large.products * 64 == 6 * 64 * 64);
  CHECK(large.pitch == 10);
  CHECK(large.group == 10);
  CHECK(large.needed == (24 + 1 + 2) * 10);
  CHECK(large.passes == 1);
  // A strip of 24 lines is one block.
  CHECK(plan(24, 16, 3, 12).needed == (24 + 2) * 10);
  // Two ends at most of strips of one patch. 7x7: three lines of zeros, three positions on both sides.
  CHECK(plan(8, 8, 3, 12).needed == (24 + 2 + 2) * 10);
  CHECK(plan(8, 8, 7, 1).needed == (24 + 2 * 3 + 6) * 14);
  // Elsewhere positions follow one another: rows of W + 1, frames of H + 1.
  const kernels::HaloPlan odd = plan(12, 16, 3, 12);
  CHECK(odd.group == 8);
  CHECK(odd.pitch == 17);
  CHECK(odd.products == (6 * 13 * 17 + 63) / 64);
  // Steps of 4 in turns of 2: 12 planes are 54 products.
  CHECK(large.used_entries == 54);
  CHECK(large.entries == 56);
  // Eight planes a pass take 36, ten would take 45 and be padded to 48: the fewest of all that fit.
  const kernels::HaloPlan wide = plan(16, 16, 3, 50);
  CHECK(wide.passes > 1);
  for (int n = 2; n <= wide.planes_per_pass; n += 2) {
    const int last = (50 - 49 / n * n) / 2 * 9;
    CHECK(wide.used_entries <= 49 / n * ((n / 2 * 9 + 3) / 4 * 4) + (last + 1) / 2 * 2);
  }
}

TEST_CASE("gather_gemm_halo_wgmma/convolutions") {
  const OnArch arch(90);
  with_and_without_tensor_copies([] {
    check_conv(9, 8, 3, 1, 1, 90, 0, 90, kFirstHaloTile + 1);  // an even number of planes
    check_conv(6, 5, 3, 1, 1, 16, 16, 20, kFirstHaloTile);     // of both sources together, weights not packed
    check_conv(3, 4, 7, 1, 3, 30, 2, 10, kFirstHaloTile);      // forward packed, backward one source
  });
  check_conv(5, 7, 3, 1, 1, 50, 0, 50, kFirstHaloTile);
  check_conv(3, 17, 3, 1, 1, 100, 36, 100, kFirstHaloTile + 2);
  check_conv(6, 9, 3, 1, 1, 8, 7, 3, kFirstHaloTile);
  check_conv(9, 8, 7, 1, 3, 16, 0, 10, kFirstHaloTile);  // input convolution
  check_conv(4, 5, 5, 1, 2, 1, 0, 1, kFirstHaloTile);
  check_conv(8, 8, 3, 1, 1, 200, 0, 20, kFirstHaloTile + 2);
  check_conv(5, 4, 3, 1, 1, 320, 330, 20, kFirstHaloTile + 2);  // channels in several passes
}

TEST_CASE("gather_gemm_halo_wgmma/strides/the plan of classes and phases") {
  kernels::GatherGemm<bf16> p;
  p.B = 6;
  p.y = p.x = {.source = 64, .result = 32, .taps = 4, .stride = 2, .padding = 1};
  p.source[0].chunks = 13;
  const auto plan = [&] { return kernels::halo_plan(p, kernels::HaloTile<104, 3, 3>::needs()); };
  const kernels::HaloPlan down = plan();  // windows of 2x2 in four classes
  CHECK(down.classes == 4);
  CHECK(down.planes == 4 * 13);
  CHECK(down.pitch == 9);
  CHECK(down.rows == 33);
  CHECK(down.products * 64 == 6 * 32 * 32);
  CHECK(down.needed == (24 + 1) * 9 + 9);  // a block passes one end of strips of four patches
  CHECK(down.passes == 3);
  CHECK(down.used_entries == 4 * 4 * 13 / 2);
  CHECK(down.entries == down.used_entries);
  const std::size_t beside = kernels::HaloTile<104, 3, 3>::needs().other_bytes;
  CHECK(down.shared_bytes == beside + 18 * 235 * 16 + 4 * 234 * 4 + 104 * 16);

  std::swap(p.y.source, p.y.result), std::swap(p.x.source, p.x.result);
  CHECK(plan().pitch == 0);
  p.adjoint = true;
  const kernels::HaloPlan up = plan();
  CHECK(up.classes == 1);
  CHECK(up.planes == 13);
  CHECK(up.pitch == 9);
  CHECK(up.rows == 33);
  CHECK(up.products * 64 == 6 * 32 * 32);  // of each of four phases
  CHECK(up.needed == down.needed);
  CHECK(up.passes == 1);
  CHECK(up.used_entries == 4 * 6 + 2);

  p.y = p.x = {.source = 31, .result = 62, .taps = 4, .stride = 2, .padding = 1};
  const kernels::HaloPlan odd = plan();
  CHECK(odd.pitch == 32);
  CHECK(odd.needed == 192 + 33);
  CHECK(odd.products == (6 * 32 * 32 + 63) / 64);
}

TEST_CASE("gather_gemm_halo_wgmma/strides/classes of source positions, phases of the adjoint") {
  const OnArch arch(90);
  for (const int tile : {kFirstHaloTile, kFirstHaloTile + 1, kFirstHaloTile + 2, kFirstHaloTile + 6}) {
    check_conv(16, 32, 4, 2, 1, 50, 0, 20, tile);  // patches
    check_conv(48, 16, 4, 2, 1, 9, 12, 100, tile);
    check_conv(10, 14, 4, 2, 1, 50, 0, 20, tile);  // positions in a row
    check_conv(6, 34, 4, 2, 1, 9, 12, 100, tile);
    check_conv(8, 8, 4, 2, 1, 3, 0, 8, tile);
    check_conv(12, 10, 6, 2, 2, 20, 0, 10, tile);
    check_conv(16, 16, 6, 2, 2, 20, 0, 10, tile);
    check_conv(9, 12, 6, 3, 2, 8, 3, 10, tile);
    check_conv(24, 24, 9, 3, 3, 8, 3, 10, tile);
  }
  check_conv(16, 16, 4, 2, 1, 200, 0, 20, kFirstHaloTile + 6);  // passes end within classes
  check_conv(10, 6, 4, 2, 1, 90, 50, 180, kFirstHaloTile + 5);
}

TEST_CASE("gather_gemm_halo_wgmma/strides/chosen by the rule for layers of the networks") {
  const auto chosen = [](std::int64_t clips, int side, int channels, bool adjoint) {
    kernels::GatherGemm<bf16> p;
    p.B = static_cast<int>(clips * 8);
    p.y = p.x = {.source = 2 * side, .result = side, .taps = 4, .stride = 2, .padding = 1};
    p.adjoint = adjoint;
    if (adjoint) std::swap(p.y.source, p.y.result), std::swap(p.x.source, p.x.result);
    p.source[0].chunks = (channels + 7) / 8;
    return kernels::choose_hopper_tile(
        p, clips * 8 * p.y.result * p.x.result, std::int64_t{p.source[0].chunks} * kernels::kChunk<bf16>);
  };
  for (const bool adjoint : {false, true})
    for (const int width : {90, 100})
      for (int level = 0; level < 3; ++level) {
        const int tile = chosen(64, 32 >> level, width << level, adjoint);
        CHECK(tile >= kFirstHaloTile);
        CHECK(tile < kernels::kFirstHaloMmaTile);
      }
}

TEST_CASE("gather_gemm_halo_wgmma/in_every_order") {
  const OnArch arch(90);
  with_and_without_tensor_copies([] { for_each_order([] { check_conv(5, 9, 3, 1, 1, 90, 0, 20, kFirstHaloTile); }); });
  for_each_order([] {
    check_product<bf16>({.W = 129, .I = 100, .I2 = 3, .N = 8}, kFirstHaloTile);
    check_product<bf16>({.W = 20, .I = 700, .I2 = 3, .N = 8}, kFirstHaloTile);
    check_conv(8, 8, 3, 1, 1, 20, 0, 20, kFirstHaloTile + 1);
    check_conv(16, 16, 4, 2, 1, 180, 20, 20, kFirstHaloTile + 6);  // 100 planes in several passes
    check_conv(6, 8, 4, 2, 1, 50, 0, 20, kFirstHaloTile);
  });
}

TEST_CASE("gather_gemm_halo_wgmma/weights/one run where all planes are there in pairs") {
  kernels::GatherGemm<bf16> p;
  p.y = p.x = {.source = 8, .result = 8, .taps = 3, .stride = 1, .padding = 1};
  const auto run = [&](int chunks, int second, int tap, int second_tap, int second_source) {
    p.source[0].chunks = chunks, p.source[1].chunks = second;
    p.weight_tap[0] = tap, p.weight_tap[1] = second_tap, p.weight_source[1] = second_source;
    bool in_a_run = false;
    HaloTiles::with(0, [&]<class Tile>() {
      const kernels::HaloPlan h = kernels::halo_plan(p, Tile::needs());
      REQUIRE(h.pitch != 0);
      in_a_run = kernels::halo_weights_in_a_run(p, h);
    });
    return in_a_run;
  };
  CHECK(run(12, 0, 12, 0, 0));
  CHECK_FALSE(run(12, 0, 13, 0, 0));     // rows of the weights have a gap
  CHECK_FALSE(run(13, 0, 13, 0, 0));     // a plane is left over
  CHECK_FALSE(run(40, 40, 80, 80, 40));  // several passes
  CHECK(run(4, 2, 6, 6, 4));
  CHECK(run(3, 3, 6, 6, 3));
  CHECK_FALSE(run(4, 2, 4, 2, 36));  // packed: all taps of the first source come first
  p.y.source = p.x.source = 16, p.y.taps = p.x.taps = 4, p.y.stride = p.x.stride = 2;
  CHECK_FALSE(run(2, 0, 2, 0, 0));  // every other tap
}

TEST_CASE("gather_gemm_halo_wgmma/refused where windows do not lie in a raster") {
  const OnArch arch(90);
  CHECK_THROWS_AS(check_conv(5, 6, 1, 1, 0, 8, 0, 8, kFirstHaloTile), kernels::GpuError);  // one tap
  CHECK_THROWS_AS(check_conv(8, 6, 3, 2, 1, 8, 0, 8, kFirstHaloTile), kernels::GpuError);  // one tap or two
  CHECK_THROWS_AS(check_conv(8, 6, 2, 2, 0, 8, 0, 8, kFirstHaloTile), kernels::GpuError);  // one of every class
  CHECK_THROWS_AS(check_conv(9, 6, 4, 2, 1, 8, 0, 8, kFirstHaloTile), kernels::GpuError);  // half a row is left
  CHECK_THROWS_AS(check_conv(8, 6, 3, 1, 0, 8, 0, 8, kFirstHaloTile), kernels::GpuError);  // a smaller result
}

TEST_CASE("gather_gemm_halo_wgmma/chosen by the rule for deep levels") {
  const auto chosen = [](std::int64_t clips) {
    kernels::GatherGemm<bf16> p;
    p.B = static_cast<int>(clips * 8);
    p.y = p.x = {.source = 8, .result = 8, .taps = 3, .stride = 1, .padding = 1};
    p.source[0].chunks = 100;
    const int tile = kernels::choose_hopper_tile(p, clips * 8 * 64, 800);
    int rows = 0;
    HaloTiles::with(tile - kFirstHaloTile, [&]<class Tile>() { rows = Tile::BM; });
    return rows;
  };
  CHECK(chosen(1) == 64);  // 104 blocks where wider tiles make 28
  CHECK(chosen(2) == 128);
  CHECK(chosen(64) == 128);
}

TEST_CASE("gather_gemm_halo_wgmma/chosen by the rule for a batch of frames") {
  if (std::string(sim_suite()) != "sim") return;  // 41 thousand positions
  const OnArch arch(90);
  constexpr std::int64_t kSide = 64, kI = 16, kO = 50;
  Conv3dSize s{.B = 10, .in = {1, kSide, kSide}, .I = kI, .O = kO, .kernel = {1, 3, 3}, .padding = {0, 1, 1}};
  s.out = s.in;
  const auto x = DeviceRows<bf16>::random(s.in_positions(), kI, 1), w = DeviceRows<bf16>::random(kO * 9, kI, 2);
  auto out = DeviceRows<bf16>::poisoned(s.out_positions(), kO);
  kernels::GatherGemm<bf16> p;
  kernels::conv_products::set_axes(p, kernels::conv_products::axes_of("test", s, false));
  p.source[0].chunks = kI / 8;
  CHECK(kernels::choose_hopper_tile(p, s.out_positions(), 56) == kFirstHaloTile);
  kernels::conv3d_fwd<Sim, bf16>(Stream{}, s, x.rows(), {}, w.rows(), nullptr, out.rows(), nullptr);
  CHECK(out.gaps_are_zero());
  Values pick(3);
  std::vector<double> got, expected;
  for (int i = 0; i < 300; ++i) {  // a sample, with the corners of the first and last frame
    const auto at = static_cast<std::int64_t>((pick.next() + 1) / 2 * static_cast<double>(s.out_positions()));
    const std::int64_t corners[] = {0, kSide - 1, s.out_positions() - kSide, s.out_positions() - 1};
    const std::int64_t row = i < 4 ? corners[i] : at, py = row / kSide % kSide, px = row % kSide;
    for (std::int64_t n = 0; n < kO; ++n) {
      double sum = 0.0;
      for (std::int64_t k = 0; k < 9; ++k) {
        const std::int64_t y = py + k / 3 - 1, c = px + k % 3 - 1;
        if (y < 0 || y >= kSide || c < 0 || c >= kSide) continue;
        for (std::int64_t j = 0; j < kI; ++j)
          sum += static_cast<double>(static_cast<float>(x.at(row + (k / 3 - 1) * kSide + k % 3 - 1)[j])) *
                 static_cast<double>(static_cast<float>(w.at(n * 9 + k)[j]));
      }
      expected.push_back(sum);
      got.push_back(static_cast<double>(static_cast<float>(out.at(row)[n])));
    }
  }
  CHECK(worst_error(got, expected, kUnit<bf16>) < 1.0);
}

TEST_CASE("gather_gemm_halo_wgmma/results go through shared memory without bank conflicts") {
  if (std::string(sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  const OnArch arch(90);
  CHECK(staging_passes_of_conv(kFirstHaloTile + 1) < 1.1);
}

TEST_CASE("gather_gemm_halo_wgmma/reads less than half of what gathering reads") {
  if (std::string(sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  const OnArch arch(90);
  // Both of 256 rows: nine reads of every row of 128 bytes, against those of 256 + 2 * 34 positions.
  const std::uint64_t gathered = sectors_read_by_conv(kFirstWgmmaTile), halo = sectors_read_by_conv(kFirstHaloTile);
  CHECK(halo > 256 * 4);
  CHECK(2 * halo < gathered);
}

}  // namespace avid::test
