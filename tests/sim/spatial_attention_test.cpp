// tests/sim/spatial_attention_test.cpp -- the device block in the simulator against the f64 reference
#include "kernels/spatial_attention.h"

#include "tests/doctest.h"
#include "tests/sim/attention_block_cases.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
BlockTensors<Elem> run_device(const BlockCase& c, unsigned wanted) {
  return run_block<Elem>(
      c, wanted, [](auto& p, bool backward) { return kernels::spatial_attention_workspace_bytes(p, backward); },
      [](auto& p) { kernels::spatial_attention_fwd<Sim>(Stream{}, p); },
      [](auto& p, auto&& g) { kernels::spatial_attention_bwd<Sim>(Stream{}, p, g); });
}

constexpr auto run_reference =
    run_block_reference<kernels::spatial_attention_fwd_reference, kernels::spatial_attention_bwd_reference>;

template <class Elem>
void check(const BlockCase& c, bool all_orders = false) {
  check_block<Elem>(c, all_orders, run_device<Elem>, run_reference);
}

}  // namespace

TEST_CASE("spatial_attention/sim/head_width_32") {
  check<float>({1, 2, 40, 12, 2, 32, false}, true);
  check<BFloat16>({1, 2, 40, 12, 2, 32, false}, true);
  check<BFloat16>({2, 1, 70, 50, 3, 32, false});
  check<float>({1, 1, 130, 100, 1, 32, true});
}

TEST_CASE("spatial_attention/sim/other_head_widths") {
  check<float>({1, 2, 33, 10, 2, 5, false}, true);
  check<float>({1, 1, 67, 6, 1, 50, false});
  check<BFloat16>({1, 1, 35, 6, 2, 64, false});
  check<BFloat16>({1, 1, 9, 3, 1, 7, true});
}

TEST_CASE("spatial_attention/sim/large_logits") {
  // Logits of several tens: without subtracting maxima the exponentials would be infinite.
  check<float>({1, 1, 70, 8, 1, 8, false, 8.0});
}

TEST_CASE("spatial_attention/sim/gradients_that_nobody_wants_are_skipped") {
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_device<float>);
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_device<BFloat16>);
  check_block_launches_what_is_wanted({1, 2, 35, 6, 2, 32, true}, run_device<float>);
}

TEST_CASE("spatial_attention/sim/no_positions_launch_nothing") {
  if (!lists_launches()) return;
  run_block<float>(
      {0, 3, 5, 6, 1, 32, true}, 0,
      [](auto& p, bool backward) { return kernels::spatial_attention_workspace_bytes(p, backward); },
      [](auto& p) { CHECK(launches_of([&] { kernels::spatial_attention_fwd<Sim>(Stream{}, p); }).empty()); },
      [](auto&, auto&&) {});
}

TEST_CASE("spatial_attention/sim/one_position_and_none") {
  check<float>({1, 3, 1, 7, 2, 32, true});
  check_block_without_positions(run_device<float>);
}
