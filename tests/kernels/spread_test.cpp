// tests/kernels/spread_test.cpp -- quartiles, worked out by hand
#include "kernels/spread.h"

#include <cmath>
#include <limits>

#include "tests/doctest.h"

using avid::kernels::Spread;
using avid::kernels::spread_of;

namespace {

void check_spread(const Spread& s, double low, double median, double high) {
  CHECK(s.low == doctest::Approx(low));
  CHECK(s.median == doctest::Approx(median));
  CHECK(s.high == doctest::Approx(high));
}

}  // namespace

TEST_CASE("spread/quartiles/by hand") {
  check_spread(spread_of({5, 1, 4, 2, 3}), 2, 3, 4);          // on values
  check_spread(spread_of({40, 10, 30, 20}), 17.5, 25, 32.5);  // between two: 3/4, 3/2 and 9/4 from the first
  check_spread(spread_of({1, 2, 3, 4, 5, 6}), 2.25, 3.5, 4.75);
  check_spread(spread_of({2, 1}), 1.25, 1.5, 1.75);
  check_spread(spread_of({7}), 7, 7, 7);
  check_spread(spread_of({}), 0, 0, 0);
  check_spread(spread_of({1, 1, 1, 1, 1000}), 1, 1, 1);  // one outlier moves none of them
}

TEST_CASE("spread/quartiles/what is not a number shows") {
  const Spread s = spread_of({1, std::numeric_limits<double>::quiet_NaN(), 2, 3});
  CHECK(std::isnan(s.low));
  CHECK(std::isnan(s.median));
  CHECK(std::isnan(s.high));
}
