// tests/sim/fill_test.cpp -- one value into rows on the simulator
#include "kernels/fill.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
void check_fill(std::int64_t P, std::int64_t C, float value, double stored) {
  CAPTURE(P);
  CAPTURE(C);
  Pitched<Elem> t = poisoned_rows<Elem>(P, C);
  kernels::fill<Sim, Elem>(Stream{}, {.P = P, .C = C, .to = t.view(), .value = value});
  for (std::int64_t r = 0; r < P; ++r)
    for (std::int64_t c = 0; c < t.pitch; ++c)
      REQUIRE((c < C ? t(r, c) == stored : std::isnan(t(r, c))));  // gaps are left alone
}

}  // namespace

TEST_CASE("fill/sim/elements_but_no_gaps") {
  for_each_order([] {
    for (const std::int64_t C : {1, 3, 4, 50}) {
      for (const std::int64_t P : {0, 1, 7, 300}) {
        check_fill<float>(P, C, -1.7f, static_cast<double>(-1.7f));
        check_fill<BFloat16>(P, C, 1.00390625f, 1.0);  // halfway between 1 and the next bf16: to even
      }
    }
  });
}
