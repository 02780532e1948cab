// tests/eval/frechet_test.cpp -- Frechet distance against 40-digit values and closed forms
#include "eval/metrics/frechet.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "eval/metrics/frechet_moments.h"
#include "tensor/error.h"
#include "tensor/io/atomic_file.h"
#include "tensor/io/safetensors.h"
#include "tests/doctest.h"
#include "tests/support.h"

namespace avid::eval {
namespace {

/// Trace of the covariance with N - 1.
double trace(const Tensor& x) {
  const auto v = x.to_doubles();
  const auto d = static_cast<std::size_t>(x.dim(1)), n = static_cast<std::size_t>(x.dim(0));
  double sum = 0;
  for (std::size_t j = 0; j < d; ++j) {
    double mean = 0;
    for (std::size_t i = 0; i < n; ++i) mean += v[i * d + j] / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i)
      sum += (v[i * d + j] - mean) * (v[i * d + j] - mean) / static_cast<double>(n - 1);
  }
  return sum;
}

Tensor plus(const Tensor& x, double scale, double shift) {
  auto v = x.to_doubles();
  for (double& e : v) e = e * scale + shift;
  return Tensor::from_values(v, x.shape());
}

}  // namespace

TEST_CASE("frechet/golden/reference_case") {
  const auto expected = nlohmann::json::parse(read_text(test::golden("metrics/frechet/case.json")))["expected_values"];
  const SafetensorsFile file(test::golden("metrics/frechet/input.safetensors"));
  CHECK(expected.size() == 7);
  for (const auto& [name, values] : expected.items()) {
    CAPTURE(name);
    const Tensor x = file.load(name + ".x"), y = file.load(name + ".y");
    const double tolerance = 1e-10 * (trace(x) + trace(y));  // the case asks for 1e-6
    CHECK(std::abs(frechet_distance(x, y, Covariance::unbiased) - values["fid"].get<double>()) < tolerance);
    CHECK(std::abs(frechet_distance(x, y, Covariance::biased) - values["fvd"].get<double>()) < tolerance);
    CHECK(std::abs(frechet_distance(y, x, Covariance::unbiased) - values["fid"].get<double>()) < tolerance);
  }
}

TEST_CASE("frechet/closed_forms/four_points_shift_and_scale") {
  const Tensor x = Tensor::from_values(std::vector<double>{3, 0, -3, 0, 0, 1, 0, -1}, {4, 2});
  const Tensor y = Tensor::from_values(std::vector<double>{1, 0, -1, 0, 0, 2, 0, -2}, {4, 2});
  CHECK(frechet_distance(x, y, Covariance::unbiased) == doctest::Approx(10.0 / 3).epsilon(1e-12));
  CHECK(frechet_distance(x, y, Covariance::biased) == doctest::Approx(2.5).epsilon(1e-12));
  for (const Shape& shape : {Shape{5, 9}, Shape{40, 7}}) {
    const Tensor f = test::random_tensor(shape, DType::f64, 3);
    const auto d = static_cast<double>(shape[1]);
    CHECK(frechet_distance(f, f, Covariance::unbiased) < 1e-12);
    CHECK(frechet_distance(f, plus(f, 1, 0.5), Covariance::biased) == doctest::Approx(0.25 * d).epsilon(1e-10));
    double mean_square = 0;
    const auto v = f.to_doubles();
    for (std::int64_t j = 0; j < shape[1]; ++j) {
      double mean = 0;
      for (std::int64_t i = 0; i < shape[0]; ++i)
        mean += v[static_cast<std::size_t>(i * shape[1] + j)] / static_cast<double>(shape[0]);
      mean_square += mean * mean;
    }
    CHECK(
        frechet_distance(f, plus(f, 3, 0), Covariance::unbiased) ==
        doctest::Approx(4 * (trace(f) + mean_square)).epsilon(1e-10));
  }
}

TEST_CASE("frechet/closed_forms/two_by_two_diagonal_and_any_order") {
  // Points +-sqrt(2) l_i have the biased covariance sum of l_i l_i^T, here rows of a Cholesky factor.
  const auto points = [](std::vector<std::vector<double>> factors) {
    std::vector<double> v;
    for (const auto& l : factors)
      for (const double sign : {1.0, -1.0})
        for (const double e : l) v.push_back(sign * std::sqrt(static_cast<double>(factors.size())) * e);
    const auto d = static_cast<std::int64_t>(factors.front().size());
    return Tensor::from_values(v, {static_cast<std::int64_t>(v.size()) / d, d});
  };
  const double r2 = std::sqrt(2.0), r3 = std::sqrt(3.0);
  const Tensor s1 = points({{r2, 1 / r2}, {0, std::sqrt(1.5)}}),
               s2 = points({{1, 0}, {0, r3}});  // [[2,1],[1,2]], (1,3)
  CHECK(frechet_distance(s1, s2, Covariance::biased) == doctest::Approx(8 - 2 * std::sqrt(14.0)).epsilon(1e-12));
  const Tensor a = points({{2, 0, 0}, {0, 3, 0}, {0, 0, 1}}), b = points({{5, 0, 0}, {0, 1, 0}, {0, 0, 0}});
  CHECK(frechet_distance(a, plus(b, 1, 2), Covariance::biased) == doctest::Approx(3 * 4 + 9 + 4 + 1).epsilon(1e-12));
  // The same features in another order are the same set.
  const Tensor x = test::random_tensor({30, 6}, DType::f64, 21);
  Tensor reversed = Tensor::empty(x.shape(), DType::f64);
  for (std::int64_t i = 0; i < 30; ++i) reversed.slice(i, i + 1).copy_from(x.slice(29 - i, 30 - i));
  CHECK(std::abs(frechet_distance(x, reversed, Covariance::unbiased)) < 1e-6 * trace(x));
}

TEST_CASE("frechet/method_e/moments_in_two_dimensions") {
  // tr (S1 S2)^(1/2) of 2 x 2 matrices is sqrt(tr S1 S2 + 2 sqrt(det S1 S2)): moments only, another way than ours.
  const Tensor x = test::random_tensor({50, 2}, DType::f64, 23), y = test::random_tensor({31, 2}, DType::f64, 29, 2.5);
  struct Moments {
    double m[2]{}, s[2][2]{};
  };
  const auto moments = [](const Tensor& t) {
    const auto v = t.to_doubles();
    const auto n = static_cast<double>(t.dim(0));
    Moments out;
    for (std::size_t i = 0; i < v.size(); ++i) out.m[i % 2] += v[i] / n;
    for (std::size_t i = 0; i < v.size(); i += 2)
      for (std::size_t r = 0; r < 2; ++r)
        for (std::size_t c = 0; c < 2; ++c) out.s[r][c] += (v[i + r] - out.m[r]) * (v[i + c] - out.m[c]) / (n - 1);
    return out;
  };
  const Moments a = moments(x), b = moments(y);
  double product_trace = 0, means = 0;
  for (std::size_t r = 0; r < 2; ++r) {
    means += (a.m[r] - b.m[r]) * (a.m[r] - b.m[r]);
    for (std::size_t c = 0; c < 2; ++c) product_trace += a.s[r][c] * b.s[c][r];
  }
  const auto det = [](const Moments& m) { return m.s[0][0] * m.s[1][1] - m.s[0][1] * m.s[1][0]; };
  const double want = means + trace(x) + trace(y) - 2 * std::sqrt(product_trace + 2 * std::sqrt(det(a) * det(b)));
  CHECK(frechet_distance(x, y, Covariance::unbiased) == doctest::Approx(want).epsilon(1e-6));
}

TEST_CASE("frechet/singular_values/known_sums") {
  CHECK(sum_of_singular_values({3, 0, 0, -4}, 2, 2) == doctest::Approx(7));
  CHECK(sum_of_singular_values({1, 2, 3}, 1, 3) == doctest::Approx(std::sqrt(14.0)));
  CHECK(sum_of_singular_values({1, 2, 3}, 3, 1) == doctest::Approx(std::sqrt(14.0)));
  CHECK(sum_of_singular_values(std::vector<double>(12, 0.0), 3, 4) == 0);
  CHECK(sum_of_singular_values(std::vector<double>(12, 1.0), 4, 3) == doctest::Approx(std::sqrt(12.0)));
  // For a symmetric positive matrix the sum is the trace: G = M M^T.
  const std::int64_t n = 23;
  const auto m = test::random_tensor({n, n}, DType::f64, 9).to_doubles();
  std::vector<double> g(m.size(), 0.0);
  double expected = 0;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      for (std::int64_t k = 0; k < n; ++k)
        g[static_cast<std::size_t>(i * n + j)] +=
            m[static_cast<std::size_t>(i * n + k)] * m[static_cast<std::size_t>(j * n + k)];
      if (i == j) expected += g[static_cast<std::size_t>(i * n + j)];
    }
  CHECK(sum_of_singular_values(g, n, n) == doctest::Approx(expected).epsilon(1e-12));
}

TEST_CASE("frechet/errors/shapes_and_values") {
  const Tensor x = test::random_tensor({4, 3}, DType::f32, 1);
  CHECK_THROWS_AS(frechet_distance(x, test::random_tensor({4, 2}, DType::f32, 1), Covariance::biased), ShapeError);
  CHECK_THROWS_AS(frechet_distance(x.slice(0, 1), x, Covariance::unbiased), ShapeError);
  CHECK_NOTHROW(frechet_distance(x.slice(0, 1), x, Covariance::biased));
  Tensor bad = x.clone();
  bad.data<float>()[0] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(frechet_distance(bad, x, Covariance::biased), Error);
  // Finite, but their squares are not: an error, no value that is none.
  const Tensor huge = Tensor::from_values(std::vector<double>{1e200, -1e200, 3, 4}, {2, 2});
  CHECK_THROWS_AS(frechet_distance(huge, huge, Covariance::biased), Error);
  CHECK_THROWS_AS(FeatureMoments::of(huge, Covariance::biased, "huge"), Error);
}

}  // namespace avid::eval
