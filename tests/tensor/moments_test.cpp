// tests/tensor/moments_test.cpp -- hand values
#include "tensor/ops/moments.h"

#include <cmath>

#include "tests/doctest.h"
#include "tests/support.h"

namespace avid {

TEST_CASE("moments/values/by hand") {
  const Moments m = moments(Tensor::from_values(std::vector<float>{1, 2, 3, 6}, {4}));
  CHECK(m.mean == 3);
  CHECK(m.std == doctest::Approx(std::sqrt(14.0 / 3)));
  CHECK(m.min == 1);
  CHECK(m.max == 6);
  CHECK(std::isnan(moments(Tensor::from_values(std::vector<float>{1}, {1})).std));
  CHECK_THROWS_AS(moments(Tensor::empty({0})), ShapeError);
}

}  // namespace avid
