// tests/sim/moments_test.cpp -- sums, squares and range of rows on the simulator against loops in f64
#include "kernels/moments.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

struct Totals {
  double sum = 0, squares = 0, least = std::numeric_limits<double>::infinity(), largest = -least;
};

/// The blocks' results put together; every one must be written.
Totals run_device(const Pitched<float>& x, double shift) {
  const std::int64_t blocks = kernels::moments_blocks(x.rows * x.cols);
  std::vector<double> partials(static_cast<std::size_t>(4 * blocks), std::numeric_limits<double>::quiet_NaN());
  kernels::moments<Sim>(
      Stream{}, {.P = x.rows, .C = x.cols, .x = x.view(), .shift = shift, .partials = partials.data()});
  Totals t;
  for (std::size_t i = 0; i < partials.size(); i += 4) {
    t.sum += partials[i], t.squares += partials[i + 1];
    if (!(partials[i + 2] >= t.least)) t.least = partials[i + 2];
    if (!(partials[i + 3] <= t.largest)) t.largest = partials[i + 3];
  }
  return t;
}

}  // namespace

TEST_CASE("moments/sim/equal_loops_in_f64") {
  for_each_order([] {
    for (const auto& [P, C] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {5, 3}, {64, 4}, {257, 1}, {700, 3}, {3, 50}, {0, 3}}) {
      CAPTURE(P);
      CAPTURE(C);
      const double shift = 0.25;
      const Pitched<float> x = random_rows<float>(P, C, 1, 3.0);
      Totals want;
      for (std::int64_t r = 0; r < P; ++r)
        for (std::int64_t c = 0; c < C; ++c) {
          want.sum += x(r, c) - shift, want.squares += (x(r, c) - shift) * (x(r, c) - shift);
          want.least = std::min(want.least, x(r, c)), want.largest = std::max(want.largest, x(r, c));
        }
      const Totals got = run_device(x, shift);
      CHECK(std::abs(got.sum - want.sum) <= 1e-12 * static_cast<double>(P * C));
      CHECK(std::abs(got.squares - want.squares) <= 1e-12 * want.squares);
      CHECK(got.least == want.least);
      CHECK(got.largest == want.largest);
    }
  });
}

TEST_CASE("moments/sim/the_extremes_may_lie_in_any_lane_of_any_warp") {
  for (std::int64_t at = 0; at < 256; at += 7) {
    Pitched<float> x = random_rows<float>(256, 1, 1);
    x.at(at, 0) = 9;
    x.at(255 - at, 0) = -9;
    const Totals got = run_device(x, 0);
    CHECK(got.largest == 9);
    CHECK(got.least == -9);
  }
}

TEST_CASE("moments/sim/more_elements_than_threads") {
  // 256 blocks of 256 threads: some threads own two elements.
  const Pitched<float> x = random_rows<float>(256 * 256 + 300, 1, 2);
  double sum = 0;
  for (const float v : x.values) sum += static_cast<double>(v);
  CHECK(run_device(x, 0).sum == doctest::Approx(sum).epsilon(1e-12));
}

TEST_CASE("moments/sim/a_nan_shows_in_the_sums") {
  Pitched<float> x = random_rows<float>(40, 3, 1);
  x.at(17, 1) = std::numeric_limits<float>::quiet_NaN();
  const Totals got = run_device(x, 0);
  CHECK(std::isnan(got.sum));
  CHECK(std::isnan(got.squares));
}
