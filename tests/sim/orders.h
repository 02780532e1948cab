// tests/sim/orders.h -- runs a kernel test in every order of threads and blocks that the simulator offers
#pragma once

#include <string>

#include "kernels/sim/simulator.h"
#include "tests/doctest.h"

namespace avid::test {

/// How this program's kernels are compiled: "sim" plain, "sim_asan", "sim_race"; "gpu": by nvcc (tests/gpu).
const char* sim_suite();

/// Calls f in forward order, in reverse, and in two seeded random orders. A kernel whose result depends on the order,
/// or that only works in some, has a race; f checks the results each time. A GPU has an order of its own: once there.
template <class F>
void for_each_order(F&& f) {
  if (std::string(sim_suite()) == "gpu") return f();
  using kernels::simulator::Order;
  const kernels::simulator::Options saved = kernels::simulator::options();
  struct Restore {
    const kernels::simulator::Options& saved;
    ~Restore() { kernels::simulator::options() = saved; }
  } restore{saved};
  struct Run {
    const char* name;
    Order order;
    std::uint64_t seed;
  };
  for (const Run& run :
       {Run{"forward", Order::forward, 1}, Run{"reverse", Order::reverse, 1}, Run{"random, seed 1", Order::random, 1},
        Run{"random, seed 2", Order::random, 2}}) {
    const std::string name = run.name;
    INFO("order: " << name);
    kernels::simulator::options().order = run.order;
    kernels::simulator::options().seed = run.seed;
    f();
  }
}

}  // namespace avid::test
