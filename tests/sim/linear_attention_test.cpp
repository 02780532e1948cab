// tests/sim/linear_attention_test.cpp -- the device block in the simulator against the f64 reference
#include "kernels/linear_attention.h"

#include <array>
#include <cmath>
#include <string>

#include "kernels/attention_block_plan.h"
#include "kernels/sim/traffic.h"
#include "tests/doctest.h"
#include "tests/sim/linear_attention_case.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
void check(const BlockCase& c, bool all_orders = false) {
  check_block<Elem>(c, all_orders, run_linear_attention<Elem>, run_linear_attention_reference);
}

/// The composed form on tensor cores: bf16, heads of 32, rows wider than the two-pass form takes.
void check_composed(std::int64_t F, std::int64_t S, std::int64_t N, bool all_orders = false) {
  const std::int64_t C = S < kernels::kLinearWidePositions ? 105 : 201;
  check_block<BFloat16>(
      {1, F, S, C, N, 32, true}, all_orders, run_linear_attention<BFloat16>, run_linear_attention_reference,
      1e-2);  // about 5e-3
}

/// Norm of rows first .. first + count - 1.
double norm_of_rows(const Pitched<float>& t, std::int64_t first, std::int64_t count) {
  double sum = 0;
  for (std::int64_t r = first; r < first + count; ++r)
    for (std::int64_t c = 0; c < t.cols; ++c) sum += t(r, c) * t(r, c);
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("linear_attention/sim/head_width_32") {
  check<float>({1, 2, 40, 12, 2, 32, true}, true);
  check<BFloat16>({1, 2, 40, 12, 2, 32, true}, true);
  check<BFloat16>({2, 1, 70, 50, 3, 32, true});
  check<float>({1, 1, 65, 100, 1, 32, true});
}

TEST_CASE("linear_attention/sim/other_head_widths") {
  check<float>({1, 2, 33, 10, 2, 5, true});
  check<float>({1, 1, 37, 6, 1, 50, false});
  check<BFloat16>({1, 1, 35, 6, 2, 64, true});
  check<BFloat16>({1, 1, 9, 3, 1, 7, true});
}

TEST_CASE("linear_attention/sim/two_passes") {
  // bf16, head width 32, C <= 104: forward in two passes. Several slabs, groups of heads, tiles; rows of all widths.
  check<BFloat16>({1, 1, 130, 100, 5, 32, true}, true);
  check<BFloat16>({1, 2, 1090, 9, 1, 32, true});
  check<BFloat16>({2, 1, 97, 57, 2, 32, true});
  check<BFloat16>({1, 1, 33, 1, 4, 32, true});
  check<BFloat16>({1, 1, 40, 105, 2, 32, true});  // the first that is composed
}

TEST_CASE("linear_attention/sim/two_passes_of_wide_rows") {
  // Two warps a head: groups of heads, several slabs, tiles and half tiles; widths around those of the kernels.
  check<BFloat16>({1, 1, 513, 130, 2, 32, true}, true);
  check<BFloat16>({1, 1, 1090, 105, 5, 32, true});
  for (const std::int64_t C : {184, 185, 200}) check<BFloat16>({1, 1, 560, C, 1, 32, true});
}

TEST_CASE("linear_attention/sim/wide_rows_of_small_frames_are_composed") {
  if (!lists_launches()) return;
  const auto launched = [](const BlockCase& c, const char* kernel) {
    int found = 0;
    for (const ListedLaunch& launch : launches_of([&] { run_linear_attention<BFloat16>(c, kAllGradients); }))
      found += launch.kernel.find(kernel) == 0;
    return found;
  };
  for (const auto [S, C, passes] :
       {std::array<int, 3>{255, 104, 1}, {255, 105, 0}, {256, 105, 1}, {256, 200, 1}, {256, 201, 0}}) {
    const BlockCase c{1, 1, S, C, 1, 32, true};
    CHECK(launched(c, "linear_attention_pass_b_kernel") == passes);
    CHECK(launched(c, "linear_bwd_rows_kernel") == passes);
    CHECK(launched(c, "linear_attention_head_d_kv_kernel") == 1 - passes);
  }
}

TEST_CASE("linear_attention/sim/composed/every_order_gives_the_same_bits") { check_composed(1, 80, 3, true); }

TEST_CASE("linear_attention/sim/composed/positions") {
  // Around a warp's tile, a block's tiles, a part of a frame.
  for (const std::int64_t S : {1, 15, 16, 17, 31, 33, 64, 65, 129}) check_composed(1, S, 1);
}

TEST_CASE("linear_attention/sim/composed/heads") {
  // Warps of a block have neighbouring heads and, at the end, nothing to do.
  for (const std::int64_t N : {3, 5, 8}) check_composed(1, 33, N);
  check<BFloat16>({1, 2, 70, 12, 3, 32, false});  // without a bias the forward pass is composed
}

TEST_CASE("linear_attention/sim/composed/slabs_and_many_frames") {
  check_composed(1, 1025, 1);
  check_composed(40, 5, 3);
}

TEST_CASE("linear_attention/sim/composed/large_logits") {
  // Beyond 88 the exponential of an f32 is infinite; maxima grow by 160 on the way.
  const auto check_peaks = [](const BlockCase& c, bool all_orders) {
    check_block<BFloat16>(c, all_orders, run_linear_attention<BFloat16>, run_linear_attention_reference);
  };
  check_peaks({1, 1, 90, 106, 1, 32, true, 1.0, BlockRows::peaks}, true);
  check_peaks({1, 1, 1100, 202, 1, 32, true, 1.0, BlockRows::peaks}, false);
}

TEST_CASE("linear_attention/sim/composed/equal_positions_give_the_keys_no_gradient") {
  // The gradient of a key is the difference of two equal numbers: contexts are the one value of v.
  const BlockCase c{1, 2, 64, 106, 3, 32, true, 1.0, BlockRows::equal};
  check_block<BFloat16>(c, false, run_linear_attention<BFloat16>, run_linear_attention_reference);
  const auto t = run_linear_attention<BFloat16>(c, kAllGradients);
  CHECK(norm_of_rows(t.d_w_qkv, 96, 96) < 1e-4 * norm_of_rows(t.d_w_qkv, 192, 96));
}

TEST_CASE("linear_attention/sim/composed/traffic") {
  if (std::string(sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  kernels::simulator::options().profile = true;
  run_linear_attention<BFloat16>({1, 1, 256, 202, 4, 32, true}, kAllGradients);
  kernels::simulator::options().profile = false;
  double units[2] = {}, ideal[2] = {};  // of global and of shared memory
  for (const kernels::simulator::TrafficLine& line : kernels::simulator::take_traffic_lines()) {
    if (line.kernel.find("linear_attention_head") != 0) continue;
    units[line.shared] += static_cast<double>(line.units);
    ideal[line.shared] += static_cast<double>(line.ideal_units);
  }
  CHECK(ideal[0] > 1000);
  CHECK(units[0] < 1.2 * ideal[0]);  // sectors: two loads of a matrix meet the same ones, rows meet each once
  CHECK(units[1] < 1.3 * ideal[1]);  // passes; only matrices of blocks go there
  CHECK(units[1] < 0.5 * units[0]);
}

TEST_CASE("linear_attention/sim/as_many_tiles_as_there_are_positions") {
  if (!lists_launches()) return;
  const auto launches = launches_of([] { run_linear_attention<float>({1, 2, 128, 6, 3, 32, true}, kAllGradients); });
  int found = 0;
  for (const ListedLaunch& launch : launches) {
    if (launch.kernel.find("linear_attention_apply") != 0 && launch.kernel.find("linear_attention_d_qkv") != 0)
      continue;
    ++found;
    CHECK(launch.blocks == 2 * 3 * 2);  // frames, heads, and tiles of 64 positions
  }
  CHECK(found == 3);  // forward, again for d_w_out, and the gradient
}

TEST_CASE("linear_attention/sim/several_slabs") {
  check<float>({1, 1, 513, 4, 1, 8, true}, true);
  check<BFloat16>({1, 1, 600, 4, 1, 32, true});
}

TEST_CASE("linear_attention/sim/a_position_more_than_a_slab_takes_another_block") {
  // One position of so many changes a context by less than bf16 shows.
  if (!lists_launches()) return;
  // 64 frames have slabs of 1024 positions, three of 256.
  for (const auto& [frames, slabs] : {std::pair<std::int64_t, std::int64_t>{64, 1}, {3, 4}})
    for (const std::int64_t more : {0, 1}) {
      const BlockCase c{1, frames, kernels::kTwoPassSlab + more, 4, 1, 32, true};
      int found = 0;
      for (const ListedLaunch& launch : launches_of([&] { run_linear_attention<BFloat16>(c, 0); })) {
        if (launch.kernel.find("linear_attention_sums_kernel") != 0) continue;
        ++found;
        CHECK(launch.blocks == static_cast<unsigned>(frames * (slabs + more)));
      }
      CHECK(found == 1);
    }
}

TEST_CASE("linear_attention/sim/large_logits") {
  // Logits of several tens: without subtracting maxima the exponentials would be infinite or lose everything.
  check<float>({1, 1, 530, 8, 1, 8, true, 12.0});
}

TEST_CASE("linear_attention/sim/gradients_that_nobody_wants_are_skipped") {
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_linear_attention<float>);
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_linear_attention<BFloat16>);
  check_block_launches_what_is_wanted({1, 2, 35, 6, 2, 32, true}, run_linear_attention<float>);
  check_block_launches_what_is_wanted({1, 2, 35, 105, 2, 32, true}, run_linear_attention<BFloat16>);
}

TEST_CASE("linear_attention/sim/a_backward_pass_for_nobody_launches_nothing") {
  if (!lists_launches()) return;
  run_block<float>(
      {1, 2, 35, 6, 2, 32, true}, 0,
      [](auto& p, bool backward) { return kernels::linear_attention_workspace_bytes(p, backward); }, [](auto&) {},
      [](auto& p, auto&& g) {
        CHECK(launches_of([&] { kernels::linear_attention_bwd<Sim>(Stream{}, p, g); }).empty());
      });
}

TEST_CASE("linear_attention/sim/one_position_and_none") {
  check<float>({1, 3, 1, 7, 2, 32, true});
  check_block_without_positions(run_linear_attention<float>);
  check_block_without_positions(run_linear_attention<BFloat16>);
}
