// tests/sim/spatial_attention_test.cpp -- the device block in the simulator against the f64 reference
#include "kernels/spatial_attention.h"

#include "tests/doctest.h"
#include "tests/sim/attention_block_cases.h"
#include "tests/sim/orders.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
BlockTensors<Elem> run_device(const BlockCase& c) {
  return run_block<Elem>(
      c, [](auto& p, bool backward) { return kernels::spatial_attention_workspace_bytes(p, backward); },
      [](auto& p) { kernels::spatial_attention_fwd<Sim>(Stream{}, p); },
      [](auto& p, auto&& g) { kernels::spatial_attention_bwd<Sim>(Stream{}, p, g); });
}

BlockTensors<double, double, double> run_reference(const BlockCase& c) {
  return run_block_reference(
      c, [](auto& p) { kernels::spatial_attention_fwd_reference(p); },
      [](auto& p, auto& g) { kernels::spatial_attention_bwd_reference(p, g); });
}

template <class Elem>
void check(const BlockCase& c, bool all_orders = false) {
  CAPTURE(c.S);
  CAPTURE(c.C);
  CAPTURE(c.N);
  CAPTURE(c.D);
  CAPTURE(sizeof(Elem));
  const auto exact = run_reference(c);
  const auto compare = [&](const BlockTensors<Elem>& t) {
    const BlockErrors e = errors_of(t, exact, c.bias);
    // bf16: h, qkv, a and their gradients are rounded on the way; a few times 2^-9 each, more behind the softmax. A
    // logit of 60 costs f32 six bits.
    const double value = sizeof(Elem) == 2 ? 6e-3 : 2e-6, gradient = sizeof(Elem) == 2 ? 3e-2
                                                                     : c.scale > 1     ? 5e-5
                                                                                       : 1e-5;
    CHECK(e.y < value);
    CHECK(e.d_x < gradient);
    CHECK(e.d_gamma < gradient);
    CHECK(e.d_w_qkv < gradient);
    CHECK(e.d_w_out < gradient);
    CHECK(e.d_b_out < gradient);
    CHECK(gaps_are_zero(t.y));
    CHECK(gaps_are_zero(t.d_x));
  };
  const BlockTensors<Elem> first = run_device<Elem>(c);
  compare(first);
  if (!all_orders) return;
  for_each_order([&] { CHECK(same_results(run_device<Elem>(c), first)); });
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

TEST_CASE("spatial_attention/sim/one_position_and_none") {
  check<float>({1, 3, 1, 7, 2, 32, true});
  for (const BlockCase& c : {BlockCase{0, 3, 5, 6, 1, 32, true}, {2, 2, 0, 6, 1, 32, true}}) {
    const auto t = run_device<float>(c);
    for (std::int64_t i = 0; i < c.C; ++i) CHECK(t.d_gamma(0, i) == 0);
    for (std::int64_t r = 0; r < t.d_w_qkv.rows; ++r)
      for (std::int64_t i = 0; i < t.d_w_qkv.cols; ++i) CHECK(t.d_w_qkv(r, i) == 0);
    for (std::int64_t r = 0; r < t.d_w_out.rows; ++r)
      for (std::int64_t i = 0; i < t.d_w_out.cols; ++i) CHECK(t.d_w_out(r, i) == 0);
    for (std::int64_t i = 0; i < c.C; ++i) CHECK(t.d_b_out(0, i) == 0);
  }
}
