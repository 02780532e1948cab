// tests/sim/cross_entropy_test.cpp -- the device kernels in the simulator against the f64 reference
#include "kernels/cross_entropy.h"

#include <array>

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
float run_device(
    const Pitched<Elem>& logits, const std::vector<std::int64_t>& ids, Pitched<Elem>& d_logits, float d_loss = 2.0f) {
  float loss = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> workspace(static_cast<std::size_t>(logits.rows), std::numeric_limits<float>::quiet_NaN());
  kernels::cross_entropy_fwd<Sim, Elem>(
      Stream{}, logits.view(), ids.data(), logits.rows, logits.cols, &loss, workspace.data());
  kernels::cross_entropy_bwd<Sim, Elem>(
      Stream{}, logits.view(), ids.data(), logits.rows, logits.cols, &d_loss, d_logits.view());
  return loss;
}

template <class Elem>
void check_case(std::int64_t rows, std::int64_t A, double scale, double bound) {
  CAPTURE(rows);
  CAPTURE(A);
  std::vector<std::int64_t> ids;
  for (std::int64_t r = 0; r < rows; ++r) ids.push_back(r * 5 % A);
  const Pitched<Elem> logits = random_rows<Elem>(rows, A, 1, scale);
  const Pitched<double> logits64 = random_rows<double>(rows, A, 1, scale);
  Pitched<Elem> d(rows, A);
  Pitched<double> want(rows, A);
  const float loss = run_device(logits, ids, d);
  const double reference = kernels::cross_entropy_fwd<double>(logits64.view(), ids.data(), rows, A);
  kernels::cross_entropy_bwd<double>(logits64.view(), ids.data(), rows, A, 2.0, want.view());
  CHECK(std::abs(loss - reference) <= 2e-6 * std::max(scale, std::abs(reference)));
  // A probability near one minus one: the error is relative to d_loss = 2, not to the difference.
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t a = 0; a < A; ++a)
      REQUIRE(std::abs(d(r, a) - want(r, a)) * static_cast<double>(rows) <= 2 * bound);
  CHECK(gaps_are_zero(d));
}

}  // namespace

TEST_CASE("cross_entropy/sim/equals_the_reference") {
  for_each_order([] {
    for (const auto& [rows, A] : {std::array{1, 2}, {7, 15}, {9, 3}, {40, 33}, {300, 15}, {3, 100}}) {
      check_case<float>(rows, A, 3.0, 2e-6);
      check_case<BFloat16>(rows, A, 3.0, 4e-3);
      check_case<float>(rows, A, 100.0, 1e-5);  // overflows without the maximum taken out
    }
  });
}

TEST_CASE("cross_entropy/sim/a_wrong_id_gives_nan") {
  const Pitched<float> logits = random_rows<float>(3, 4, 1);
  Pitched<float> d(3, 4);
  CHECK(std::isnan(run_device(logits, {0, 4, 1}, d)));
  CHECK(std::isnan(d(1, 0)));
  CHECK(std::isfinite(d(2, 0)));
  CHECK(std::isnan(run_device(logits, {0, 3, -1}, d)));
}
