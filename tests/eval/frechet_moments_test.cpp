// tests/eval/frechet_moments_test.cpp -- method E of metrics.md 10: against closed forms, method N and the reference
#include "eval/metrics/frechet_moments.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

FeatureMoments moments(std::vector<double> mean, std::vector<double> covariance) {
  const auto d = static_cast<std::int64_t>(mean.size());
  return FeatureMoments::from(
      Tensor::from_values(mean, {d}), Tensor::from_values(covariance, {d, d}), "moments of a test");
}

double by_moments(const Tensor& x, const Tensor& y, Covariance c) {
  return frechet_distance(FeatureMoments::of(x, c, "x"), FeatureMoments::of(y, c, "y"));
}

}  // namespace

TEST_CASE("frechet_moments/metrics_12/closed_forms") {
  CHECK(
      frechet_distance(moments({1, 2}, {2, 1, 1, 2}), moments({1, 2}, {1, 0, 0, 3})) ==
      doctest::Approx(0.51668523).epsilon(1e-8));
  // Diagonal: sum of dm^2 + (sqrt a - sqrt b)^2.
  CHECK(
      frechet_distance(
          moments({0, 1, 2}, {4, 0, 0, 0, 9, 0, 0, 0, 0}), moments({3, 1, 1}, {25, 0, 0, 0, 1, 0, 0, 0, 16})) ==
      doctest::Approx(9 + 1 + 9 + 4 + 16).epsilon(1e-12));
  const Tensor x = Tensor::from_values(std::vector<double>{3, 0, -3, 0, 0, 1, 0, -1}, {4, 2});
  const Tensor y = Tensor::from_values(std::vector<double>{1, 0, -1, 0, 0, 2, 0, -2}, {4, 2});
  CHECK(by_moments(x, y, Covariance::unbiased) == doctest::Approx(3.333333).epsilon(1e-6));
  CHECK(by_moments(x, y, Covariance::biased) == doctest::Approx(2.5).epsilon(1e-12));
}

TEST_CASE("frechet_moments/metrics_10/methods_agree_to_1e-6") {
  for (const auto& [n1, n2, d] : {std::array{60, 45, 8}, std::array{200, 300, 31}, std::array{40, 40, 1}})
    for (const Covariance c : {Covariance::unbiased, Covariance::biased}) {
      CAPTURE(d);
      const Tensor x = test::random_tensor({n1, d}, DType::f64, 3),
                   y = test::random_tensor({n2, d}, DType::f64, 4, 1.7);
      const double features = frechet_distance(x, y, c);
      CHECK(by_moments(x, y, c) == doctest::Approx(features).epsilon(1e-6));
      CHECK(by_moments(y, x, c) == doctest::Approx(features).epsilon(1e-6));
      CHECK(by_moments(x, x, c) < 1e-6 * FeatureMoments::of(x, c, "x").trace());
    }
  // Fewer samples than features: covariances of rank 8 in 30 dimensions. Still right, but no longer to 1e-12.
  const Tensor few = test::random_tensor({9, 30}, DType::f64, 5), other = test::random_tensor({12, 30}, DType::f64, 6);
  CHECK(
      by_moments(few, other, Covariance::unbiased) ==
      doctest::Approx(frechet_distance(few, other, Covariance::unbiased)).epsilon(1e-6));
}

TEST_CASE("frechet_moments/golden/every_case_of_the_reference") {
  const auto expected = nlohmann::json::parse(read_text(test::golden("metrics/frechet/case.json")))["expected_values"];
  const SafetensorsFile in(test::golden("metrics/frechet/input.safetensors"));
  for (const auto& [name, values] : expected.items()) {
    CAPTURE(name);
    const Tensor x = in.load(name + ".x"), y = in.load(name + ".y");
    // Relative to the traces: two sets that are equal have a distance of 0.
    const double scale = FeatureMoments::of(x, Covariance::unbiased, "x").trace();
    CHECK(std::abs(by_moments(x, y, Covariance::unbiased) - values["fid"].get<double>()) < 1e-6 * scale);
    CHECK(std::abs(by_moments(x, y, Covariance::biased) - values["fvd"].get<double>()) < 1e-6 * scale);
  }
  CHECK(expected.size() == 7);
}

TEST_CASE("frechet_moments/eigenvalues/of_matrices_whose_eigenvalues_are_known") {
  // Circulant: 2 cos(2 pi k / n) + 3. Its eigenvalues come in pairs, which QL must not mix up.
  const int n = 9;
  std::vector<double> a(n * n, 0.0), want;
  for (int i = 0; i < n; ++i) {
    a[static_cast<std::size_t>(i * n + i)] = 3;
    a[static_cast<std::size_t>(i * n + (i + 1) % n)] = a[static_cast<std::size_t>(((i + 1) % n) * n + i)] = 1;
    want.push_back(3 + 2 * std::cos(2 * M_PI * i / n));
  }
  std::sort(want.begin(), want.end());
  const auto got = symmetric_eigenvalues(a, n);
  for (int i = 0; i < n; ++i)
    CHECK(got[static_cast<std::size_t>(i)] == doctest::Approx(want[static_cast<std::size_t>(i)]).epsilon(1e-13));
  CHECK(symmetric_eigenvalues({0, 0, 0, 0}, 2) == std::vector<double>{0, 0});
  CHECK(symmetric_eigenvalues({-7}, 1) == std::vector<double>{-7});
  // Rank one: v v^T.
  const auto one = symmetric_eigenvalues({1, 2, 3, 2, 4, 6, 3, 6, 9}, 3);
  CHECK(one[2] == doctest::Approx(14).epsilon(1e-14));
  CHECK(std::abs(one[0]) < 1e-14);
  CHECK(std::abs(one[1]) < 1e-14);
  CHECK_THROWS_AS(symmetric_eigenvalues({1, 2}, 2), ShapeError);
}

TEST_CASE("frechet_moments/errors/what_is_no_covariance") {
  CHECK_THROWS_WITH_AS(moments({0, 0}, {1, 0.5, 0.2, 1}), doctest::Contains("symmetric"), Error);
  CHECK_THROWS_WITH_AS(moments({0, 0}, {1, 0, 0, -1}), doctest::Contains("negative diagonal"), Error);
  CHECK_THROWS_WITH_AS(moments({0, NAN}, {1, 0, 0, 1}), doctest::Contains("not finite"), Error);
  CHECK_THROWS_AS(
      FeatureMoments::from(Tensor::zeros({2}, DType::f64), Tensor::zeros({3, 3}, DType::f64), "x"), ShapeError);
  CHECK_THROWS_AS(frechet_distance(moments({0}, {1}), moments({0, 0}, {1, 0, 0, 1})), ShapeError);
  CHECK_THROWS_AS(by_moments(Tensor::zeros({1, 2}), Tensor::zeros({5, 2}), Covariance::unbiased), ShapeError);
}

}  // namespace avid::eval
