// tests/sim/film_condition_test.cpp -- the device kernels in the simulator against the CPU's
#include "kernels/film_condition.h"

#include <array>

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

template <class Elem>
void check_case(const kernels::FilmConditionSizes& size, double bound) {
  CAPTURE(size.B);
  CAPTURE(size.time_width);
  CAPTURE(size.action_width);
  const std::int64_t frames = size.B * size.T, width = size.time_width + size.action_width;
  const auto code = [&]<class E>(E) { return random_rows<E>(size.B, size.time_width, 1); };
  const auto action = [&]<class E>(E) { return random_rows<E>(frames, size.action_width, 2); };
  const auto upstream = [&]<class E>(E) { return random_rows<E>(frames, width, 3); };
  const auto time_code = code(Elem{}), action_code = action(Elem{}), d_out = upstream(Elem{});
  const auto time64 = code(0.0), action64 = action(0.0), d_out64 = upstream(0.0);
  const bool acts = size.action_width > 0;
  using In = kernels::Rows<const Elem>;
  using Out = kernels::Rows<Elem>;
  Pitched<Elem> out(frames, width), d_time(size.B, size.time_width), d_action(frames, size.action_width);
  Pitched<double> want(frames, width), want_time(size.B, size.time_width), want_action(frames, size.action_width);
  kernels::film_condition_fwd<Sim, Elem>(
      Stream{}, size, time_code.view(), acts ? action_code.view() : In{}, out.view());
  kernels::film_condition_fwd<double>(
      size, time64.view(), acts ? action64.view() : kernels::Rows<const double>{}, want.view());
  CHECK(rel_l2(out, want) == 0);  // copies of numbers that every type holds
  CHECK(gaps_are_zero(out));
  kernels::film_condition_bwd<Sim, Elem>(Stream{}, size, d_out.view(), d_time.view(), acts ? d_action.view() : Out{});
  kernels::film_condition_bwd<double>(
      size, d_out64.view(), want_time.view(), acts ? want_action.view() : kernels::Rows<double>{});
  CHECK(rel_l2(d_time, want_time) <= bound);
  CHECK(rel_l2(d_action, want_action) == 0);
  CHECK(gaps_are_zero(d_time));
}

}  // namespace

TEST_CASE("film_condition/sim/equals_the_reference") {
  for_each_order([] {
    for (const auto& [B, T, E, A] :
         {std::array{1, 1, 1, 1}, {2, 3, 5, 7}, {3, 8, 50, 0}, {2, 5, 100, 36}, {1, 4, 1, 0}}) {
      check_case<float>({.B = B, .T = T, .time_width = E, .action_width = A}, 1e-6);
      check_case<BFloat16>({.B = B, .T = T, .time_width = E, .action_width = A}, 4e-3);
    }
  });
}

TEST_CASE("film_condition/sim/absent_gradients") {
  const kernels::FilmConditionSizes size{.B = 2, .T = 3, .time_width = 5, .action_width = 2};
  const Pitched<float> d_out = random_rows<float>(6, 7, 1);
  Pitched<float> d_time(2, 5), d_action(6, 2);
  kernels::film_condition_bwd<Sim, float>(Stream{}, size, d_out.view(), {}, d_action.view());
  kernels::film_condition_bwd<Sim, float>(Stream{}, size, d_out.view(), d_time.view(), {});
  CHECK(d_action(5, 1) == d_out(5, 6));
  CHECK(d_time(1, 4) == doctest::Approx(d_out(3, 4) + d_out(4, 4) + d_out(5, 4)));
}
