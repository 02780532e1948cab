// tests/kernels/vec_math_test.cpp -- the vectorisable f32 functions against f64, in units in the last place
#include "kernels/vec_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "tests/doctest.h"
#include "tests/support.h"

using namespace avid::kernels;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// |got - want| in units of the last place of an f32 near `want`.
double ulps(float got, double want) {
  if (std::isinf(got) && want > 3.4028235677973366e38) return 0;  // rounds to inf
  int exponent = 0;
  std::frexp(want, &exponent);
  return std::abs(got - want) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

/// Largest error of f over a grid of bit patterns in [low, high].
template <class F, class G>
double worst_ulps(F&& f, G&& exact, float low, float high) {
  const std::uint64_t stride = avid::test::full_level() ? 61 : 40009;  // odd, so that all low bits occur
  double worst = 0;
  for (std::uint64_t bits = 0; bits < 0x100000000ull; bits += stride) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!(x >= low && x <= high)) continue;
    const double error = ulps(f(x), exact(static_cast<double>(x)));
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  }
  return worst;
}

double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

TEST_CASE("vec_math/exp/within_1.1_ulp") {
  CHECK(
      worst_ulps(
          exp_f32, [](double x) { return std::exp(x); }, -110.0f, 90.0f) < 1.1);
}

TEST_CASE("vec_math/exp/special_values") {
  CHECK(exp_f32(0.0f) == 1.0f);
  CHECK(exp_f32(-0.0f) == 1.0f);
  CHECK(exp_f32(-kInf) == 0.0f);
  CHECK(exp_f32(-1e30f) == 0.0f);
  CHECK(exp_f32(kInf) == kInf);
  CHECK(exp_f32(89.0f) == kInf);
  CHECK(std::isnan(exp_f32(std::nanf(""))));
}

TEST_CASE("vec_math/sigmoid/within_2.6_ulp") {
  CHECK(worst_ulps(sigmoid_f32, exact_sigmoid, -87.0f, kInf) < 2.6);
  CHECK(sigmoid_f32(0.0f) == 0.5f);
  CHECK(sigmoid_f32(-kInf) < 2e-38f);
  CHECK(sigmoid_f32(-kInf) >= 0.0f);
  CHECK(sigmoid_f32(kInf) == 1.0f);
  CHECK(std::isnan(sigmoid_f32(std::nanf(""))));
}

TEST_CASE("vec_math/silu/within_2.6_ulp") {
  CHECK(
      worst_ulps(
          silu_f32, [](double x) { return x * exact_sigmoid(x); }, -87.0f, 3e38f) < 2.6);
  CHECK(silu_f32(0.0f) == 0.0f);
  CHECK(std::abs(silu_f32(-1000.0f)) < 2e-35f);
  CHECK(std::isnan(silu_f32(std::nanf(""))));
}

TEST_CASE("vec_math/log/within_0.9_ulp") {
  CHECK(
      worst_ulps(
          log_f32, [](double x) { return std::log(x); }, 1.1755e-38f, 3.4e38f) < 0.9);
  CHECK(log_f32(1.0f) == 0.0f);
}
