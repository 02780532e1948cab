// tests/sim/linear_attention_test.cpp -- the device block in the simulator against the f64 reference
#include "kernels/linear_attention.h"

#include "tests/doctest.h"
#include "tests/sim/attention_block_cases.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
BlockTensors<Elem> run_device(const BlockCase& c, unsigned wanted) {
  return run_block<Elem>(
      c, wanted, [](auto& p, bool backward) { return kernels::linear_attention_workspace_bytes(p, backward); },
      [](auto& p) { kernels::linear_attention_fwd<Sim>(Stream{}, p); },
      [](auto& p, auto&& g) { kernels::linear_attention_bwd<Sim>(Stream{}, p, g); });
}

constexpr auto run_reference =
    run_block_reference<kernels::linear_attention_fwd_reference, kernels::linear_attention_bwd_reference>;

template <class Elem>
void check(const BlockCase& c, bool all_orders = false) {
  check_block<Elem>(c, all_orders, run_device<Elem>, run_reference);
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

TEST_CASE("linear_attention/sim/several_slabs") {
  check<float>({1, 1, 513, 4, 1, 8, true}, true);
  check<BFloat16>({1, 1, 600, 4, 1, 32, true});
}

TEST_CASE("linear_attention/sim/large_logits") {
  // Logits of several tens: without subtracting maxima the exponentials would be infinite or lose everything.
  check<float>({1, 1, 530, 8, 1, 8, true, 12.0});
}

TEST_CASE("linear_attention/sim/gradients_that_nobody_wants_are_skipped") {
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_device<float>);
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_device<BFloat16>);
}

TEST_CASE("linear_attention/sim/one_position_and_none") {
  check<float>({1, 3, 1, 7, 2, 32, true});
  check_block_without_positions(run_device<float>);
  check_block_without_positions(run_device<BFloat16>);
}
