// tests/sim/traffic_test.cpp -- sectors and bank passes of accesses that one can count by hand
#include "tests/sim/traffic.h"

#include <string>

#include "kernels/sim/traffic.h"
#include "tests/sim/orders.h"

using namespace avid;
using kernels::simulator::TrafficLine;

TEST_CASE("traffic/strides/sectors and passes") {
  if (std::string(test::sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  struct Case {
    int stride;
    double sectors, passes;
  };
  alignas(128) static float in[32 * 33], out[32];
  // 32 floats are 4 sectors side by side; 8 apart each has its own. Multiples of 32 fall into one bank, odd strides
  // into all.
  for (const Case& c : {Case{1, 4, 1}, Case{2, 8, 2}, Case{8, 32, 8}, Case{32, 32, 32}, Case{33, 32, 1}}) {
    CAPTURE(c.stride);
    kernels::simulator::options().profile = true;
    test::run_strided(in, out, c.stride);
    kernels::simulator::options().profile = false;
    int seen = 0;
    for (const TrafficLine& line : kernels::simulator::take_traffic_lines()) {
      CHECK(line.kernel == "strided_kernel");
      CHECK(line.line.find("traffic_kernels.cpp:") != std::string::npos);
      CHECK(line.requests == 1);
      CHECK(line.bytes == 4);
      const bool store_to_out = !line.shared && line.write;
      CHECK(line.units == (store_to_out ? 4 : line.shared ? c.passes : c.sectors));
      CHECK(line.ideal_units == (line.shared ? 1 : 4));
      ++seen;
    }
    CHECK(seen == 4);
  }
}

// A lane that copies zeros reads nothing, and keeps its turn: the others' next copies are another request.
TEST_CASE("traffic/copies/lanes without a source") {
  if (std::string(test::sim_suite()) != "sim_race") return;
  alignas(128) static float in[64 * 4];
  kernels::simulator::options().profile = true;
  test::run_copies_with_gaps(in);
  kernels::simulator::options().profile = false;
  int seen = 0;
  for (const TrafficLine& line : kernels::simulator::take_traffic_lines()) {
    CHECK(line.requests == 2);
    CHECK(line.bytes == 16);
    // All 32 sectors have a chunk that is copied. Without gaps 28 and 29 chunks would be 14 and 15 sectors.
    CHECK(line.units == (line.shared ? 8 : 32));
    CHECK(line.ideal_units == (line.shared ? 8 : 14 + 15));
    ++seen;
  }
  CHECK(seen == 2);
}
