// tests/sim/mask_mix_test.cpp -- the device kernels in the simulator against the f64 reference
#include "kernels/mask_mix.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

struct Case {
  std::int64_t P, C;
  float w = 1.75f, b = -0.375f;
};

template <class Elem>
struct Inputs {
  Pitched<Elem> base, adapter, d_out;
  explicit Inputs(const Case& c)
      : base(random_rows<Elem>(c.P, c.C, 1)),
        adapter(random_rows<Elem>(c.P, c.C + 1, 2, 2.0)),
        d_out(random_rows<Elem>(c.P, c.C, 3)) {}
};

template <class Elem, class Scalar>
struct Outputs {
  Pitched<Elem> out, d_base, d_adapter;
  Pitched<Scalar> mask;
  Scalar d_w_b[2];
};

template <class Elem>
Outputs<Elem, float> run_device(const Case& c) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const Inputs<Elem> in(c);
  Outputs<Elem, float> o{
      poisoned_rows<Elem>(c.P, c.C),
      poisoned_rows<Elem>(c.P, c.C),
      poisoned_rows<Elem>(c.P, c.C + 1),
      poisoned_rows<float>(c.P, 1),
      {kNan, kNan}};
  kernels::MaskMixDeviceArgs<Elem> p{
      .P = c.P,
      .C = c.C,
      .base = in.base.view(),
      .adapter = in.adapter.view(),
      .w = &c.w,
      .b = &c.b,
      .out = o.out.view(),
      .mask = o.mask.view()};
  kernels::mask_mix_fwd<Sim>(Stream{}, p);
  p.out = {};
  std::vector<float> workspace(static_cast<std::size_t>(kernels::mask_mix_bwd_workspace(c.P)), kNan);
  kernels::mask_mix_bwd<Sim, Elem>(
      Stream{}, p,
      {.d_out = in.d_out.view(),
       .d_base = o.d_base.view(),
       .d_adapter = o.d_adapter.view(),
       .d_w = &o.d_w_b[0],
       .d_b = &o.d_w_b[1],
       .workspace = workspace.data()});
  return o;
}

Outputs<double, double> run_reference(const Case& c) {
  const Inputs<double> in(c);
  Outputs<double, double> o{
      Pitched<double>(c.P, c.C), Pitched<double>(c.P, c.C), Pitched<double>(c.P, c.C + 1), Pitched<double>(c.P, 1), {}};
  const kernels::MaskMixArgs<double> p{
      .P = c.P,
      .C = c.C,
      .base = in.base.view(),
      .adapter = in.adapter.view(),
      .w = c.w,
      .b = c.b,
      .out = o.out.view(),
      .mask = o.mask.view()};
  kernels::mask_mix_fwd<double>(p);
  kernels::mask_mix_bwd<double>(
      p, {.d_out = in.d_out.view(), .d_base = o.d_base.view(), .d_adapter = o.d_adapter.view(), .d_w_b = o.d_w_b});
  return o;
}

template <class Elem>
void check_case(const Case& c, double bound) {
  CAPTURE(c.P);
  CAPTURE(c.C);
  const Outputs<Elem, float> got = run_device<Elem>(c);
  const Outputs<double, double> want = run_reference(c);
  CHECK(rel_l2(got.out, want.out) <= bound);
  CHECK(rel_l2(got.mask, want.mask) <= 1e-6);  // f32 whatever Elem is
  CHECK(rel_l2(got.d_base, want.d_base) <= bound);
  CHECK(rel_l2(got.d_adapter, want.d_adapter) <= bound);
  CHECK(gaps_are_zero(got.out));
  CHECK(gaps_are_zero(got.mask));
  CHECK(gaps_are_zero(got.d_base));
  CHECK(gaps_are_zero(got.d_adapter));
  // The inputs are the same numbers for every Elem, so the sums differ by f32 rounding of P terms of about 0.3 only.
  const double terms = 1e-7 * static_cast<double>(c.P) + 1e-7;
  CHECK(std::abs(got.d_w_b[0] - want.d_w_b[0]) <= terms);
  CHECK(std::abs(got.d_w_b[1] - want.d_w_b[1]) <= terms);
}

}  // namespace

TEST_CASE("mask_mix/sim/f32_equals_the_reference") {
  for_each_order([] {
    for (const Case& c : {Case{1, 1}, {5, 3}, {257, 3}, {700, 3}, {33, 4}, {20, 7}, {9, 8}, {3, 50}})
      check_case<float>(c, 1e-6);
  });
}

TEST_CASE("mask_mix/sim/bf16_equals_the_reference_rounded") {
  for_each_order([] {
    for (const Case& c : {Case{1, 1}, {257, 3}, {9, 7}, {9, 8}, {3, 50}}) check_case<BFloat16>(c, 4e-3);
  });
}

TEST_CASE("mask_mix/sim/more_pixels_than_threads") {
  // 1024 blocks of 256 threads: each thread owns one pixel, some own two.
  check_case<float>({1024 * 256 + 300, 1}, 1e-6);
}

TEST_CASE("mask_mix/sim/the_same_bits_in_every_order") {
  const Case c{600, 3};
  const Outputs<float, float> first = run_device<float>(c);
  for_each_order([&] {
    const Outputs<float, float> again = run_device<float>(c);
    CHECK(same_bits(again.out, first.out));
    CHECK(same_bits(again.d_adapter, first.d_adapter));
    CHECK(again.d_w_b[0] == first.d_w_b[0]);
    CHECK(again.d_w_b[1] == first.d_w_b[1]);
  });
}

TEST_CASE("mask_mix/sim/a_saturated_mask_is_exact") {
  for (const float b : {-300.0f, 300.0f}) {
    const Case c{40, 3, 0.0f, b};
    const Inputs<BFloat16> in(c);
    const Outputs<BFloat16, float> got = run_device<BFloat16>(c);
    for (std::int64_t i = 0; i < c.P; ++i) {
      REQUIRE(got.mask(i, 0) == (b > 0 ? 1.0 : 0.0));
      for (std::int64_t k = 0; k < c.C; ++k) REQUIRE(got.out(i, k) == (b > 0 ? in.base(i, k) : in.adapter(i, k)));
      REQUIRE(got.d_adapter(i, 3) == 0.0);
    }
    CHECK(got.d_w_b[0] == 0);
  }
}

TEST_CASE("mask_mix/sim/no_pixels_and_absent_gradients") {
  const Outputs<float, float> none = run_device<float>({0, 3});
  CHECK(none.d_w_b[0] == 0);
  CHECK(none.d_w_b[1] == 0);
  const Case c{10, 3};
  const Inputs<float> in(c);
  Pitched<float> mask = random_rows<float>(c.P, 1, 4), d_base = poisoned_rows<float>(c.P, c.C);
  const kernels::MaskMixDeviceArgs<float> p{
      .P = c.P,
      .C = c.C,
      .base = in.base.view(),
      .adapter = in.adapter.view(),
      .w = &c.w,
      .b = &c.b,
      .out = {},
      .mask = mask.view()};
  kernels::mask_mix_bwd<Sim, float>(Stream{}, p, {.d_out = in.d_out.view(), .d_base = d_base.view(), .d_adapter = {}});
  for (std::int64_t i = 0; i < c.P; ++i)
    for (std::int64_t k = 0; k < c.C; ++k)
      REQUIRE(d_base(i, k) == static_cast<double>(static_cast<float>(mask(i, 0)) * static_cast<float>(in.d_out(i, k))));
}

TEST_CASE("mask_mix/sim/a_nan_stays_one") {
  const Case c{6, 3};
  Inputs<float> in(c);
  in.adapter.at(4, 3) = std::numeric_limits<float>::quiet_NaN();
  Pitched<float> out = poisoned_rows<float>(c.P, c.C), mask = poisoned_rows<float>(c.P, 1);
  kernels::mask_mix_fwd<Sim, float>(
      Stream{}, {.P = c.P,
                 .C = c.C,
                 .base = in.base.view(),
                 .adapter = in.adapter.view(),
                 .w = &c.w,
                 .b = &c.b,
                 .out = out.view(),
                 .mask = mask.view()});
  for (std::int64_t i = 0; i < c.P; ++i) {
    CHECK(std::isnan(out(i, 2)) == (i == 4));
    CHECK(std::isnan(mask(i, 0)) == (i == 4));
  }
  CHECK(gaps_are_zero(out));
}

TEST_CASE("mask_mix/sim/a_nan_mask_leaves_gaps_of_gradients_zero") {
  Case c{6, 3};
  c.b = std::numeric_limits<float>::quiet_NaN();
  const Outputs<BFloat16, float> got = run_device<BFloat16>(c);
  CHECK(std::isnan(got.d_base(2, 1)));
  CHECK(std::isnan(got.d_adapter(2, 1)));
  CHECK(gaps_are_zero(got.d_base));
  CHECK(gaps_are_zero(got.d_adapter));
}

TEST_CASE("mask_mix/sim/an_infinite_logit_has_no_gradient") {
  // The logit lies behind the colours, in the last pack of theirs: its product with the gap of d_out would be NaN.
  const Case c{5, 3};
  Inputs<float> in(c);
  in.adapter.at(2, 3) = std::numeric_limits<float>::infinity();
  Pitched<float> mask = poisoned_rows<float>(c.P, 1), out(c.P, 3), d_adapter = poisoned_rows<float>(c.P, 4);
  const kernels::MaskMixDeviceArgs<float> p{
      .P = c.P,
      .C = c.C,
      .base = in.base.view(),
      .adapter = in.adapter.view(),
      .w = &c.w,
      .b = &c.b,
      .out = out.view(),
      .mask = mask.view()};
  kernels::mask_mix_fwd<Sim, float>(Stream{}, p);
  kernels::mask_mix_bwd<Sim, float>(
      Stream{}, p, {.d_out = in.d_out.view(), .d_base = {}, .d_adapter = d_adapter.view()});
  CHECK(mask(2, 0) == 1);
  CHECK(d_adapter(2, 3) == 0);
  CHECK(d_adapter(2, 1) == 0);
  CHECK(out(2, 1) == in.base(2, 1));
}

TEST_CASE("mask_mix/sim/offsets_beyond_32_bits") {
  const Case c{3, 3};
  const Inputs<float> in(c);
  const Outputs<float, float> want = run_device<float>(c);
  FarRows<float> base(c.P), adapter(c.P), d_out(c.P), out(c.P), mask(c.P), d_adapter(c.P);
  for (const FarRows<float>* rows : {&base, &adapter, &d_out, &out, &mask, &d_adapter}) REQUIRE(rows->mapped());
  base = in.base, adapter = in.adapter, d_out = in.d_out;
  const kernels::MaskMixDeviceArgs<float> p{
      .P = c.P,
      .C = c.C,
      .base = base.view(),
      .adapter = adapter.view(),
      .w = &c.w,
      .b = &c.b,
      .out = out.view(),
      .mask = mask.view()};
  kernels::mask_mix_fwd<Sim, float>(Stream{}, p);
  kernels::mask_mix_bwd<Sim, float>(Stream{}, p, {.d_out = d_out.view(), .d_base = {}, .d_adapter = d_adapter.view()});
  CHECK(same_bits(out.near(c.P, 3), want.out));
  CHECK(same_bits(mask.near(c.P, 1), want.mask));
  CHECK(same_bits(d_adapter.near(c.P, 4), want.d_adapter));
}
