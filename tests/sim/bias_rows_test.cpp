// tests/sim/bias_rows_test.cpp -- the device kernel in the simulator against the sum in f64
#include "kernels/bias_rows.h"

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
void check_sizes() {
  for (const std::int64_t rows : {0, 1, 37, 300})
    for (const std::int64_t C : {1, 3, 8, 50, 90})
      for (const bool with_bias : {true, false}) {
        CAPTURE(rows);
        CAPTURE(C);
        CAPTURE(with_bias);
        const Pitched<Elem> before = random_rows<Elem>(rows, C, 1);
        const Pitched<float> bias = random_rows<float>(1, C, 2);
        Pitched<Elem> after = before;
        for (std::int64_t r = 0; r < rows; ++r)  // what a library leaves behind the columns
          for (std::int64_t c = C; c < after.pitch; ++c) after.at(r, c) = Elem(7.0f);
        kernels::add_bias_rows<Sim, Elem>(
            Stream{}, {.P = rows, .C = C, .bias = with_bias ? bias.values.data() : nullptr, .rows = after.view()});
        for (std::int64_t r = 0; r < rows; ++r)
          for (std::int64_t c = 0; c < after.pitch; ++c) {
            const double sum = c >= C ? 0 : before(r, c) + (with_bias ? bias(0, c) : 0);
            const double bound = (sizeof(Elem) == 2 ? 0x1p-8 : 0x1p-23) * std::abs(sum);
            if (!(std::abs(after(r, c) - sum) <= bound)) FAIL_CHECK("row " << r << " column " << c);
          }
      }
}

}  // namespace

TEST_CASE("bias_rows/parity/bias added, gaps zero") {
  for_each_order([] {
    check_sizes<float>();
    check_sizes<BFloat16>();
  });
}
