// tests/kernels/rms_norm_film_silu_test.cpp -- the SIMD path against the f64 reference over awkward sizes
#include "kernels/rms_norm_film_silu.h"

#include <omp.h>

#include <cmath>
#include <limits>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::test;
using kernels::RmsNormFilmSiluArgs, kernels::RmsNormFilmSiluGrads, kernels::Rows;

namespace {

template <class Elem>
Rows<const Elem> rows(const Tensor& t) {
  return t.defined() ? Rows<const Elem>{t.data<Elem>(), t.pitch()} : Rows<const Elem>{};
}
template <class Elem>
Rows<Elem> mutable_rows(Tensor& t) {
  return t.defined() ? Rows<Elem>{t.data<Elem>(), t.pitch()} : Rows<Elem>{};
}

struct Case {
  std::int64_t F, S, C;
  bool film, residual;
};

struct Inputs {
  Tensor x, gamma, film, residual, d_out;

  Inputs(const Case& c, DType dtype) {
    // Rounded to f32 first, so that f32 and f64 see the same numbers.
    const auto make = [&](const Shape& shape, std::uint64_t seed) {
      return random_tensor(shape, DType::f32, seed, 2.0).to(dtype);
    };
    x = make({c.F * c.S, c.C}, 1);
    gamma = make({c.C}, 2);
    if (c.film) film = make({c.F, 2 * c.C}, 3);
    if (c.residual) residual = make({c.F * c.S, c.C}, 4);
    d_out = make({c.F * c.S, c.C}, 5);
  }
};

struct Outputs {
  Tensor out, d_x, d_gamma, d_film;
};

template <class Elem, class Fwd, class Bwd>
Outputs run(const Case& c, const Inputs& in, Fwd&& fwd, Bwd&& bwd) {
  constexpr DType dtype = dtype_of<Elem>;
  Outputs o{
      Tensor::empty(in.x.shape(), dtype),
      Tensor::empty(in.x.shape(), dtype),
      Tensor::empty(in.gamma.shape(), dtype),
      {}};
  if (c.film) o.d_film = Tensor::empty(in.film.shape(), dtype);
  const RmsNormFilmSiluArgs<Elem> args{
      .F = c.F,
      .S = c.S,
      .C = c.C,
      .x = rows<Elem>(in.x),
      .gamma = in.gamma.data<Elem>(),
      .film = rows<Elem>(in.film),
      .residual = rows<Elem>(in.residual),
      .out = mutable_rows<Elem>(o.out)};
  fwd(args);
  bwd(args, RmsNormFilmSiluGrads<Elem>{
                .d_out = rows<Elem>(in.d_out),
                .d_x = mutable_rows<Elem>(o.d_x),
                .d_gamma = o.d_gamma.data<Elem>(),
                .d_film = mutable_rows<Elem>(o.d_film)});
  return o;
}

Outputs run_fast(const Case& c, const Inputs& in) {
  return run<float>(
      c, in, [](auto& a) { kernels::rms_norm_film_silu_fwd(a); },
      [](auto& a, auto&& g) { kernels::rms_norm_film_silu_bwd(a, g); });
}

template <class Elem>
Outputs run_reference(const Case& c, const Inputs& in) {
  return run<Elem>(
      c, in, [](auto& a) { kernels::rms_norm_film_silu_fwd_reference<Elem>(a); },
      [](auto& a, auto&& g) { kernels::rms_norm_film_silu_bwd_reference<Elem>(a, g); });
}

}  // namespace

TEST_CASE("rms_norm_film_silu/forward/hand_values") {
  // x = (3,4): norm 5, u = x sqrt(2)/5; gamma = 1: y = (0.8485281, 1.1313708)
  for (const bool film : {false, true}) {
    const Case c{1, 1, 2, film, true};
    Inputs in(c, DType::f32);
    in.x = Tensor::from_values(std::vector<float>{3, 4}, {1, 2});
    in.gamma = Tensor::from_values(std::vector<float>{1, 1}, {2});
    if (film) in.film = Tensor::from_values(std::vector<float>{1, 0, -1, 0.5f}, {1, 4});
    in.residual = Tensor::from_values(std::vector<float>{10, 20}, {1, 2});
    const double y0 = 3 * std::sqrt(2.0) / 5, y1 = 4 * std::sqrt(2.0) / 5;
    const double z0 = film ? 2 * y0 - 1 : y0, z1 = film ? y1 + 0.5 : y1;
    for (const Outputs& o : {run_fast(c, in), run_reference<float>(c, in)}) {
      CHECK(o.out.to_doubles()[0] == doctest::Approx(10 + z0 / (1 + std::exp(-z0))).epsilon(1e-6));
      CHECK(o.out.to_doubles()[1] == doctest::Approx(20 + z1 / (1 + std::exp(-z1))).epsilon(1e-6));
    }
  }
}

TEST_CASE("rms_norm_film_silu/parity/all_row_widths_and_awkward_sizes") {
  std::vector<Case> cases;
  for (std::int64_t C = 1; C <= 72; C += full_level() ? 1 : 3) cases.push_back({2, 67, C, true, C % 2 == 0});
  for (std::int64_t C : {3, 7, 12, 50, 90, 100, 128, 180, 400}) cases.push_back({3, 5, C, C % 2 == 0, true});
  cases.push_back({1, 1, 24, true, true});
  cases.push_back({1, 1, 1, true, true});
  cases.push_back({2, 2500, 24, true, false});  // several items per frame
  cases.push_back({7, 300, 8, false, false});   // merged frames
  cases.push_back({0, 4, 8, true, true});
  cases.push_back({4, 0, 8, true, true});
  for (const Case& c : cases) {
    CAPTURE(c.F);
    CAPTURE(c.S);
    CAPTURE(c.C);
    CAPTURE(c.film);
    const Outputs fast = run_fast(c, Inputs(c, DType::f32)), exact = run_reference<double>(c, Inputs(c, DType::f64));
    const Outputs plain = run_reference<float>(c, Inputs(c, DType::f32));
    for (const Outputs* o : {&fast, &plain}) {
      // f32 rounding of a norm of up to 400 terms and of sums over up to 2500 rows
      CHECK(rel_l2(o->out, exact.out) < 1e-6);
      // With one channel the output does not depend on |x| and d_x is rounding noise around 0.
      if (c.C == 1)
        CHECK(max_abs_diff(o->d_x, exact.d_x) < 1e-3);
      else
        CHECK(rel_l2(o->d_x, exact.d_x) < 2e-6);
      CHECK(rel_l2(o->d_gamma, exact.d_gamma) < 4e-6);
      if (c.film) CHECK(rel_l2(o->d_film, exact.d_film) < 4e-6);
      CHECK(gaps_are_zero(o->out));
      CHECK(gaps_are_zero(o->d_x));
    }
  }
}

TEST_CASE("rms_norm_film_silu/backward/absent_gradients_change_nothing") {
  const Case c{2, 130, 20, true, false};
  const Inputs in(c, DType::f32);
  const Outputs all = run_fast(c, in);
  Tensor d_gamma = Tensor::empty({c.C});
  kernels::rms_norm_film_silu_bwd(
      {.F = c.F,
       .S = c.S,
       .C = c.C,
       .x = rows<float>(in.x),
       .gamma = in.gamma.data<float>(),
       .film = rows<float>(in.film),
       .residual = {},
       .out = {}},
      {.d_out = rows<float>(in.d_out), .d_x = {}, .d_gamma = d_gamma.data<float>(), .d_film = {}});
  CHECK(same_bits(d_gamma, all.d_gamma));
}

TEST_CASE("rms_norm_film_silu/property_14/zero_input_zero_output_finite_gradient") {
  for (const std::int64_t C : {3, 24, 100}) {
    const Case c{1, 9, C, false, false};
    Inputs in(c, DType::f32);
    in.x = Tensor::zeros({9, C});
    const Outputs o = run_fast(c, in), reference = run_reference<float>(c, in);
    CHECK(max_abs_diff(o.out, Tensor::zeros({9, C})) == 0);
    for (double v : o.d_x.to_doubles()) CHECK(std::isfinite(v));
    CHECK(rel_l2(o.d_x, reference.d_x) < 1e-6);
    CHECK(rel_l2(o.d_x, Tensor::zeros({9, C})) > 1);  // d_out sqrt(C) / 1e-12 is not zero
  }
}

TEST_CASE("rms_norm_film_silu/forward/nan_stays_in_its_row_and_out_of_the_gaps") {
  const Case c{1, 5, 6, true, false};
  Inputs in(c, DType::f32);
  in.x.data<float>()[2 * in.x.pitch() + 1] = std::numeric_limits<float>::quiet_NaN();
  const Outputs o = run_fast(c, in);
  CHECK(gaps_are_zero(o.out));
  CHECK(gaps_are_zero(o.d_x));
  const auto out = o.out.to_doubles();
  for (std::size_t i = 0; i < out.size(); ++i) CHECK(std::isnan(out[i]) == (i / 6 == 2));
}

TEST_CASE("rms_norm_film_silu/threads/same_bits_for_one_and_two") {
  const Case c{3, 1500, 24, true, true};
  const Inputs in(c, DType::f32);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Outputs one = run_fast(c, in);
  omp_set_num_threads(2);
  const Outputs two = run_fast(c, in);
  omp_set_num_threads(before);
  CHECK(same_bits(one.out, two.out));
  CHECK(same_bits(one.d_x, two.d_x));
  CHECK(same_bits(one.d_gamma, two.d_gamma));
  CHECK(same_bits(one.d_film, two.d_film));
}
