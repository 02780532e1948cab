// tests/sim/temporal_attention_test.cpp -- the temporal attention block on the simulator, against the CPU reference in
// f64
#include "kernels/temporal_attention.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/temporal_attention_plan.h"
#include "tests/doctest.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"
#include "tests/sim/temporal_attention_case.h"
#include "tests/sim/wait.h"

namespace avid::test {
namespace {

using kernels::Sim;
using kernels::Stream;
using Size = TemporalSize;
template <class Elem>
using BlockCase = TemporalCase<Elem>;
template <class Elem>
using Results = TemporalResults<Elem>;

/// Nobody pays for a gradient that somebody else wants: d_x, d_w_out and d_w_qkv, from cheap to dear in `order`.
template <class Elem>
void check_launches(const BlockCase<Elem>& c, const std::string& order) {
  check_gradients_launch_what_they_need(3, [&](int only) {
    Results<Elem> r(c.size);
    kernels::TemporalAttentionDeviceGrads<Elem> g;
    g.d_y = c.d_y.view();
    const char gradient = only < 0 ? '-' : order[static_cast<std::size_t>(only)];
    if (gradient == 'x') g.d_x = r.d_x.view();
    if (gradient == 'o') g.d_w_out = r.d_w_out.view();
    if (gradient == 'q') g.d_w_qkv = r.d_w_qkv.view();
    Workspace workspace;
    const auto p = c.device(r.y, workspace, true);
    return launches_of([&] { kernels::temporal_attention_bwd<Sim, Elem>(Stream{}, p, g); });
  });
}

}  // namespace

TEST_CASE("temporal_attention/sim/f32 equals the f64 reference over awkward sizes") {
  unsigned seed = 0;
  for (const Size& size : std::vector<Size>{
           {1, 8, 3, 50, 2, 50, 16},
           {2, 8, 3, 9, 1, 32, 16, 1},
           {3, 3, 2, 4, 2, 6, 3, 2},
           {1, 1, 3, 3, 1, 4, 2},
           {1, 2, 5, 1, 1, 8, 4},
           {1, 10, 2, 100, 1, 40, 16},
           {1, 20, 1, 12, 1, 72, 16}}) {
    const BlockCase<float> c(size, seed += 10);
    check_block(c, 2e-6);
  }
}

TEST_CASE("temporal_attention/sim/bf16 equals the f64 reference up to rounding") {
  unsigned seed = 1000;
  for (const Size& size : std::vector<Size>{
           {1, 8, 3, 50, 2, 50, 16},
           {2, 8, 4, 90, 1, 50, 16, 1},
           {1, 8, 17, 100, 1, 64, 16},
           {2, 8, 5, 30, 2, 32, 16},
           {2, 8, 5, 32, 2, 24, 12},
           {2, 8, 4, 108, 1, 64, 16, 1},
           {1, 8, 2, 90, 3, 45, 16},  // heads of an odd width, and of widths that end in groups of 16 in every way
           {1, 8, 2, 96, 2, 40, 16},
           {1, 8, 2, 96, 1, 54, 16},
           {1, 8, 2, 56, 3, 56, 16},
           {1, 8, 2, 100, 2, 60, 16},
           {1, 8, 2, 104, 1, 50, 16},
           {3, 3, 2, 4, 2, 6, 3, 2},
           {1, 16, 3, 20, 1, 32, 16},
           {1, 10, 2, 100, 1, 40, 16}}) {
    const BlockCase<BFloat16> c(size, seed += 10);
    check_block(c, 1.2e-2);
  }
}

TEST_CASE("temporal_attention/sim/16 frames in one kernel each way equal the f64 reference up to rounding") {
  unsigned seed = 3000;
  for (const Size& size : std::vector<Size>{
           {1, 16, 9, 30, 2, 32, 16},  // the four kernels; tiles of 8 pixels, the last one not full
           {1, 16, 9, 50, 1, 50, 16},
           {1, 16, 9, 90, 1, 50, 16},
           {1, 16, 9, 100, 1, 64, 16},
           {2, 16, 5, 89, 3, 49, 16, 1},  // odd channels and heads; a tile never has pixels of two clips
           {2, 16, 5, 101, 2, 60, 16},    // it has
           {1, 16, 3, 56, 3, 45, 12},     // fewer pairs turn than the table is wide
           {1, 16, 2, 96, 2, 40, 16},
           {1, 16, 1, 29, 5, 31, 3}}) {
    const BlockCase<BFloat16> c(size, seed += 10);
    Pitched<BFloat16> y;
    Workspace workspace;
    for (const bool backward : {false, true})
      CHECK(kernels::temporal_attention_plan(c.device(y, workspace, backward), backward).fused);
    check_block(c, 1.2e-2);
  }
}

TEST_CASE("temporal_attention/sim/a block of the fused backward pass walks over several tiles") {
  unsigned seed = 2000;
  for (const std::int64_t C :
       {30, 50, 90, 100}) {  // the four kernels; 3 tiles of 16 pixels (8 of 16 frames) in 2 blocks
    const std::int64_t D = C == 30 ? 32 : C == 100 ? 64 : 50;
    check_block(BlockCase<BFloat16>({1, 8, 37, C, 1, D, 16, 0, 2}, seed += 10), 1.2e-2);
    check_block(BlockCase<BFloat16>({1, 16, 18, C, 1, D, 16, 0, 2}, seed += 10), 1.2e-2);
    // One block of each pass, with 2 heads: 4 tiles of 8 (4) pixels through the two buffers of the weights' gradients.
    check_block(BlockCase<BFloat16>({1, 8, 25, C, 2, D, 16, 0, 1}, seed += 10), 1.2e-2);
    check_block(BlockCase<BFloat16>({1, 16, 13, C, 2, D, 16, 0, 1}, seed += 10), 1.2e-2);
  }
}

TEST_CASE("temporal_attention/sim/the fused kernels have as many blocks as tiles of 128 rows") {
  if (!lists_launches()) return;
  for (const std::int64_t T : {8, 16}) {
    for (const std::int64_t S : {15, 16, 17}) {
      const BlockCase<BFloat16> c({2, T, S, 30, 1, 32, 16}, 81);
      int found = 0;
      for (const ListedLaunch& launch : launches_of([&] { run_device(c); })) {
        if (launch.kernel.find("temporal_fused_") != 0) continue;
        ++found;
        CHECK(launch.blocks == (2 * S * T + 127) / 128);
      }
      CHECK(found == 2);
    }
  }
}

TEST_CASE("temporal_attention/sim/gradients that nobody wants are skipped and the others keep their bits") {
  check_gradients_alone(BlockCase<float>({2, 4, 3, 8, 2, 20, 8, 1}, 77));
  check_gradients_alone(BlockCase<BFloat16>({2, 8, 3, 30, 1, 32, 16, 1}, 78));   // fused
  check_gradients_alone(BlockCase<BFloat16>({2, 16, 3, 30, 1, 32, 16, 1}, 82));  // fused
  check_launches(BlockCase<float>({2, 4, 3, 8, 2, 20, 8, 1}, 79), "oqx");
  check_launches(BlockCase<BFloat16>({2, 8, 3, 30, 1, 32, 16, 1}, 80), "xoq");
}

TEST_CASE("temporal_attention/sim/a row that is not finite has gaps of zeros and leaves other products alone") {
  for (const std::int64_t T : {8, 16}) {
    for (const std::int64_t C : {29, 90}) {  // gaps of an odd and of an even number of channels
      BlockCase<BFloat16> c({1, T, 17, C, 2, C == 29 ? 32 : 50, 16}, 90);
      const Results<BFloat16> sound = run_device(c);
      c.x.at(3, 1) = BFloat16(std::numeric_limits<float>::infinity());  // frame 0 of pixel 3
      const Results<BFloat16> r = run_device(c);
      const std::int64_t of_product = 16 / T;  // pixels: of 8 frames also pixel 2
      CHECK(gaps_are_zero(r.d_x));
      CHECK(gaps_are_zero(r.y));
      for (std::int64_t row = 0; row < r.d_x.rows; ++row) {
        for (std::int64_t k = 0; k < C; ++k) {
          if (row % 17 == 3) CHECK(std::isnan(r.d_x(row, k)));
          if (row % 17 / of_product != 3 / of_product) CHECK(r.d_x(row, k) == sound.d_x(row, k));
        }
      }
    }
  }
}

TEST_CASE("temporal_attention/sim/no pixels give gradients of zero") {
  const BlockCase<float> c({0, 4, 3, 8, 1, 8, 4}, 5);
  const Results<float> r = run_device(c);
  wait_for_fills();
  for (std::int64_t i = 0; i < 8; ++i) CHECK(r.d_gamma(0, i) == 0);
  for (std::int64_t i = 0; i < 32; ++i) CHECK(r.d_table(i, 0) == 0);
  for (std::int64_t i = 0; i < r.d_w_qkv.rows; ++i)
    for (std::int64_t k = 0; k < 8; ++k) CHECK(r.d_w_qkv(i, k) == 0);
  for (std::int64_t i = 0; i < 8; ++i)
    for (std::int64_t k = 0; k < 8; ++k) CHECK(r.d_w_out(i, k) == 0);
}

}  // namespace avid::test
