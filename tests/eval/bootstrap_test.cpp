// tests/eval/bootstrap_test.cpp -- confidence intervals over clips
#include "eval/metrics/bootstrap.h"

#include <cmath>
#include <vector>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {

TEST_CASE("bootstrap/width/is_that_of_the_normal_theory") {
  const auto values = test::random_tensor({400}, DType::f64, 1).to_doubles();  // uniform in [-1,1): sd 1/sqrt(3)
  const Interval interval = bootstrap_mean(values);
  const double half = 1.96 / std::sqrt(3.0 * 400);
  CHECK(interval.low < interval.mean);
  CHECK(interval.mean < interval.high);
  CHECK((interval.high - interval.low) / 2 == doctest::Approx(half).epsilon(0.1));
}

TEST_CASE("bootstrap/repeatable/from_the_seed") {
  const auto values = test::random_tensor({30}, DType::f64, 2).to_doubles();
  const Interval a = bootstrap_mean(values, {.seed = 1}), b = bootstrap_mean(values, {.seed = 1}),
                 c = bootstrap_mean(values, {.seed = 2});
  CHECK(a.low == b.low);
  CHECK(a.high == b.high);
  CHECK(a.low != c.low);
}

TEST_CASE("bootstrap/paired/removes_what_the_clips_share") {
  std::vector<double> a, b;
  for (int i = 0; i < 50; ++i) {
    a.push_back(100.0 * i + 1 + 0.1 * (i % 3));
    b.push_back(100.0 * i);
  }
  const Interval paired = bootstrap_difference(a, b);
  CHECK(paired.excludes_zero());
  CHECK(paired.mean == doctest::Approx(1.1).epsilon(0.01));
  CHECK(paired.high - paired.low < 0.1);
  CHECK_FALSE(bootstrap_difference(a, a).excludes_zero());
}

TEST_CASE("bootstrap/errors/empty_and_uneven") {
  const std::vector<double> none, one{3.5}, two{1, 2};
  CHECK_THROWS_AS(bootstrap_mean(none), Error);
  CHECK_THROWS_AS(bootstrap_difference(one, two), ShapeError);
  CHECK(bootstrap_mean(one).low == 3.5);
  CHECK(bootstrap_mean(one).high == 3.5);
}

}  // namespace avid::eval
