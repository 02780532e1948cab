// tests/sim/layer_norm_test.cpp -- the device kernels in the simulator against the f64 reference
#include "kernels/layer_norm.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

struct Case {
  std::int64_t rows, C;
  bool beta, residual;
};

template <class Elem>
struct Outputs {
  Pitched<Elem> out, d_x;
  Pitched<float> d_gamma, d_beta;
};

// An offset beside which the spread is small shows a variance computed as a difference of two large numbers.
template <class Elem>
Pitched<Elem> rows_with_offset(const Case& c) {
  Pitched<Elem> x = random_rows<Elem>(c.rows, c.C, 1);
  for (std::int64_t r = 0; r < c.rows; r += 3)
    for (std::int64_t i = 0; i < c.C; ++i)
      x.at(r, i) = Elem(static_cast<float>(BFloat16(static_cast<float>(x(r, i)) + 100)));
  return x;
}

template <class Elem>
Outputs<Elem> run_device(const Case& c) {
  Outputs<Elem> o{
      poisoned_rows<Elem>(c.rows, c.C), poisoned_rows<Elem>(c.rows, c.C), poisoned_rows<float>(1, c.C),
      poisoned_rows<float>(1, c.C)};
  const Pitched<Elem> x = rows_with_offset<Elem>(c), d_out = random_rows<Elem>(c.rows, c.C, 2);
  const Pitched<float> gamma = random_rows<float>(1, c.C, 3), beta = random_rows<float>(1, c.C, 4);
  const kernels::LayerNormDeviceArgs<Elem> p{
      .num_rows = c.rows,
      .C = c.C,
      .x = x.view(),
      .gamma = gamma.values.data(),
      .beta = c.beta ? beta.values.data() : nullptr,
      .out = o.out.view()};
  kernels::layer_norm_fwd<Sim>(Stream{}, p);
  if (c.residual) o.d_x = random_rows<Elem>(c.rows, c.C, 5);  // added in place
  std::vector<float> workspace(
      static_cast<std::size_t>(kernels::layer_norm_bwd_workspace(c.rows, c.C)),
      std::numeric_limits<float>::quiet_NaN());
  kernels::layer_norm_bwd<Sim, Elem>(
      Stream{}, p,
      {.d_out = d_out.view(),
       .d_residual = c.residual ? o.d_x.view() : kernels::Rows<const Elem>{},
       .d_x = o.d_x.view(),
       .d_gamma = o.d_gamma.values.data(),
       .d_beta = o.d_beta.values.data(),
       .workspace = workspace.data()});
  return o;
}

Outputs<double> run_reference(const Case& c) {
  Outputs<double> o{
      Pitched<double>(c.rows, c.C), Pitched<double>(c.rows, c.C), Pitched<float>(1, c.C), Pitched<float>(1, c.C)};
  const Pitched<double> x = rows_with_offset<double>(c), d_out = random_rows<double>(c.rows, c.C, 2);
  const Pitched<double> gamma = random_rows<double>(1, c.C, 3), beta = random_rows<double>(1, c.C, 4);
  Pitched<double> d_gamma(1, c.C), d_beta(1, c.C);
  const kernels::LayerNormArgs<double> p{
      .num_rows = c.rows,
      .C = c.C,
      .x = x.view(),
      .gamma = gamma.values.data(),
      .beta = c.beta ? beta.values.data() : nullptr,
      .out = o.out.view()};
  kernels::layer_norm_fwd<double>(p);
  kernels::layer_norm_bwd<double>(
      p,
      {.d_out = d_out.view(), .d_x = o.d_x.view(), .d_gamma = d_gamma.values.data(), .d_beta = d_beta.values.data()});
  const Pitched<double> residual = random_rows<double>(c.rows, c.C, 5);
  if (c.residual)
    for (std::int64_t r = 0; r < c.rows; ++r)
      for (std::int64_t i = 0; i < c.C; ++i) o.d_x.at(r, i) += residual(r, i);
  for (std::int64_t i = 0; i < c.C; ++i) {
    o.d_gamma.at(0, i) = static_cast<float>(d_gamma(0, i));
    o.d_beta.at(0, i) = static_cast<float>(d_beta(0, i));
  }
  return o;
}

template <class Elem>
void check(const Case& c) {
  CAPTURE(c.rows);
  CAPTURE(c.C);
  CAPTURE(sizeof(Elem));
  const Outputs<double> exact = run_reference(c);
  // bf16: one rounding, at most 2^-8 of each element. f32: 100 + x loses seven bits of x - mean.
  const double tolerance = sizeof(Elem) == 2 ? 0x1p-8 : 1e-5;
  std::vector<Outputs<Elem>> runs;
  for_each_order([&] {
    runs.push_back(run_device<Elem>(c));
    const Outputs<Elem>& o = runs.back();
    if (c.C > 1) CHECK(rel_l2(o.out, exact.out) < tolerance);  // with one channel both are beta
    if (c.C > 1) CHECK(rel_l2(o.d_x, exact.d_x) < tolerance);
    if (c.C > 1) CHECK(rel_l2(o.d_gamma, exact.d_gamma) < 1e-5);
    CHECK(rel_l2(o.d_beta, exact.d_beta) < 1e-5);
    CHECK(gaps_are_zero(o.out));
    CHECK(gaps_are_zero(o.d_x));
    CHECK(same_bits(o.out, runs.front().out));
    CHECK(same_bits(o.d_x, runs.front().d_x));
    CHECK(same_bits(o.d_gamma, runs.front().d_gamma));
    CHECK(same_bits(o.d_beta, runs.front().d_beta));
  });
}

}  // namespace

TEST_CASE("layer_norm/sim/channels") {
  for (const std::int64_t C : {1, 3, 8, 50, 90, 100, 180, 360, 800}) {
    const Case c{C > 100 ? 10 : 45, C, C != 50, C % 4 == 0};
    if (C == 3 || C == 90 || C == 180 || C > 400) check<float>(c);
    check<BFloat16>(c);
  }
}

TEST_CASE("layer_norm/sim/more_rows_than_one_pass_wide_rows_and_empty") {
  for (const Case& c :
       {Case{260, 12, true, true},
        {70, 388, false, true},
        {3, 1032, true, true},
        {1, 2050, false, false},
        {0, 8, true, false}}) {
    check<float>(c);
    check<BFloat16>(c);
  }
}

TEST_CASE("layer_norm/sim/one_channel_gives_beta") {
  const Outputs<float> o = run_device<float>({5, 1, true, false});
  const Pitched<float> beta = random_rows<float>(1, 1, 4);
  for (std::int64_t r = 0; r < 5; ++r) {
    CHECK(o.out(r, 0) == beta(0, 0));
    CHECK(o.d_x(r, 0) == 0);
  }
}

TEST_CASE("layer_norm/sim/a_grid_that_walks") {
  // More rows than kMaxLayerNormBlocks blocks hold in one pass: 512 * 8 rows of 32 lanes.
  const Case c{4100, 516, false, false};
  const Outputs<BFloat16> o = run_device<BFloat16>(c);
  const Outputs<double> exact = run_reference(c);
  CHECK(rel_l2(o.out, exact.out) < 1.8e-3);
  CHECK(rel_l2(o.d_x, exact.d_x) < 1.8e-3);
  CHECK(rel_l2(o.d_gamma, exact.d_gamma) < 1e-5);
  CHECK(rel_l2(o.d_beta, exact.d_beta) < 1e-5);
}

TEST_CASE("layer_norm/sim/offsets_past_2_to_the_31") {
  const Case c{4, 10, true, false};
  FarRows<BFloat16> x(c.rows), d_out(c.rows), out(c.rows), d_x(c.rows);
  REQUIRE((x.mapped() && d_out.mapped() && out.mapped() && d_x.mapped()));
  x = rows_with_offset<BFloat16>(c);
  d_out = random_rows<BFloat16>(c.rows, c.C, 2);
  const Pitched<float> gamma = random_rows<float>(1, c.C, 3), beta = random_rows<float>(1, c.C, 4);
  const kernels::LayerNormDeviceArgs<BFloat16> p{
      .num_rows = c.rows,
      .C = c.C,
      .x = x.view(),
      .gamma = gamma.values.data(),
      .beta = beta.values.data(),
      .out = out.view()};
  kernels::layer_norm_fwd<Sim>(Stream{}, p);
  kernels::layer_norm_bwd<Sim, BFloat16>(
      Stream{}, p,
      {.d_out = d_out.view(),
       .d_residual = {},
       .d_x = d_x.view(),
       .d_gamma = nullptr,
       .d_beta = nullptr,
       .workspace = nullptr});
  const Outputs<BFloat16> near = run_device<BFloat16>(c);
  CHECK(rel_l2(out.near(c.rows, c.C), near.out) == 0);
  CHECK(rel_l2(d_x.near(c.rows, c.C), near.d_x) == 0);
}
