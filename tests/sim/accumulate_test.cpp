// tests/sim/accumulate_test.cpp -- into += from on the simulator against host sums
#include "kernels/accumulate.h"

#include "tests/doctest.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

/// n elements from element `first` of a buffer on, so that they start at a multiple of 16 bytes or do not.
template <class Elem>
void check_sum(std::int64_t n, std::int64_t first) {
  CAPTURE(n);
  CAPTURE(first);
  const Pitched<Elem> a = random_rows<Elem>(1, n + 16, 1, 4.0), b = random_rows<Elem>(1, n + 16, 2);
  Pitched<Elem> want = a, got = a;
  for (std::int64_t i = first; i < first + n; ++i) want.at(0, i) = Elem(static_cast<float>(a(0, i) + b(0, i)));
  kernels::accumulate<Sim, Elem>(Stream{}, got.values.data() + first, b.values.data() + first, n);
  CHECK(same_bits(got, want));  // also before the first element and behind the last
}

}  // namespace

TEST_CASE("accumulate/sim/equals_host_sums_at_awkward_lengths") {
  for_each_order([] {
    for (const std::int64_t n : {0, 1, 3, 4, 7, 8, 9, 1024, 2053}) {
      for (const std::int64_t first : {0, 1, 8}) {
        check_sum<float>(n, first);
        check_sum<BFloat16>(n, first);
      }
    }
  });
}

TEST_CASE("accumulate/sim/one_of_the_buffers_starts_at_an_odd_address") {
  Pitched<float> into(1, 12);
  const Pitched<float> from = random_rows<float>(1, 13, 1);
  kernels::accumulate<Sim, float>(Stream{}, into.values.data(), from.values.data() + 1, 12);
  for (std::int64_t i = 0; i < 12; ++i) CHECK(into(0, i) == from(0, i + 1));
}

TEST_CASE("accumulate/sim/work/threads and accesses of 16 bytes, to the end") {
  if (!lists_launches()) return;
  Pitched<float> into(1, 4096);
  const Pitched<float> from = random_rows<float>(1, 4096, 1);
  const auto add = [&](std::int64_t n) {
    kernels::accumulate<Sim, float>(Stream{}, into.values.data(), from.values.data(), n);
  };
  for (const std::int64_t n : {1, 1024, 1025, 4096}) {
    const auto launches = launches_of([&] { add(n); });
    REQUIRE(launches.size() == 1);
    CHECK(launches[0].blocks == (n + 1023) / 1024);
  }
  if (!lists_accesses()) return;
  CHECK(narrowest_access([&] { add(16); }) == 16);
  CHECK(narrowest_access([&] { add(17); }) == 4);
}
