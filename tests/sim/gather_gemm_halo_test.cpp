// tests/sim/gather_gemm_halo_test.cpp -- windows whose rows are read once, on mma.sync
#include <string>
#include <utility>

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

/// The number of the tile of HaloMmaTiles with these rows and columns.
int tile_of(int rows, int columns) {
  int found = -1;
  kernels::HaloMmaTiles::for_each([&]<class Entry>(int i) {
    if (Entry::Tile::BM == rows && Entry::Tile::BN == columns) found = kFirstHaloMmaTile + i;
  });
  return found;
}

}  // namespace

TEST_CASE("gather_gemm_halo/plan/the raster and what a block needs") {
  const kernels::HaloPlan h = kernels::halo_plan(plane_product(), needs(100000));
  CHECK(h.pitch == 9);
  CHECK(h.rows == 7);
  CHECK(h.M == 2 * 7 * 9);
  CHECK(h.needed == 64 + 2 * 10);  // two rows and two positions
  CHECK(h.plane == 85);            // odd
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
  CHECK(wider.needed == 64 + 2 * 10 + 4);
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

TEST_CASE("gather_gemm_halo/ring/the copy in shared memory has the raster, the blocks have results") {
  kernels::HaloNeeds ring = needs(100000);
  ring.rows_per_copy = 16;
  const auto plan = [&](const kernels::GatherGemm<bf16>& p, int ahead = 2) {
    return kernels::halo_ring_plan(p, ring, ahead);
  };
  const kernels::HaloPlan h = plan(plane_product());
  CHECK(h.pitch == 9);
  CHECK(h.rows == 7);
  CHECK(h.lead == 10);
  // 64 results are 8 rows of 8, which pass 7 ends of rows, and at most one of a plane of 48.
  CHECK(h.needed == 10 + 64 + 7 + 9 + 10);
  CHECK(h.plane == 106);  // 2 modulo 8
  CHECK(h.passes == 1);
  CHECK(h.whole_entries == 13);  // 9 of the pair of planes, 4 pairs of taps of the third
  CHECK(h.words == 4);           // its ninth tap
  CHECK(h.entries == 14);
  CHECK(h.tile_bytes == 3 * 106 * 16);
  CHECK(h.shared_bytes == 3 * 106 * 16 + 1000 + 100 * 4 + 2 * 16 + 14 * 16 + 8 * 12);
  CHECK(h.copies_per_step == 0);
  ring.limit_bytes = h.shared_bytes;
  CHECK(plan(plane_product()).pitch == 9);
  ring.limit_bytes = h.shared_bytes - 1;
  CHECK(plan(plane_product()).pitch == 0);
  ring.limit_bytes = 100000;

  kernels::GatherGemm<bf16> odd = plane_product();
  odd.x.source = odd.x.result = 7;  // blocks begin anywhere in a row: 9 ends, and 2 of planes of 42
  CHECK(plan(odd).needed == 9 + 64 + 9 + 2 * 8 + 9);

  kernels::GatherGemm<bf16> deep = plane_product();
  deep.source[0].chunks = 9, deep.source[1].chunks = 4;
  const kernels::HaloPlan d = plan(deep);
  CHECK(d.passes == 4);
  CHECK(d.entries_per_pass == 18);
  CHECK(d.entries == 3 * 18 + 5);  // 5 pairs of taps of the last plane
  CHECK(d.ring_entries() == 60);   // half of the last step is nothing
  CHECK(d.tile_bytes == 8 * 106 * 16);
  CHECK(d.copies_per_step == 1);  // 7 turns of 16 rows in 8 of 9 steps
  ring.rows_per_copy = 8;
  CHECK(plan(deep).copies_per_step == 2);  // 14 turns

  kernels::GatherGemm<bf16> narrow = deep;  // 2 taps
  narrow.y.taps = 1, narrow.y.padding = 0, narrow.x.taps = 2;
  CHECK(plan(narrow, 2).pitch > 0);
  CHECK(plan(narrow, 3).pitch == 0);  // no step is that far ahead of the next group
  narrow.source[0].chunks = 2, narrow.source[1].chunks = 0;
  CHECK(plan(narrow, 3).pitch > 0);
  deep.source[0].chunks = deep.source[1].chunks = 0;
  CHECK(plan(deep).pitch == 0);

  kernels::GatherGemm<bf16> half = plane_product();  // 4x4 windows with stride 2
  half.y = {.source = 12, .result = 6, .taps = 4, .stride = 2, .padding = 1};
  half.x = {.source = 16, .result = 8, .taps = 4, .stride = 2, .padding = 1};
  kernels::HaloPlan s = plan(half);
  CHECK(s.pitch == 9);
  CHECK(s.rows == 7);
  CHECK(s.needed == h.needed);
  CHECK(s.planes == 4 * 3);
  CHECK(s.passes == 3);
  CHECK(s.entries == 3 * 8);  // four taps of every class
  std::swap(half.y.source, half.y.result), std::swap(half.x.source, half.x.result);
  CHECK(plan(half).pitch == 0);
  half.adjoint = true;
  s = plan(half);
  CHECK(s.pitch == 9);
  CHECK(s.planes == 3);
  CHECK(s.entries == 4 + 2);
}

TEST_CASE("gather_gemm_halo/ring/tails are kept as words, and multiplied at several taps at once") {
  CHECK(kernels::tail_words(0) == 0);
  CHECK(kernels::tail_words(8) == 0);
  CHECK(kernels::tail_words(9) == 1);
  CHECK(kernels::tail_words(90) == 1);
  CHECK(kernels::tail_words(11) == 2);
  CHECK(kernels::tail_words(100) == 2);
  CHECK(kernels::tail_words(13) == 0);
  CHECK(kernels::tail_words(15) == 0);

  kernels::HaloNeeds ring = needs(100000);
  ring.rows_per_copy = 16;
  kernels::GatherGemm<bf16> p = plane_product();
  p.source_channels[0] = 10, p.source_channels[1] = 4;  // a chunk and a word; two words
  kernels::HaloPlan h = kernels::halo_ring_plan(p, ring, 2);
  CHECK(h.whole[0] == 1);
  CHECK(h.whole[1] == 0);
  CHECK(h.planes == 1);
  CHECK(h.tails == 2);
  CHECK(h.tail_words == 2);
  CHECK(h.whole_entries == 4);      // pairs of taps of the one plane
  CHECK(h.words == 4 + 2 * 9 * 2);  // its last tap, two tails of two words at nine
  CHECK(h.entries == 4 + 5);
  CHECK(h.ring_bytes == 106 * 16);
  CHECK(h.tile_bytes == 106 * 16 + 2 * 100 * 8);
  CHECK(h.shared_bytes == h.tile_bytes + 1000 + 100 * 4 + 2 * 16 + 10 * 16 + 5 * 8 * 12);
  p.source_channels[0] = 16, p.source_channels[1] = 5;  // no tails
  h = kernels::halo_ring_plan(p, ring, 2);
  CHECK(h.tails == 0);
  CHECK(h.planes == 3);
  p.source[0].chunks = 1, p.source[1].chunks = 0;
  p.source_channels[0] = 3, p.source_channels[1] = 0;  // nothing else: a plane
  h = kernels::halo_ring_plan(p, ring, 2);
  CHECK(h.tails == 0);
  CHECK(h.planes == 1);
  CHECK(h.pitch == 9);
  p.source[0].chunks = 9, p.source_channels[0] = 66;  // the words are beside a ring that is full
  h = kernels::halo_ring_plan(p, ring, 2);
  CHECK(h.tails == 1);
  CHECK(h.planes == 8);
  ring.limit_bytes = h.shared_bytes - 1;
  h = kernels::halo_ring_plan(p, ring, 2);
  CHECK(h.tails == 0);  // another plane takes its turn in the ring
  CHECK(h.planes == 9);
  CHECK(h.pitch == 9);

  // The networks' layers: 9 taps of 90 channels are 50.6 entries of 16, of whole chunks 54.
  const auto entries = [](int channels, int channels2, int taps) {
    kernels::GatherGemm<bf16> q;
    q.B = 8;
    q.y = q.x = {.source = 64, .result = 64, .taps = taps, .stride = 1, .padding = taps / 2};
    q.source_channels[0] = channels, q.source_channels[1] = channels2;
    for (int s = 0; s < 2; ++s) q.source[s].chunks = (q.source_channels[s] + 7) / 8;
    const kernels::HaloPlan plan =
        kernels::halo_ring_plan(q, kernels::halo_needs<kernels::GemmTile<256, 104, 64, 104, 3>>(), 2);
    CHECK(plan.pitch > 0);
    return plan.entries;
  };
  CHECK(entries(90, 0, 3) == 51);
  CHECK(entries(90, 90, 3) == 102);
  CHECK(entries(100, 0, 3) == 57);
  CHECK(entries(100, 100, 3) == 113);
  CHECK(entries(180, 0, 3) == 102);
  CHECK(entries(200, 0, 3) == 113);
  CHECK(entries(9, 0, 7) == 31);
  CHECK(entries(12, 0, 7) == 37);
}

TEST_CASE("gather_gemm_halo/line/around a tile") {
  for (const std::int64_t W : {1, 255, 256, 257})
    check_product<bf16>({.W = W, .I = 20, .I2 = 9, .N = 58}, kFirstHaloMmaTile);
}

TEST_CASE("gather_gemm_halo/every_tile") {
  using Tiles = kernels::HaloMmaTiles;
  for (int i = 0; i < Tiles::kCount; ++i)
    Tiles::with(i, [&]<class Tile>() {
      const int tile = kFirstHaloMmaTile + i;
      check_product<bf16>({.W = Tile::BM + 1, .I = 20, .I2 = 9, .N = Tile::BN + 2}, tile);
      check_conv(5, 21, 3, 1, 1, 50, 0, Tile::BN, tile);
      check_conv(19, 8, 3, 1, 1, 90, 90, 10, tile);
      check_conv(9, 8, 7, 1, 3, 4, 3, 10, tile);
      check_conv(9, 8, 7, 1, 3, 9, 0, 10, tile);  // input convolution
    });
}

TEST_CASE("gather_gemm_halo/convolutions") {
  const int wide = tile_of(256, 96);
  check_conv(5, 7, 3, 1, 1, 50, 0, 50, kFirstHaloMmaTile);
  check_conv(3, 17, 3, 1, 1, 1, 0, 3, kFirstHaloMmaTile);
  check_conv(6, 9, 3, 1, 1, 8, 7, 3, kFirstHaloMmaTile);
  check_conv(9, 10, 5, 1, 2, 90, 0, 1, kFirstHaloMmaTile);
  check_conv(6, 64, 3, 1, 1, 90, 0, 90, wide);
  check_conv(5, 64, 3, 1, 1, 100, 0, 100, tile_of(256, 104));
  check_conv(9, 32, 3, 1, 1, 180, 0, 20, wide);
  check_conv(17, 16, 3, 1, 1, 90, 90, 20, wide);  // d_x and d_x2 in two columns of blocks
  check_conv(8, 8, 3, 1, 1, 360, 0, 20, tile_of(192, 120));
  check_conv(8, 8, 3, 1, 1, 180, 0, 180, tile_of(128, 184));
  check_conv(7, 5, 3, 1, 1, 200, 0, 200, tile_of(128, 200));
  check_conv(8, 8, 3, 1, 1, 320, 330, 20, kFirstHaloMmaTile);
  for (const std::int64_t left : {1, 2, 3, 4, 5}) {  // channels of the last chunk of a source, or of both
    check_conv(7, 9, 3, 1, 1, 16 + left, 0, 32 + left, kFirstHaloMmaTile);
    check_conv(7, 9, 3, 1, 1, 8 + left, 16, 20, kFirstHaloMmaTile);
    check_conv(7, 9, 3, 1, 1, 8, left, 20, wide);
    check_conv(7, 9, 3, 1, 1, left, 40 + left, 20, kFirstHaloMmaTile);
    check_conv(7, 9, 5, 1, 2, 24 + left, 1, 20, wide);
  }
}

TEST_CASE("gather_gemm_halo/strides/classes of source positions, phases of the adjoint") {
  for (const int tile : {kFirstHaloMmaTile, tile_of(256, 96), tile_of(128, 104)}) {
    check_conv(10, 14, 4, 2, 1, 50, 0, 20, tile);
    check_conv(6, 34, 4, 2, 1, 9, 12, 100, tile);  // 4 planes hold two classes
    check_conv(8, 8, 4, 2, 1, 3, 0, 8, tile);
    check_conv(12, 10, 6, 2, 2, 20, 0, 10, tile);
    check_conv(9, 12, 6, 3, 2, 8, 3, 10, tile);
    check_conv(8, 8, 4, 2, 1, 180, 0, 20, tile);
  }
}

TEST_CASE("gather_gemm_halo/in_every_order") {
  for_each_order([] {
    check_product<bf16>({.W = 257, .I = 50, .I2 = 3, .N = 8}, kFirstHaloMmaTile);
    check_product<bf16>({.W = 20, .I = 300, .I2 = 3, .N = 8}, kFirstHaloMmaTile);
    check_product<bf16>({.W = 130, .I = 100, .I2 = 3, .N = 106}, tile_of(128, 104));
  });
}

TEST_CASE("gather_gemm_halo/rule/layers of the networks, and refused where windows do not lie in a raster") {
  const auto chosen = [](std::int64_t clips, int side, std::int64_t channels, std::int64_t columns, int stride = 1) {
    kernels::GatherGemm<bf16> p;
    p.B = static_cast<int>(clips * 8);
    p.y = p.x = {.source = side * stride, .result = side, .taps = 3, .stride = stride, .padding = 1};
    p.source[0].chunks = static_cast<int>(kernels::chunks_of<bf16>(channels));
    const std::int64_t N = kernels::chunks_of<bf16>(columns) * 8;
    return kernels::choose_halo_tile(p, clips * 8 * side * side, N);
  };
  CHECK(chosen(64, 64, 50, 50) == tile_of(256, 56));
  CHECK(chosen(64, 64, 90, 90) == tile_of(256, 96));
  CHECK(chosen(64, 64, 100, 100) == tile_of(256, 104));
  CHECK(chosen(64, 32, 180, 180) == tile_of(128, 184));
  CHECK(chosen(64, 16, 360, 360) == tile_of(192, 120));
  CHECK(chosen(64, 16, 400, 400) == tile_of(256, 80));
  CHECK(chosen(64, 64, 90, 90, 2) == kernels::kChooseTile);  // no raster
  CHECK(chosen(1, 8, 720, 720) == tile_of(64, 64));          // a clip's deepest level: blocks for more multiprocessors
  CHECK(chosen(1, 2, 720, 720) == kernels::kChooseTile);     // few positions
  CHECK_THROWS_AS(check_conv(5, 6, 1, 1, 0, 8, 0, 8, kFirstHaloMmaTile), kernels::GpuError);  // one tap
  CHECK_THROWS_AS(check_conv(8, 6, 3, 2, 1, 8, 0, 8, kFirstHaloMmaTile), kernels::GpuError);  // one tap or two
  CHECK_THROWS_AS(check_conv(8, 6, 2, 2, 0, 8, 0, 8, kFirstHaloMmaTile), kernels::GpuError);  // one of every class
  CHECK_THROWS_AS(check_conv(9, 6, 4, 2, 1, 8, 0, 8, kFirstHaloMmaTile), kernels::GpuError);  // half a row is left
  CHECK_THROWS_AS(check_conv(8, 6, 3, 1, 0, 8, 0, 8, kFirstHaloMmaTile), kernels::GpuError);  // a smaller result
}

TEST_CASE("gather_gemm_halo/traffic/reads less than half of what gathering reads") {
  if (std::string(sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  constexpr int kGathering =
      4;  // 256x56 as well: nine reads of every row of 128 bytes, against 256 + 7 + 2 * 34 positions
  const std::uint64_t gathered = sectors_read_by_conv(kGathering), halo = sectors_read_by_conv(kFirstHaloMmaTile);
  CHECK(halo > 256 * 4);
  CHECK(2 * halo < gathered);
}

}  // namespace avid::test
