// tests/tensor/clip_mix_test.cpp -- weighted sums with factors per clip: hand values, rounding, errors
#include "tensor/ops/clip_mix.h"

#include <cmath>
#include <limits>

#include "tensor/error.h"
#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid;

namespace {

Tensor times(std::vector<std::int64_t> t) { return Tensor::from_values(t, {static_cast<std::int64_t>(t.size())}); }
Tensor table(std::vector<double> values) {
  return Tensor::from_values(values, {static_cast<std::int64_t>(values.size())});
}

}  // namespace

TEST_CASE("clip_mix/values/by_hand") {
  const Tensor x = Tensor::from_values(std::vector<float>{1, 2, 3, 4}, {2, 1, 2});
  const Tensor y = Tensor::from_values(std::vector<float>{10, 20, 30, 40}, {2, 1, 2});
  const Tensor out = clip_mix(
      x, {.table = table({0, 2, 3})}, y, {.table = table({5, 1, 2}), .value = -1}, times({1, 2}),
      {.table = table({9, 4, 8})});
  CHECK(out.to_doubles() == std::vector<double>{-2, -4, (9 - 60) / 8.0, (12 - 80) / 8.0});
  CHECK(test::gaps_are_zero(out));
  CHECK(clip_mix(x, {}, y, {.value = 0.5}).to_doubles() == std::vector<double>{6, 12, 18, 24});
}

TEST_CASE("clip_mix/rounding/products_first_then_the_sum") {
  // A fused multiply-add would keep the low bits of the second product and give another number.
  const float a = 1.0f + 0x1p-12f, b = 1.0f + 0x1p-23f;
  const Tensor x = Tensor::full({64, 5}, a), y = Tensor::full({64, 5}, a);
  volatile float product = a * a, other = -b * a;
  const float expected = product + other;
  REQUIRE(expected != std::fma(a, a, other));
  for (const double v : clip_mix(x, {.value = a}, y, {.value = -double{b}}).to_doubles())
    REQUIRE(v == double{expected});
}

TEST_CASE("clip_mix/layout/dense_rows_and_many_clips") {
  // Rows without gaps (as in mapped files) must give the numbers that padded rows give.
  const Tensor x = test::random_tensor({7, 3, 5, 3}, DType::f64, 1),
               y = test::random_tensor({7, 3, 5, 3}, DType::f64, 2);
  const std::vector<double> values = x.to_doubles();
  const auto shared = std::make_shared<std::vector<double>>(values);
  const Tensor dense = Tensor::from_storage(
      Storage::borrow(shared->data(), values.size() * sizeof(double), shared), 0, x.shape(), DType::f64, 3);
  const ClipFactor a{.table = table({0.5, -2}), .value = 3};
  const Tensor t = times({0, 1, 0, 0, 1, 1, 0});
  const Tensor out = clip_mix(dense, a, y, {}, t);
  CHECK(test::same_bits(out, clip_mix(x, a, y, {}, t)));
  const std::vector<double> got = out.to_doubles(), ys = y.to_doubles();
  for (std::size_t i = 0; i < got.size(); ++i) {
    const bool second = t.to_values<std::int64_t>()[i / 45] == 1;
    REQUIRE(got[i] == (second ? -6.0 : 1.5) * values[i] + ys[i]);
  }
  CHECK(test::gaps_are_zero(out));
}

TEST_CASE("clip_mix/into/changes_x_and_its_version") {
  Tensor x = Tensor::full({2, 3}, 1.0);
  const auto version = x.version();
  clip_mix_into(x, {.value = 2}, Tensor::full({2, 3}, 10.0), {.value = 0.25});
  CHECK(x.to_doubles() == std::vector<double>(6, 4.5));
  CHECK(x.version() > version);
}

TEST_CASE("clip_mix/lookup/value_of_each_clip") {
  const Tensor w = clip_lookup(table({0.1, 0.25, 4}), times({2, 0, 1}), DType::f32);
  CHECK(w.dtype() == DType::f32);
  CHECK(w.to_doubles() == std::vector<double>{4, double{0.1f}, 0.25});
}

TEST_CASE("clip_mix/errors") {
  const Tensor x = Tensor::zeros({2, 3}), y = Tensor::zeros({2, 3});
  const ClipFactor two{.table = table({1, 2})};
  CHECK_THROWS_AS(clip_mix(x, two, Tensor::zeros({2, 4}), {}, times({0, 1})), ShapeError);
  CHECK_THROWS_AS(clip_mix(x, two, Tensor::zeros({2, 3}, DType::f64), {}, times({0, 1})), DTypeError);
  CHECK_THROWS_AS(clip_mix(Tensor::zeros({2}), {}, Tensor::zeros({2}), {}), ShapeError);
  CHECK_THROWS_AS(clip_mix(x, two, y, {}), ShapeError);
  CHECK_THROWS_AS(clip_mix(x, two, y, {}, times({0})), ShapeError);
  CHECK_THROWS_AS(clip_mix(x, two, y, {.table = table({1, 2, 3})}, times({0, 1})), ShapeError);
  CHECK_THROWS_AS(clip_mix(x, {.table = Tensor::zeros({2})}, y, {}, times({0, 1})), DTypeError);
  CHECK_THROWS_WITH_AS(
      clip_mix(x, two, y, {}, times({0, 2})), doctest::Contains("expected 0 to 1, got 2 for clip 1"), ConfigError);
  CHECK_THROWS_AS(clip_lookup(table({1, 2}), times({-1}), DType::f32), ConfigError);
  CHECK(clip_mix(Tensor::zeros({0, 3}), two, Tensor::zeros({0, 3}), {}, times({})).numel() == 0);
}
