// tests/sim/timestep_code_test.cpp -- the device kernel in the simulator against the CPU's
#include "kernels/timestep_code.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

TEST_CASE("timestep_code/sim/equals_the_cpu") {
  const std::vector<std::int64_t> t{0, 1, 7, 100, 199, 999, 3};
  for_each_order([&] {
    for (const std::int64_t width : {4, 6, 50, 90, 100, 256}) {
      CAPTURE(width);
      const auto B = static_cast<std::int64_t>(t.size());
      Pitched<float> out(B, width), want(B, width);
      Pitched<BFloat16> half(B, width);
      kernels::timestep_code<Sim>(Stream{}, t.data(), B, width, out.view());
      kernels::timestep_code<Sim>(Stream{}, t.data(), B, width, half.view());
      kernels::timestep_code<float>(t.data(), B, width, want.view());
      for (std::int64_t b = 0; b < B; ++b)
        for (std::int64_t c = 0; c < width; ++c) {
          // exp may round differently; an angle of t then moves by t * 2^-23.
          REQUIRE(
              std::abs(out(b, c) - want(b, c)) <= 1e-6 + 1.2e-7 * static_cast<double>(t[static_cast<std::size_t>(b)]));
          REQUIRE(std::abs(half(b, c) - want(b, c)) <= 5e-3);
        }
      CHECK(gaps_are_zero(out));
    }
  });
}
