// tests/sim/clip_mix_test.cpp -- the device kernels in the simulator against the f64 reference
#include "kernels/clip_mix.h"

#include <array>

#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

const std::vector<float> kA{0.25f, 1.5f, -3.0f}, kB{2.0f, -0.125f, 0.75f}, kC{4.0f, 0.5f, 7.0f};

template <class Elem>
void check_case(std::int64_t B, std::int64_t rows_per_clip, std::int64_t C, bool divide, double bound) {
  CAPTURE(B);
  CAPTURE(rows_per_clip);
  CAPTURE(C);
  const kernels::ClipMixSizes size{.B = B, .rows_per_clip = rows_per_clip, .C = C};
  std::vector<std::int64_t> t;
  std::vector<double> a, b, c;
  for (std::int64_t i = 0; i < B; ++i) {
    t.push_back((i * 2 + 1) % 3);
    const auto at = static_cast<std::size_t>(t.back());
    a.push_back(kA[at]), b.push_back(-1.0 * kB[at]), c.push_back(kC[at]);
  }
  const Pitched<Elem> x = random_rows<Elem>(B * rows_per_clip, C, 1), y = random_rows<Elem>(B * rows_per_clip, C, 2);
  const Pitched<double> x64 = random_rows<double>(x.rows, C, 1), y64 = random_rows<double>(x.rows, C, 2);
  Pitched<Elem> out = poisoned_rows<Elem>(x.rows, C);
  Pitched<double> want(x.rows, C);
  kernels::ClipMixDeviceArgs<Elem> p{
      .size = size,
      .x = x.view(),
      .y = y.view(),
      .of_x = {kA.data(), 1},
      .of_y = {kB.data(), -1},
      .divisor = divide ? kernels::ClipFactorDevice{kC.data(), 1} : kernels::ClipFactorDevice{},
      .t = t.data(),
      .num_times = 3,
      .out = out.view()};
  kernels::clip_mix_fwd<Sim>(Stream{}, p);
  kernels::clip_mix_fwd<double>(
      {.size = size,
       .x = x64.view(),
       .y = y64.view(),
       .of_x = a.data(),
       .of_y = b.data(),
       .divisor = divide ? c.data() : nullptr,
       .out = want.view()});
  CHECK(rel_l2(out, want) <= bound);
  CHECK(gaps_are_zero(out));
  Pitched<Elem> in_place = x;
  p.x = in_place.view(), p.out = in_place.view();
  kernels::clip_mix_fwd<Sim>(Stream{}, p);
  CHECK(same_bits(in_place, out));
}

}  // namespace

TEST_CASE("clip_mix/sim/equals_the_reference") {
  for_each_order([] {
    for (const auto& [B, rows, C] :
         {std::array{1, 1, 1}, {3, 7, 3}, {4, 90, 3}, {2, 300, 4}, {2, 5, 50}, {0, 3, 3}, {5, 1, 8}}) {
      check_case<float>(B, rows, C, rows % 2 == 0, 1e-6);
      check_case<BFloat16>(B, rows, C, rows % 2 == 0, 4e-3);
    }
  });
}

TEST_CASE("clip_mix/sim/numbers_without_tables") {
  const Pitched<float> x = random_rows<float>(6, 3, 1), y = random_rows<float>(6, 3, 2);
  Pitched<float> out = poisoned_rows<float>(6, 3);
  kernels::clip_mix_fwd<Sim, float>(
      Stream{}, {.size = {.B = 2, .rows_per_clip = 3, .C = 3},
                 .x = x.view(),
                 .y = y.view(),
                 .of_x = {},
                 .of_y = {nullptr, -1},
                 .divisor = {},
                 .out = out.view()});
  for (int i = 0; i < 6; ++i)
    for (int c = 0; c < 3; ++c)
      CHECK(out(i, c) == static_cast<double>(static_cast<float>(x(i, c)) - static_cast<float>(y(i, c))));
}

TEST_CASE("clip_mix/sim/a_time_outside_the_table_gives_nan_there_and_zero_gaps") {
  const Pitched<float> x = random_rows<float>(9, 3, 1);
  Pitched<float> out = poisoned_rows<float>(9, 3);
  const std::vector<std::int64_t> t{2, 3, -1};
  kernels::clip_mix_fwd<Sim, float>(
      Stream{}, {.size = {.B = 3, .rows_per_clip = 3, .C = 3},
                 .x = x.view(),
                 .y = x.view(),
                 .of_x = {kA.data(), 1},
                 .of_y = {},
                 .divisor = {},
                 .t = t.data(),
                 .num_times = 3,
                 .out = out.view()});
  for (int i = 0; i < 9; ++i) CHECK(std::isnan(out(i, 1)) == (i >= 3));
  CHECK(gaps_are_zero(out));
  std::vector<float> looked(3, 0);
  kernels::clip_lookup<Sim>(Stream{}, kA.data(), 3, t.data(), 3, looked.data());
  CHECK(looked[0] == kA[2]);
  CHECK(std::isnan(looked[1]));
  CHECK(std::isnan(looked[2]));
}
