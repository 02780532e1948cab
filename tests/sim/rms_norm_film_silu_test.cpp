// tests/sim/rms_norm_film_silu_test.cpp -- the device kernels in the simulator against the f64 reference
#include "kernels/rms_norm_film_silu.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

struct Case {
  std::int64_t F, S, C;
  bool film, residual;
  double scale = 2.0;  ///< of x
};

template <class Elem>
struct Inputs {
  Pitched<Elem> x, residual, d_out;
  Pitched<float> gamma, film;

  explicit Inputs(const Case& c)
      : x(random_rows<Elem>(c.F * c.S, c.C, 1, c.scale)),
        residual(random_rows<Elem>(c.F * c.S, c.C, 2)),
        d_out(random_rows<Elem>(c.F * c.S, c.C, 3)),
        gamma(random_rows<float>(1, c.C, 4)),
        film(random_rows<float>(c.F, 2 * c.C, 5)) {}
};

template <class Elem>
struct Outputs {
  Pitched<Elem> out, d_x;
  Pitched<float> d_gamma, d_film;
};

template <class Elem>
Outputs<Elem> run_device(const Case& c, const Inputs<Elem>& in) {
  Outputs<Elem> o{
      poisoned_rows<Elem>(c.F * c.S, c.C), poisoned_rows<Elem>(c.F * c.S, c.C), poisoned_rows<float>(1, c.C),
      poisoned_rows<float>(c.F, 2 * c.C)};
  kernels::RmsNormFilmSiluDeviceArgs<Elem> p{
      .F = c.F,
      .S = c.S,
      .C = c.C,
      .x = in.x.view(),
      .gamma = in.gamma.values.data(),
      .film = {},
      .residual = {},
      .out = o.out.view()};
  if (c.film) p.film = in.film.view();
  if (c.residual) p.residual = in.residual.view();
  kernels::rms_norm_film_silu_fwd<Sim>(Stream{}, p);
  std::vector<float> workspace(
      static_cast<std::size_t>(kernels::rms_norm_film_silu_bwd_workspace(c.F, c.S, c.C)),
      std::numeric_limits<float>::quiet_NaN());
  kernels::RmsNormFilmSiluDeviceGrads<Elem> g{
      .d_out = in.d_out.view(),
      .d_x = o.d_x.view(),
      .d_gamma = o.d_gamma.values.data(),
      .d_film = {},
      .workspace = workspace.data()};
  if (c.film) g.d_film = o.d_film.view();
  kernels::rms_norm_film_silu_bwd<Sim>(Stream{}, p, g);
  return o;
}

Outputs<double> run_reference(const Case& c) {
  const Inputs<double> in(c);
  const Pitched<double> gamma = random_rows<double>(1, c.C, 4), film = random_rows<double>(c.F, 2 * c.C, 5);
  struct {
    Pitched<double> out, d_x, d_gamma, d_film;
  } o{Pitched<double>(c.F * c.S, c.C), Pitched<double>(c.F * c.S, c.C), Pitched<double>(1, c.C),
      Pitched<double>(c.F, 2 * c.C)};
  kernels::RmsNormFilmSiluArgs<double> p{
      .F = c.F,
      .S = c.S,
      .C = c.C,
      .x = in.x.view(),
      .gamma = gamma.values.data(),
      .film = {},
      .residual = {},
      .out = o.out.view()};
  if (c.film) p.film = film.view();
  if (c.residual) p.residual = in.residual.view();
  kernels::rms_norm_film_silu_fwd(p);
  kernels::RmsNormFilmSiluGrads<double> g{
      .d_out = in.d_out.view(), .d_x = o.d_x.view(), .d_gamma = o.d_gamma.values.data(), .d_film = {}};
  if (c.film) g.d_film = o.d_film.view();
  kernels::rms_norm_film_silu_bwd(p, g);
  Outputs<double> out{std::move(o.out), std::move(o.d_x), Pitched<float>(1, c.C), Pitched<float>(c.F, 2 * c.C)};
  for (std::int64_t i = 0; i < c.C; ++i) out.d_gamma.at(0, i) = static_cast<float>(o.d_gamma(0, i));
  for (std::int64_t f = 0; f < c.F; ++f)
    for (std::int64_t i = 0; i < 2 * c.C; ++i) out.d_film.at(f, i) = static_cast<float>(o.d_film(f, i));
  return out;
}

template <class Elem>
void check(const Case& c) {
  CAPTURE(c.F);
  CAPTURE(c.S);
  CAPTURE(c.C);
  CAPTURE(c.film);
  CAPTURE(sizeof(Elem));
  const Inputs<Elem> in(c);
  const Outputs<double> exact = run_reference(c);
  // One rounding of bf16 is 2^-9 / sqrt(3) in the mean square.
  const double tolerance = sizeof(Elem) == 2 ? 1.8e-3 : 2e-6;
  std::vector<Outputs<Elem>> runs;
  for_each_order([&] {
    runs.push_back(run_device<Elem>(c, in));
    const Outputs<Elem>& o = runs.back();
    CHECK(rel_l2(o.out, exact.out) < tolerance);
    if (c.C > 1) CHECK(rel_l2(o.d_x, exact.d_x) < tolerance);  // with one channel d_x is rounding noise around 0
    CHECK(rel_l2(o.d_gamma, exact.d_gamma) < 1e-5);
    CHECK(gaps_are_zero(o.out));
    CHECK(gaps_are_zero(o.d_x));
    if (c.film) CHECK(rel_l2(o.d_film, exact.d_film) < 1e-5);
    CHECK(same_bits(o.out, runs.front().out));
    CHECK(same_bits(o.d_x, runs.front().d_x));
    CHECK(same_bits(o.d_gamma, runs.front().d_gamma));
    if (c.film) CHECK(same_bits(o.d_film, runs.front().d_film));
  });
}

}  // namespace

TEST_CASE("rms_norm_film_silu/sim/channels") {
  for (const std::int64_t C : {1, 3, 8, 50, 90, 100}) {
    const Case c{2, 37, C, C != 3, C % 4 != 0};
    if (C != 8 && C != 90) check<float>(c);
    check<BFloat16>(c);
  }
}

TEST_CASE("rms_norm_film_silu/sim/wide_rows") {
  for (const std::int64_t C : {180, 200, 360, 800, 1032}) {
    const Case c{2, 9, C, true, true};
    if (C == 360 || C > 800) check<float>(c);
    check<BFloat16>(c);
  }
}

TEST_CASE("rms_norm_film_silu/sim/several_slabs_and_empty") {
  for (const Case& c :
       {Case{2, 300, 4, true, true},
        {1, 257, 12, false, false},
        {3, 70, 400, true, false},
        {2, 65, 1028, true, true},
        {1, 1, 1, true, true},
        {0, 4, 8, true, true},
        {3, 0, 8, true, true}}) {
    check<float>(c);
    check<BFloat16>(c);
  }
}

TEST_CASE("rms_norm_film_silu/sim/blocks of many frames go round several times") {
  const Case c{256, 40, 12, true, true};  // of few frames a block has one round of rows
  const Inputs<BFloat16> in(c);
  const Outputs<double> exact = run_reference(c);
  const Outputs<BFloat16> o = run_device<BFloat16>(c, in);
  CHECK(rel_l2(o.out, exact.out) < 1.8e-3);
  CHECK(rel_l2(o.d_x, exact.d_x) < 1.8e-3);
}

TEST_CASE("rms_norm_film_silu/sim/zero_input_and_nan") {
  const Case c{1, 9, 12, true, false};
  Inputs<float> in(c);
  for (float& v : in.x.values) v = 0;
  const Outputs<float> zero = run_device(c, in);
  for (std::int64_t r = 0; r < 9; ++r)
    for (std::int64_t i = 0; i < 12; ++i) {
      const double z = in.film(0, 12 + i);
      CHECK(zero.out(r, i) == doctest::Approx(z / (1 + std::exp(-z))).epsilon(1e-6));
      CHECK(std::isfinite(zero.d_x(r, i)));
    }
  in.x.at(4, 3) = std::numeric_limits<float>::quiet_NaN();
  const Outputs<float> o = run_device(c, in);
  CHECK(gaps_are_zero(o.out));
  for (std::int64_t r = 0; r < 9; ++r)
    for (std::int64_t i = 0; i < 12; ++i) CHECK(std::isnan(o.out(r, i)) == (r == 4));
}

TEST_CASE("rms_norm_film_silu/sim/norms_about_the_floor_and_below_it") {
  // The floor is 1e-12: rows of 12 numbers below 2^-42 have norms on both sides of it, the wide ones lie below.
  for (const Case& c :
       {Case{2, 37, 12, true, false, 0x1p-42}, {1, 9, 100, true, false, 0x1p-46}, {1, 5, 1032, true, false, 0x1p-46}}) {
    check<float>(c);
    check<BFloat16>(c);
  }
}

TEST_CASE("rms_norm_film_silu/sim/gradients_not_asked_for") {
  const Case c{2, 40, 20, true, false};
  const Inputs<float> in(c);
  const Outputs<float> all = run_device(c, in);
  Pitched<float> d_x = poisoned_rows<float>(c.F * c.S, c.C), d_gamma = poisoned_rows<float>(1, c.C);
  std::vector<float> workspace(static_cast<std::size_t>(kernels::rms_norm_film_silu_bwd_workspace(c.F, c.S, c.C)));
  const kernels::RmsNormFilmSiluDeviceArgs<float> p{
      .F = c.F,
      .S = c.S,
      .C = c.C,
      .x = in.x.view(),
      .gamma = in.gamma.values.data(),
      .film = in.film.view(),
      .residual = {},
      .out = {}};
  kernels::rms_norm_film_silu_bwd<Sim, float>(
      Stream{}, p,
      {.d_out = in.d_out.view(), .d_x = d_x.view(), .d_gamma = nullptr, .d_film = {}, .workspace = workspace.data()});
  CHECK(same_bits(d_x, all.d_x));
  kernels::rms_norm_film_silu_bwd<Sim, float>(
      Stream{}, p,
      {.d_out = in.d_out.view(),
       .d_x = {},
       .d_gamma = d_gamma.values.data(),
       .d_film = {},
       .workspace = workspace.data()});
  CHECK(same_bits(d_gamma, all.d_gamma));
}

TEST_CASE("rms_norm_film_silu/sim/offsets_past_2_to_the_31") {
  const Case c{1, 4, 10, true, true};
  const Inputs<BFloat16> in(c);
  FarRows<BFloat16> x(c.S), residual(c.S), d_out(c.S), out(c.S), d_x(c.S);
  REQUIRE((x.mapped() && residual.mapped() && d_out.mapped() && out.mapped() && d_x.mapped()));
  x = in.x;
  residual = in.residual;
  d_out = in.d_out;
  Pitched<float> d_film = poisoned_rows<float>(c.F, 2 * c.C);
  std::vector<float> workspace(static_cast<std::size_t>(kernels::rms_norm_film_silu_bwd_workspace(c.F, c.S, c.C)));
  const kernels::RmsNormFilmSiluDeviceArgs<BFloat16> p{
      .F = c.F,
      .S = c.S,
      .C = c.C,
      .x = x.view(),
      .gamma = in.gamma.values.data(),
      .film = in.film.view(),
      .residual = residual.view(),
      .out = out.view()};
  kernels::rms_norm_film_silu_fwd<Sim>(Stream{}, p);
  kernels::rms_norm_film_silu_bwd<Sim, BFloat16>(
      Stream{}, p,
      {.d_out = d_out.view(),
       .d_x = d_x.view(),
       .d_gamma = nullptr,
       .d_film = d_film.view(),
       .workspace = workspace.data()});
  const Outputs<BFloat16> near = run_device(c, in);
  CHECK(rel_l2(out.near(c.S, c.C), near.out) == 0);
  CHECK(rel_l2(d_x.near(c.S, c.C), near.d_x) == 0);
  CHECK(same_bits(d_film, near.d_film));
}
