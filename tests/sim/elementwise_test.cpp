// tests/sim/elementwise_test.cpp -- the device kernels in the simulator against f64
#include "kernels/elementwise.h"

#include <functional>

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

/// n elements in one row: whole packs of 16 bytes and a rest, as vectors and scalars have it.
template <class Elem>
Pitched<Elem> flat(std::int64_t n, unsigned seed, double scale) {
  return random_rows<Elem>(1, n, seed, scale);
}

template <class Elem>
void check_all(std::int64_t n, double bound) {
  CAPTURE(n);
  const Pitched<Elem> x = flat<Elem>(n, 1, 8.0), y = flat<Elem>(n, 2, 2.0);
  const Pitched<double> x64 = flat<double>(n, 1, 8.0), y64 = flat<double>(n, 2, 2.0);
  Pitched<Elem> out = poisoned_rows<Elem>(1, n);
  Pitched<double> want(1, n);
  const Elem *px = x.values.data(), *py = y.values.data();
  Elem* po = out.values.data();
  const double *rx = x64.values.data(), *ry = y64.values.data();
  double* ro = want.values.data();
  const auto compare = [&](const char* op) {
    CAPTURE(op);
    CHECK(rel_l2(out, want) <= bound);
    for (std::int64_t i = n; i < out.pitch; ++i) CHECK(std::isnan(out(0, i)));  // nothing behind the n elements
    out = poisoned_rows<Elem>(1, n);
    po = out.values.data();
  };
  kernels::silu_fwd<Sim>(Stream{}, px, po, n), kernels::silu_fwd(rx, ro, n), compare("silu");
  kernels::silu_bwd<Sim>(Stream{}, px, py, po, n), kernels::silu_bwd(rx, ry, ro, n), compare("silu_bwd");
  kernels::gelu_fwd<Sim>(Stream{}, px, po, n), kernels::gelu_fwd(rx, ro, n), compare("gelu");
  kernels::gelu_bwd<Sim>(Stream{}, px, py, po, n), kernels::gelu_bwd(rx, ry, ro, n), compare("gelu_bwd");
  kernels::add_fwd<Sim>(Stream{}, px, py, po, n), kernels::add_fwd(rx, ry, ro, n), compare("add");
  kernels::scale_fwd<Sim>(Stream{}, px, -0.75f, po, n), kernels::scale_fwd(rx, -0.75, ro, n), compare("scale");
}

}  // namespace

TEST_CASE("elementwise/sim/every_function_at_awkward_lengths") {
  for_each_order([] {
    for (const std::int64_t n : {0, 1, 3, 4, 7, 8, 9, 1023, 2050}) {
      check_all<float>(n, 1e-6);
      check_all<BFloat16>(n, 4e-3);
    }
  });
}

TEST_CASE("elementwise/sim/extreme_arguments") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  Pitched<float> x(1, 8), out = poisoned_rows<float>(1, 8);
  x.values = {-200, -1e30f, 200, inf, nan, 0, -0.0f, 1e-30f};
  kernels::silu_fwd<Sim>(Stream{}, x.values.data(), out.values.data(), std::int64_t{8});
  CHECK(std::abs(out(0, 0)) < 1e-30);
  CHECK(std::abs(out(0, 1)) < 1e-30);
  CHECK(out(0, 2) == 200);
  CHECK(out(0, 3) == inf);
  CHECK(std::isnan(out(0, 4)));
  CHECK(out(0, 5) == 0);
  CHECK(out(0, 7) == doctest::Approx(5e-31));
  kernels::gelu_fwd<Sim>(Stream{}, x.values.data(), out.values.data(), std::int64_t{8});
  CHECK(out(0, 0) == 0);
  CHECK(out(0, 2) == 200);
  CHECK(std::isnan(out(0, 4)));
}

TEST_CASE("elementwise/sim/scale_leaves_no_negative_zero") {
  const Pitched<float> zeros(1, 4);
  Pitched<float> out = poisoned_rows<float>(1, 4);
  kernels::scale_fwd<Sim>(Stream{}, zeros.values.data(), -2.0f, out.values.data(), std::int64_t{4});
  CHECK(same_bits(out, zeros));
}

TEST_CASE("elementwise/sim/clamp") {
  for_each_order([] {
    Pitched<BFloat16> x(1, 9);
    const float values[9] = {-2, -1, -0.5f, 0, 0.75f, 1, 3, std::numeric_limits<float>::quiet_NaN(), -1e30f};
    const float want[9] = {-1, -1, -0.5f, 0, 0.75f, 1, 1, 0, -1};
    for (int i = 0; i < 9; ++i) x.at(0, i) = BFloat16(values[i]);
    kernels::clamp_unit<Sim>(Stream{}, x.values.data(), std::int64_t{9});
    for (int i = 0; i < 9; ++i) CHECK((i == 7 ? std::isnan(x(0, i)) : x(0, i) == want[i]));
  });
}

TEST_CASE("elementwise/sim/finds_what_is_not_finite") {
  for_each_order([] {
    for (const std::int64_t n : {1, 5, 8, 777}) {
      for (const std::int64_t at : {std::int64_t{-1}, std::int64_t{0}, n - 1}) {
        for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
          Pitched<float> x = flat<float>(n, 3, 3e38);
          for (std::int64_t i = n; i < x.pitch; ++i) x.at(0, i) = bad;  // behind the end: not looked at
          if (at >= 0) x.at(0, at) = bad;
          std::int32_t found = 0;
          kernels::find_non_finite<Sim, float>(Stream{}, x.values.data(), n, &found);
          CHECK(found == (at >= 0 ? 1 : 0));
        }
      }
    }
  });
}
