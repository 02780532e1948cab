// tests/sim/gather_gemm_wgmma_test.cpp -- the tiles of compute capability 9.0: every one, and convolutions with them
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

using kernels::HaloTiles;
using kernels::kFirstHaloTile;
using kernels::kFirstWgmmaTile;
using kernels::WgmmaTiles;

constexpr int kNarrow = kFirstWgmmaTile, k96 = kFirstWgmmaTile + 1, k104 = kFirstWgmmaTile + 2;

// Oracle: the chunk of every weight that the kernel's walk comes to, one after the other, as the contract has it.
bool walk_is_a_run(const kernels::GatherGemm<bf16>& p) {
  int i = 0;
  bool run = true;
  const auto taps_of = [&](const kernels::GatherAxis& a, int phase) {  // of one phase, ascending
    std::vector<int> taps;
    for (int k = 0; k < a.taps; ++k)
      if (!p.adjoint || (phase + a.padding - k) % a.stride == 0) taps.push_back(k);
    return taps;
  };
  const auto phases = [&](const kernels::GatherAxis& a) { return p.adjoint ? a.stride : 1; };
  for (int pt = 0; pt < phases(p.t); ++pt)
    for (int py = 0; py < phases(p.y); ++py)
      for (int px = 0; px < phases(p.x); ++px) {
        i = 0;
        for (int s = 0; s < 2; ++s)
          for (const int t : taps_of(p.t, pt))
            for (const int y : taps_of(p.y, py))
              for (const int x : taps_of(p.x, px))
                for (int c = 0; c < p.source[s].chunks; ++c, ++i) {
                  const int tap = (t * p.y.taps + y) * p.x.taps + x;
                  run = run && p.weight_source[s] + tap * p.weight_tap[s] + c == p.weight_source[0] + i;
                }
      }
  return run;
}

}  // namespace

TEST_CASE("gather_gemm_wgmma/every_tile") {
  const OnArch arch(90);
  with_and_without_tensor_copies([] {
    for (int i = 0; i < WgmmaTiles::kCount; ++i)
      WgmmaTiles::with(i, [&]<class Tile>() {
        check_product<bf16>({.W = Tile::BM + 1, .I = 20, .I2 = 9, .N = Tile::BN + 2}, kFirstWgmmaTile + i);
      });
  });
}

TEST_CASE("gather_gemm_wgmma/inner_dimension/fewer and more steps than stages") {
  const OnArch arch(90);
  for (const std::int64_t I : {1, 40, 64, 65, 150, 200})
    check_product<bf16>({.W = 60, .I = I, .I2 = 3, .N = 50}, kNarrow);
}

TEST_CASE("gather_gemm_wgmma/rows/around a tile") {
  const OnArch arch(90);
  for (const std::int64_t W : {1, 255, 256}) check_product<bf16>({.W = W, .I = 12, .I2 = 3, .N = 8}, kNarrow);
}

TEST_CASE("gather_gemm_wgmma/in_every_order") {
  const OnArch arch(90);
  with_and_without_tensor_copies(
      [] { for_each_order([] { check_product<bf16>({.W = 257, .I = 100, .I2 = 3, .N = 96}, k96); }); });
}

TEST_CASE("gather_gemm_wgmma/convolutions") {
  const OnArch arch(90);
  with_and_without_tensor_copies([] {
    check_conv(5, 7, 3, 1, 1, 50, 0, 50, kNarrow);
    check_conv(9, 8, 3, 1, 1, 90, 0, 90, k96);
    check_conv(8, 8, 3, 1, 1, 100, 36, 100, k104);
    check_conv(6, 9, 3, 1, 1, 8, 7, 3, kNarrow);
    check_conv(5, 6, 1, 1, 0, 30, 20, 60, kNarrow);
    check_conv(5, 6, 1, 1, 0, 32, 24, 60, kNarrow);  // two sources, weights where they are
    check_conv(8, 6, 4, 2, 1, 24, 0, 16, kNarrow);   // phases of the adjoint
    check_conv(7, 8, 1, 3, 0, 5, 0, 6, kNarrow);     // phases without a tap
  });
}

TEST_CASE("gather_gemm_wgmma/weights/known for one run exactly where the walk meets them so") {
  int runs = 0, others = 0;
  for (const int taps : {1, 3, 4})
    for (const int stride : {1, 2})
      for (const bool adjoint : {false, true})
        for (const int second : {0, 3})
          for (const int pitch : {5, 8, 9})  // of a tap, where both sources stand in one row
            for (const bool packed : {false, true}) {
              kernels::GatherGemm<bf16> p;
              p.adjoint = adjoint;
              p.y = p.x = {.source = 12, .result = 12, .taps = taps, .stride = stride, .padding = taps > 1 ? 1 : 0};
              p.source[0].chunks = 5, p.source[1].chunks = second;
              p.weight_source[0] = 7;
              p.weight_tap[0] = packed ? 5 : pitch, p.weight_tap[1] = packed ? second : pitch;
              p.weight_source[1] = 7 + (packed ? 5 * taps * taps : 5);
              const bool expected = walk_is_a_run(p), got = kernels::weights_in_a_run(p);
              INFO(
                  "taps " << taps << " stride " << stride << (adjoint ? " adjoint" : "") << " second " << second
                          << " pitch " << pitch << (packed ? " packed" : ""));
              // A strided adjoint is left to the threads also where each of its phases has one tap.
              const bool strided = adjoint && stride > 1;
              CHECK((strided ? !got : got == expected));
              ++(got ? runs : others);
            }
  CHECK(runs > 10);
  CHECK(others > 10);
}

TEST_CASE("gather_gemm_wgmma/weights/tensor copies ask once for what threads ask for in pieces") {
  if (std::string(sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  const OnArch arch(90);
  std::uint64_t sectors[2], requests[2];
  for (const bool allowed : {false, true}) {
    const TensorCopiesAllowed with(allowed);
    sectors[allowed] = requests[allowed] = 0;
    for (const kernels::simulator::TrafficLine& line : traffic_of_conv(64, 96, k96)) {
      if (line.shared || line.write) continue;
      sectors[allowed] += line.units;
      requests[allowed] += line.requests;
    }
  }
  CHECK(sectors[0] == sectors[1]);
  // Nine steps of 96 rows of 8 chunks: 24 requests of a warp each, or one.
  CHECK(requests[0] == requests[1] + 9 * (24 - 1));
}

TEST_CASE("gather_gemm_wgmma/device/left out where it is not allowed") {
  const OnArch arch(90);
  REQUIRE(kernels::have_wgmma<Sim>());
  kernels::allow_wgmma(false);
  CHECK_FALSE(kernels::have_wgmma<Sim>());
  const Line line{.W = 40, .I = 8, .I2 = 3, .N = 8};
  CHECK_THROWS_WITH_AS(check_product<bf16>(line, kNarrow), doctest::Contains("AVID_WGMMA is off"), kernels::GpuError);
  check_product<bf16>(line, kernels::kChooseTile);
}

TEST_CASE("gather_gemm_wgmma/device/refused without compute capability 9.0, chosen with it") {
  const Line line{.W = 40, .I = 8, .I2 = 3, .N = 8};
  {
    const OnArch arch(80);
    CHECK_FALSE(kernels::have_wgmma<Sim>());
    std::string text;
    try {
      check_product<bf16>(line, kNarrow);
    } catch (const kernels::GpuError& e) {
      text = e.what();
    }
    CHECK(text.find("compute capability 9.0") != std::string::npos);
  }
  const OnArch arch(90);
  CHECK(kernels::have_wgmma<Sim>());
  constexpr std::int64_t kPositions = 16 * 8 * 64 * 64;
  kernels::GatherGemm<bf16> p;  // 1x1
  p.source[0].chunks = 100;
  const auto columns = [&](std::int64_t M, std::int64_t N) {
    int BN = 0;
    const int tile = kernels::choose_hopper_tile(p, M, N);
    WgmmaTiles::with(tile - kFirstWgmmaTile, [&]<class Tile>() { BN = Tile::BN; });
    HaloTiles::with(tile - kFirstHaloTile, [&]<class Tile>() { BN = -Tile::BN; });
    return BN;  // negative: a halo tile
  };
  CHECK(columns(kPositions, 96) == 96);
  CHECK(columns(kPositions, 104) == 104);
  CHECK(columns(kPositions / 16, 800) == 160);
  CHECK(columns(kPositions, 8) == 0);
  CHECK(columns(16, 12400) == 0);  // few rows: FiLM
  p.B = 16 * 8, p.y = p.x = {.source = 64, .result = 64, .taps = 3, .stride = 1, .padding = 1};
  for (const auto& [chunks, N] : {std::pair{12, 96}, {13, 104}, {7, 56}, {24, 96}, {23, 184}, {25, 200}}) {
    p.source[0].chunks = chunks;
    CHECK(columns(kPositions, N) == -N);
  }
  // 400 columns are two of 200.
  p.B = 64 * 8, p.y = p.x = {.source = 8, .result = 8, .taps = 3, .stride = 1, .padding = 1};
  p.source[0].chunks = 50;
  CHECK(columns(64 * 8 * 64, 400) == -200);
  // So few rows that every block has a multiprocessor to itself: small tiles, unless a norm wants whole rows.
  p.B = 16 * 8, p.source[0].chunks = 4, p.out[0].chunks = 23;
  CHECK(columns(16 * 8 * 64, 184) == -128);
  p.norm.F = p.B, p.norm.S = 64, p.norm.C = 180;
  CHECK(columns(16 * 8 * 64, 184) == -184);
}

}  // namespace avid::test
