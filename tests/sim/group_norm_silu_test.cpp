// tests/sim/group_norm_silu_test.cpp -- the device kernels in the simulator against the f64 reference
#include "kernels/group_norm_silu.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

using Case = kernels::GroupNormSize;

template <class Elem, class Vector>
struct Tensors {
  Pitched<Elem> x, d_out, out, d_x;
  Pitched<Vector> gamma, beta, d_gamma, d_beta;
  explicit Tensors(const Case& c)
      : x(random_rows<Elem>(c.I * c.R, c.C, 1)),
        d_out(random_rows<Elem>(c.I * c.R, c.C, 2)),
        out(poisoned_rows<Elem>(c.I * c.R, c.C)),
        d_x(poisoned_rows<Elem>(c.I * c.R, c.C)),
        gamma(random_rows<Vector>(1, c.C, 3)),
        beta(random_rows<Vector>(1, c.C, 4)),
        d_gamma(poisoned_rows<Vector>(1, c.C)),
        d_beta(poisoned_rows<Vector>(1, c.C)) {
    // The first channels far from zero: a variance as a difference of two large numbers would show.
    for (std::int64_t r = 0; r < x.rows; ++r)
      for (std::int64_t i = 0; i < c.C / 3; ++i)
        x.at(r, i) = Elem(static_cast<float>(BFloat16(static_cast<float>(x(r, i)) + 64)));
  }
};

template <class Elem>
Tensors<Elem, float> run_device(const Case& c) {
  Tensors<Elem, float> t(c);
  std::vector<float> workspace(
      static_cast<std::size_t>(kernels::group_norm_silu_workspace(c)), std::numeric_limits<float>::quiet_NaN());
  const kernels::GroupNormSiluDeviceArgs<Elem> p{
      .size = c,
      .x = t.x.view(),
      .gamma = t.gamma.values.data(),
      .beta = t.beta.values.data(),
      .out = t.out.view(),
      .workspace = workspace.data()};
  kernels::group_norm_silu_fwd<Sim>(Stream{}, p);
  for (float& v : workspace) v = std::numeric_limits<float>::quiet_NaN();
  kernels::group_norm_silu_bwd<Sim, Elem>(
      Stream{}, p,
      {.d_out = t.d_out.view(),
       .d_x = t.d_x.view(),
       .d_gamma = t.d_gamma.values.data(),
       .d_beta = t.d_beta.values.data()});
  return t;
}

Tensors<double, double> run_reference(const Case& c) {
  Tensors<double, double> t(c);
  const kernels::GroupNormSiluArgs<double> p{
      .size = c, .x = t.x.view(), .gamma = t.gamma.values.data(), .beta = t.beta.values.data(), .out = t.out.view()};
  kernels::group_norm_silu_fwd<double>(p);
  kernels::group_norm_silu_bwd<double>(
      p, {.d_out = t.d_out.view(),
          .d_x = t.d_x.view(),
          .d_gamma = t.d_gamma.values.data(),
          .d_beta = t.d_beta.values.data()});
  return t;
}

template <class Elem>
void check(const Case& c) {
  CAPTURE(c.I);
  CAPTURE(c.R);
  CAPTURE(c.C);
  CAPTURE(c.G);
  CAPTURE(sizeof(Elem));
  const auto exact = run_reference(c);
  const double tolerance = sizeof(Elem) == 2 ? 0x1p-8 : 1e-5;  // f32: 64 + x loses six bits of x - mean
  std::vector<Tensors<Elem, float>> runs;
  for_each_order([&] {
    runs.push_back(run_device<Elem>(c));
    const auto& t = runs.back();
    CHECK(rel_l2(t.out, exact.out) < tolerance);
    CHECK(rel_l2(t.d_x, exact.d_x) < tolerance);
    CHECK(rel_l2(t.d_gamma, exact.d_gamma) < 2e-5);
    CHECK(rel_l2(t.d_beta, exact.d_beta) < 1e-5);
    CHECK(gaps_are_zero(t.out));
    CHECK(gaps_are_zero(t.d_x));
    CHECK(same_bits(t.out, runs.front().out));
    CHECK(same_bits(t.d_x, runs.front().d_x));
    CHECK(same_bits(t.d_gamma, runs.front().d_gamma));
    CHECK(same_bits(t.d_beta, runs.front().d_beta));
  });
}

}  // namespace

TEST_CASE("group_norm_silu/sim/channels_and_groups") {  // 43 * 6: more groups than a block has threads
  for (const Case& c :
       {Case{2, 37, 32, 32},
        {1, 20, 50, 5},
        {2, 9, 100, 10},
        {1, 33, 3, 1},
        {1, 11, 90, 9},
        {3, 5, 12, 2},
        {43, 3, 6, 6}}) {
    check<float>(c);
    check<BFloat16>(c);
  }
}

TEST_CASE("group_norm_silu/sim/several_slabs_norm_alone_and_empty") {
  check<float>({2, 300, 10, 2, 1e-6, false});
  check<BFloat16>({1, 513, 16, 4, 1e-6, true});
  check<BFloat16>({2, 40, 24, 8, 1e-5, false});
  for (const Case& c : {Case{0, 5, 6, 2}, {2, 0, 6, 2}}) {
    const auto t = run_device<float>(c);
    for (std::int64_t i = 0; i < c.C; ++i) {
      CHECK(t.d_gamma(0, i) == 0);
      CHECK(t.d_beta(0, i) == 0);
    }
  }
}
