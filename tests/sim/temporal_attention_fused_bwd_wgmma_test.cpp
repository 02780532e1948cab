// tests/sim/temporal_attention_fused_bwd_wgmma_test.cpp -- temporal attention's backward pass on wgmma, against the CPU
// reference in f64; the whole block, as in temporal_attention_test.cpp, on a device of compute capability 9.0
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/device/backend.h"
#include "kernels/temporal_attention_fused.h"
#include "tests/doctest.h"
#include "tests/sim/arch.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/temporal_attention_case.h"

namespace avid::test {
namespace {

using kernels::Sim;
using kernels::Stream;
using Case = TemporalCase<BFloat16>;

void check(const std::vector<TemporalSize>& sizes, unsigned seed) {
  const OnArch arch(90);
  for (const TemporalSize& size : sizes) check_block(Case(size, seed += 10), 1.2e-2);
}

/// Blocks of the kernel on wgmma, -1 where the backward pass does not launch it.
int wgmma_blocks(const Case& c) {
  for (const ListedLaunch& launch : launches_of([&] { run_device(c); }))
    if (launch.kernel.find("temporal_fused_bwd_wgmma_kernel") == 0) return static_cast<int>(launch.blocks);
  return -1;
}

}  // namespace

TEST_CASE("temporal_attention_fused_bwd_wgmma/8 frames equal the f64 reference up to rounding") {
  check(
      {{1, 8, 3, 50, 2, 50, 16},
       {2, 8, 4, 90, 3, 50, 16, 1},
       {1, 8, 17, 100, 2, 64, 16},  // the last block has one pixel
       {2, 8, 5, 30, 2, 32, 16},    // clips share a block
       {2, 8, 5, 32, 2, 24, 12},    // fewer pairs turn than the table is wide
       {1, 8, 2, 90, 3, 45, 16},    // heads of an odd width, and of widths that end in groups of 16 in every way
       {1, 8, 2, 96, 2, 40, 16},
       {1, 8, 2, 96, 1, 54, 16},
       {1, 8, 2, 56, 3, 56, 16},
       {1, 8, 2, 72, 1, 56, 16},  // fewer chunks than the kernel's
       {1, 8, 2, 97, 2, 60, 16},
       {1, 8, 2, 104, 1, 50, 16}},
      5000);
}

TEST_CASE("temporal_attention_fused_bwd_wgmma/16 frames equal the f64 reference up to rounding") {
  check(
      {{1, 16, 5, 30, 2, 32, 16},  // the four kernels; tiles of 4 pixels, the last one not full
       {1, 16, 5, 50, 1, 50, 16},
       {1, 16, 5, 90, 1, 50, 16},
       {1, 16, 5, 100, 1, 64, 16},
       {2, 16, 5, 89, 3, 49, 16, 1},  // odd channels and heads; a tile never has pixels of two clips
       {2, 16, 5, 101, 2, 60, 16}},   // it has
      6000);
}

TEST_CASE("temporal_attention_fused_bwd_wgmma/a block walks over several tiles") {
  std::vector<TemporalSize> sizes;
  for (const std::int64_t C :
       {30, 50, 90, 100}) {  // the four kernels; 3 tiles of 8 pixels (4 of 16 frames) in 2 blocks
    const std::int64_t D = C == 30 ? 32 : C == 100 ? 64 : 50;
    sizes.push_back({1, 8, 19, C, 2, D, 16, 0, 2});
    sizes.push_back({1, 16, 9, C, 2, D, 16, 0, 2});
  }
  check(sizes, 7000);
}

TEST_CASE("temporal_attention_fused_bwd_wgmma/runs where the device has wgmma and it is allowed") {
  if (!lists_launches()) return;
  const Case c({2, 8, 17, 90, 1, 50, 16}, 700);
  {
    const OnArch arch(90);
    CHECK(wgmma_blocks(c) == 5);  // as many as tiles of 64 rows
    CHECK(wgmma_blocks(Case({2, 8, 16, 90, 1, 50, 16}, 702)) == 4);
    CHECK(wgmma_blocks(Case({1, 16, 8, 90, 1, 50, 16}, 703)) == 2);
    // As many as run at a time: three on a multiprocessor, or two where shared memory or registers hold no more.
    CHECK(wgmma_blocks(Case({1, 8, 8000, 30, 1, 32, 16}, 704)) == 3 * 132);
    CHECK(wgmma_blocks(Case({1, 8, 4000, 90, 6, 50, 16}, 707)) == 3 * 132);
    CHECK(wgmma_blocks(Case({1, 8, 4000, 90, 7, 50, 16}, 708)) == 2 * 132);
    CHECK(wgmma_blocks(Case({1, 8, 8000, 100, 1, 64, 16}, 705)) == 2 * 132);
    CHECK(wgmma_blocks(Case({1, 16, 4000, 30, 1, 32, 16}, 706)) == 2 * 132);
    CHECK(wgmma_blocks(Case({1, 8, 4, 108, 1, 64, 16}, 701)) == -1);  // no fused kernel
    kernels::allow_wgmma(false);
    CHECK(wgmma_blocks(c) == -1);
  }
  const OnArch arch(80);
  CHECK(wgmma_blocks(c) == -1);
  CHECK_THROWS_AS(kernels::temporal_fused_bwd_wgmma<Sim>(Stream{}, {}, {}), kernels::GpuError);
}

TEST_CASE("temporal_attention_fused_bwd_wgmma/gradients that nobody wants are skipped and the others keep their bits") {
  const OnArch arch(90);
  check_gradients_alone(Case({2, 8, 3, 30, 1, 32, 16, 1}, 78));
  check_gradients_alone(Case({2, 16, 3, 30, 1, 32, 16, 1}, 82));
}

TEST_CASE("temporal_attention_fused_bwd_wgmma/a row that is not finite has zero gaps and leaves others alone") {
  const OnArch arch(90);
  for (const std::int64_t C : {90, 100}) {  // an even and an odd number of chunks
    Case c({1, 8, 17, C, 2, C == 90 ? 50 : 64, 16}, 800);
    const TemporalResults<BFloat16> sound = run_device(c);
    c.x.at(3, 1) = BFloat16(std::numeric_limits<float>::infinity());  // frame 0 of pixel 3, one product with pixel 2
    const TemporalResults<BFloat16> r = run_device(c);
    CHECK(gaps_are_zero(r.d_x));
    for (std::int64_t row = 0; row < r.d_x.rows; ++row) {
      for (std::int64_t k = 0; k < C; ++k) {
        if (row % 17 == 3) CHECK(std::isnan(r.d_x(row, k)));
        if (row % 17 / 2 != 1) CHECK(r.d_x(row, k) == sound.d_x(row, k));
      }
    }
  }
}

}  // namespace avid::test
