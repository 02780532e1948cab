// tests/tensor/timestep_code_test.cpp -- the sinusoidal code against the numbers of the specification
#include "tensor/ops/timestep_code.h"

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;
using namespace avid::test;

namespace {

Tensor times(std::vector<std::int64_t> t) {
  const auto n = static_cast<std::int64_t>(t.size());
  return Tensor::from_values(t, {n});
}

}  // namespace

TEST_CASE("timestep_code/property_27/published_numbers") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const auto near = [](double v) { return doctest::Approx(v).epsilon(1e-6); };
    const auto code = timestep_code(times({5}), 50, dtype).to_doubles();
    const std::vector<double> sines{-0.9589243, -0.2617815, 0.7316900, 0.9999465},
        cosines{0.2836622, -0.9651272, -0.6816375, -0.0103423};
    for (std::size_t j = 0; j < 4; ++j) {
      CHECK(code[j] == near(sines[j]));
      CHECK(code[25 + j] == doctest::Approx(cosines[j]).epsilon(2e-5));  // the last has 6 digits
    }
    CHECK(timestep_code(times({5}), 90, dtype).to_doubles()[1] == near(-0.7919899));
    CHECK(timestep_code(times({5}), 100, dtype).to_doubles()[1] == near(-0.8423458));
    for (const std::int64_t width : {50, 90, 100, 16})
      CHECK(
          timestep_code(times({199}), width, dtype).to_doubles()[static_cast<std::size_t>(width / 2 - 1)] ==
          doctest::Approx(0.0198987).epsilon(1e-5));
  }
}

TEST_CASE("timestep_code/batch/rows_are_independent") {
  const Tensor code = timestep_code(times({0, 7, 199}), 6);
  CHECK(code.shape() == Shape{3, 6});
  CHECK(gaps_are_zero(code));
  const auto rows = code.to_doubles();
  CHECK(std::vector<double>(rows.begin(), rows.begin() + 6) == std::vector<double>{0, 0, 0, 1, 1, 1});
  CHECK(same_bits(code.select(1), timestep_code(times({7}), 6).select(0)));
  CHECK(max_abs_diff(code, timestep_code(times({0, 7, 199}), 6, DType::f64)) < 1e-5);
}

TEST_CASE("timestep_code/errors") {
  CHECK_THROWS_WITH_AS(
      timestep_code(times({1}), 7), "timestep_code: width: expected even and at least 4, got 7", ShapeError);
  CHECK_THROWS_AS(timestep_code(times({1}), 2), ShapeError);
  CHECK_THROWS_AS(timestep_code(Tensor::zeros({2}), 8), DTypeError);
  CHECK_THROWS_AS(timestep_code(Tensor::zeros({2, 1}, DType::i64), 8), ShapeError);
  CHECK_THROWS_AS(timestep_code(times({1}), 8, DType::f16), DTypeError);
}
