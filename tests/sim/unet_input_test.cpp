// tests/sim/unet_input_test.cpp -- the device kernels in the simulator against the CPU's
#include "kernels/unet_input.h"

#include <array>

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
void check_case(const kernels::UnetInputSizes& size, bool with_base) {
  CAPTURE(size.K);
  CAPTURE(size.S);
  CAPTURE(with_base);
  const std::int64_t pixels = size.B * size.T * size.S, channels = size.C * size.K + size.C + (with_base ? size.C : 0);
  const Pitched<Elem> cond = random_rows<Elem>(size.B * size.K * size.S, size.C, 1);
  const Pitched<Elem> x_t = random_rows<Elem>(pixels, size.C, 2), base = random_rows<Elem>(pixels, size.C, 3);
  const Pitched<double> cond64 = random_rows<double>(size.B * size.K * size.S, size.C, 1);
  const Pitched<double> x_t64 = random_rows<double>(pixels, size.C, 2), base64 = random_rows<double>(pixels, size.C, 3);
  Pitched<Elem> out = poisoned_rows<Elem>(pixels, channels);
  Pitched<double> want(pixels, channels);
  kernels::unet_input_fwd<Sim, Elem>(
      Stream{}, size, cond.view(), x_t.view(), with_base ? base.view() : kernels::Rows<const Elem>{}, out.view());
  kernels::unet_input_fwd<double>(
      size, cond64.view(), x_t64.view(), with_base ? base64.view() : kernels::Rows<const double>{}, want.view());
  CHECK(rel_l2(out, want) == 0);
  CHECK(gaps_are_zero(out));
  // Backward takes the channels of x_t and base out again.
  Pitched<Elem> d_x_t = poisoned_rows<Elem>(pixels, size.C), d_base = poisoned_rows<Elem>(pixels, size.C);
  const Pitched<Elem>& d_out = out;
  kernels::unet_input_bwd<Sim, Elem>(
      Stream{}, size, d_out.view(), d_x_t.view(), with_base ? d_base.view() : kernels::Rows<Elem>{});
  CHECK(same_bits(d_x_t, x_t));
  if (with_base) CHECK(same_bits(d_base, base));
}

}  // namespace

TEST_CASE("unet_input/sim/equals_the_reference") {
  for_each_order([] {
    for (const auto& [B, T, K, S, C] :
         {std::array{1, 1, 1, 1, 3},
          {2, 3, 2, 35, 3},
          {1, 8, 2, 36, 3},
          {2, 2, 0, 9, 3},
          {1, 2, 3, 7, 1},
          {1, 3, 1, 5, 4},
          {2, 1, 2, 6, 9}}) {
      const kernels::UnetInputSizes size{.B = B, .T = T, .K = K, .S = S, .C = C};
      for (const bool with_base : {false, true}) {
        check_case<float>(size, with_base);
        check_case<BFloat16>(size, with_base);
      }
    }
  });
}

TEST_CASE("unet_input/sim/only_the_gradients_that_are_asked_for") {
  const kernels::UnetInputSizes size{.B = 1, .T = 1, .K = 2, .S = 3, .C = 3};
  const Pitched<float> d_out = random_rows<float>(3, 12, 1);
  Pitched<float> d_base = poisoned_rows<float>(3, 3);
  kernels::unet_input_bwd<Sim, float>(Stream{}, size, d_out.view(), {}, d_base.view());
  for (int i = 0; i < 3; ++i)
    for (int c = 0; c < 3; ++c) CHECK(d_base(i, c) == d_out(i, 9 + c));
}
