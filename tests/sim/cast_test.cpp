// tests/sim/cast_test.cpp -- f32 rows to bf16 rows and back on the simulator against the host's BFloat16
#include "kernels/cast.h"

#include "tests/doctest.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

/// f32 numbers with all their bits, so that narrowing has something to round.
Pitched<float> full_floats(std::int64_t rows, std::int64_t cols) {
  Pitched<float> t = random_rows<float>(rows, cols, 1);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) t.at(r, c) = static_cast<float>(t(r, c) / 3);
  return t;
}

/// Views with `shift` elements in front and a pitch longer by `wider` than need be.
template <class To, class From>
void check_cast(std::int64_t P, std::int64_t C, std::int64_t shift, std::int64_t wider) {
  CAPTURE(P);
  CAPTURE(C);
  CAPTURE(shift);
  CAPTURE(wider);
  const Pitched<float> numbers = full_floats(P, C + shift + wider);
  Pitched<From> from(P, C + shift + wider);
  for (std::int64_t r = 0; r < P; ++r)
    for (std::int64_t c = 0; c < from.cols; ++c) from.at(r, c) = From(static_cast<float>(numbers(r, c)));
  Pitched<To> to(P, C + shift + wider);
  for (To& v : to.values) v = To(7.0f);
  Pitched<To> want = to;
  for (std::int64_t r = 0; r < P; ++r)
    for (std::int64_t c = shift; c < C + shift; ++c) want.at(r, c) = To(static_cast<float>(from(r, c)));
  kernels::cast<Sim, To, From>(
      Stream{},
      {.P = P, .C = C, .from = {from.values.data() + shift, from.pitch}, .to = {to.values.data() + shift, to.pitch}});
  CHECK(same_bits(to, want));  // and the 7s in gaps and before the first column are still there
}

}  // namespace

TEST_CASE("cast/sim/both_ways_at_awkward_sizes") {
  for_each_order([] {
    for (const std::int64_t C : {1, 3, 4, 5, 8, 50}) {
      for (const std::int64_t P : {0, 1, 2, 130}) {
        check_cast<BFloat16, float>(P, C, 0, 0);
        check_cast<float, BFloat16>(P, C, 0, 0);
      }
    }
  });
}

TEST_CASE("cast/sim/rows_that_start_anywhere") {
  for (const std::int64_t shift : {1, 2, 4}) {
    check_cast<BFloat16, float>(3, 9, shift, 3);
    check_cast<float, BFloat16>(3, 9, shift, 3);
    check_cast<BFloat16, float>(1, 8, shift, 0);
    check_cast<float, BFloat16>(1, 8, shift, 0);
  }
}

TEST_CASE("cast/sim/pitches_that_are_no_multiples_of_four") {
  for (const std::int64_t pitch : {5, 6, 7}) {
    CAPTURE(pitch);
    std::vector<float> from(static_cast<std::size_t>(3 * pitch), -1.0f);
    std::vector<BFloat16> to(static_cast<std::size_t>(3 * pitch), BFloat16(0.5f));
    for (std::int64_t r = 0; r < 3; ++r)
      for (std::int64_t c = 0; c < 5; ++c)
        from[static_cast<std::size_t>(r * pitch + c)] = static_cast<float>(10 * r + c);
    kernels::cast<Sim, BFloat16, float>(
        Stream{}, {.P = 3, .C = 5, .from = {from.data(), pitch}, .to = {to.data(), pitch}});
    for (std::size_t i = 0; i < to.size(); ++i)
      CHECK(static_cast<float>(to[i]) == (static_cast<std::int64_t>(i) % pitch < 5 ? from[i] : 0.5f));
  }
}

TEST_CASE("cast/sim/work/rows of whole groups move four at a time") {
  if (!lists_accesses()) return;
  CHECK(narrowest_access([] { check_cast<BFloat16, float>(3, 8, 0, 0); }) == 8);
  CHECK(narrowest_access([] { check_cast<float, BFloat16>(3, 8, 0, 0); }) == 8);
  CHECK(narrowest_access([] { check_cast<BFloat16, float>(1, 8, 4, 0); }) == 8);
  CHECK(narrowest_access([] { check_cast<BFloat16, float>(3, 9, 0, 0); }) == 2);
}
