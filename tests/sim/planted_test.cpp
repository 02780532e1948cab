// tests/sim/planted_test.cpp -- every planted bug is reported by the builds that can see it; correct kernels are not
//
// Each bug runs in a child process, because sanitizers end the process that they catch.
#include "tests/sim/planted.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <string>

#include "tests/in_child.h"
#include "tests/sim/orders.h"

namespace {

using namespace avid::test;
using avid::kernels::simulator::ErrorKind;
using avid::kernels::simulator::Order;
using avid::kernels::simulator::SimError;

const std::string kSuite = sim_suite();

const char* name_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::divergent_barrier: return "divergent_barrier";
    case ErrorKind::early_exit: return "early_exit";
    case ErrorKind::divergent_warp: return "divergent_warp";
    case ErrorKind::dead_lane: return "dead_lane";
    case ErrorKind::deadlock: return "deadlock";
    case ErrorKind::misaligned: return "misaligned";
    case ErrorKind::cp_async: return "cp_async";
    case ErrorKind::shared_size: return "shared_size";
    case ErrorKind::overrun: return "overrun";
    case ErrorKind::race: return "race";
    case ErrorKind::uninitialised: return "uninitialised";
    case ErrorKind::bad_operand: return "bad_operand";
    case ErrorKind::bad_launch: return "bad_launch";
    case ErrorKind::mbarrier: return "mbarrier";
    case ErrorKind::wgmma: return "wgmma";
    case ErrorKind::proxy_fence: return "proxy_fence";
  }
  return "?";
}

/// "nan", "fine", "signal", "asan" or the name of a SimError's kind; the message, or what a process wrote to stderr.
struct Found {
  std::string what, text;
};

/// On the heap, with exact ends, so that AddressSanitizer sees the first byte behind them.
float* new_floats(std::size_t n, float value) {
  auto* p = static_cast<float*>(std::aligned_alloc(16, n * sizeof(float)));
  for (std::size_t i = 0; i < n; ++i) p[i] = value;
  return p;
}

Found run_here(void (*kernel)(float*, float*)) {
  const std::unique_ptr<float, void (*)(void*)> in(new_floats(256, 1.0f), std::free),
      out(new_floats(64, 0.0f), std::free);
  try {
    kernel(in.get(), out.get());
  } catch (const SimError& e) {
    return {name_of(e.kind), e.what()};
  }
  bool nan = false;
  for (int i = 0; i < 64; ++i) nan = nan || std::isnan(out.get()[i]);
  return {nan ? "nan" : "fine", ""};
}

Found run_in_child(void (*kernel)(float*, float*), Order order, std::uint64_t seed) {
  const Outcome outcome = in_child([&] {
    avid::kernels::simulator::options().order = order;
    avid::kernels::simulator::options().seed = seed;
    avid::kernels::simulator::options().os_threads = 1;  // the parent's workers are not here
    const Found found = run_here(kernel);
    std::fprintf(stderr, "FOUND %s %s", found.what.c_str(), found.text.c_str());
    return 0;
  });
  const std::size_t at = outcome.text.find("FOUND ");
  if (outcome.result == 0 && at != std::string::npos) {
    const std::size_t end = outcome.text.find(' ', at + 6);
    return {outcome.text.substr(at + 6, end - at - 6), outcome.text.substr(end + 1)};
  }
  return {outcome.signal != 0 ? "signal" : "asan", outcome.text};
}

bool matches_one(const std::string& expected, const Found& o) {
  if (expected.rfind("asan ", 0) == 0)
    return (o.what == "asan" || o.what == "signal") && o.text.find(expected.substr(5)) != std::string::npos;
  if (expected == "unnoticed") return o.what == "fine" || o.what == "nan";
  return expected == o.what;
}

/// Alternatives are joined by " or ".
bool matches(std::string expected, const Found& o) {
  for (std::size_t at; (at = expected.find(" or ")) != std::string::npos; expected.erase(0, at + 4))
    if (matches_one(expected.substr(0, at), o)) return true;
  return matches_one(expected, o);
}

std::vector<Planted> joined(std::initializer_list<const std::vector<Planted>*> lists) {
  std::vector<Planted> all;
  for (const std::vector<Planted>* list : lists) all.insert(all.end(), list->begin(), list->end());
  return all;
}
std::vector<Planted> all_bugs() {
  return joined({&planted_bugs, &planted_copies, &planted_warpgroup_bugs, &planted_tensor_copies});
}
void (*bug_named(const std::string& name))(float*, float*) {
  for (const Planted& bug : all_bugs())
    if (name == bug.name) return bug.run;
  FAIL("no planted bug is called " << name);
  return nullptr;
}

struct Run {
  const char* name;
  Order order;
  std::uint64_t seed;
};
const Run kRuns[] = {
    {"forward", Order::forward, 1},
    {"reverse", Order::reverse, 1},
    {"random 1", Order::random, 1},
    {"random 2", Order::random, 2}};

}  // namespace

TEST_CASE("planted/bugs/each is reported by the builds that can see it") {
  CHECK(all_bugs().size() >= 60);
  for (const Planted& bug : all_bugs()) {
    const std::string name = bug.name;
    CAPTURE(name);
    const std::string expected = kSuite == "sim_asan" ? bug.asan : kSuite == "sim_race" ? bug.race : bug.plain;
    CAPTURE(expected);
    // NaN comes out where the unlucky thread runs first, which is not in every order; errors do not depend on it.
    const bool some_order = expected.find("nan") != std::string::npos;
    bool once = false;
    for (const Run& run : kRuns) {
      const Found o = run_in_child(bug.run, run.order, run.seed);
      const std::string order = run.name;
      CAPTURE(order);
      CAPTURE(o.what);
      CAPTURE(o.text);
      const bool ok = matches(expected, o);
      once = once || ok;
      if (!some_order) {
        CHECK(ok);
        if (expected.rfind("asan", 0) != 0 && o.what != "fine" && o.what != "nan" && o.what != "signal")
          CHECK(o.text.find(bug.name) != std::string::npos);  // the report names the kernel
      }
    }
    CHECK(once);
  }
}

TEST_CASE("planted/innocent/correct kernels run without a report in every order") {
  for (const Planted& kernel :
       joined({&innocent_kernels, &innocent_copies, &innocent_warpgroup_kernels, &innocent_tensor_copies})) {
    const std::string name = kernel.name;
    CAPTURE(name);
    for_each_order([&] {
      const Found o = run_here(kernel.run);
      CAPTURE(o.text);
      CHECK(o.what == "fine");
    });
  }
}

TEST_CASE("planted/reports/name the kernel, block, thread, file and line") {
  const auto text_of = [](const char* name) { return run_in_child(bug_named(name), Order::forward, 1).text; };
  const std::string divergent = text_of("divergent_barrier");
  CAPTURE(divergent);
  CHECK(
      divergent.find("divergent_barrier: block (0,0,0) thread (32,0,0) at planted_kernels.cpp:") != std::string::npos);
  CHECK(divergent.find("32 threads waiting at __syncthreads planted_kernels.cpp:") != std::string::npos);
  const std::string stuck = text_of("shuffle_against_barrier");
  CAPTURE(stuck);
  CHECK(stuck.find("deadlock") != std::string::npos);
  CHECK(stuck.find("16 threads waiting for its warp at planted_kernels.cpp:") != std::string::npos);
  if (kSuite == "sim_race") {
    const std::string race = text_of("no_barrier_before_reuse");
    CAPTURE(race);
    CHECK(race.find("race, no barrier between: ") != std::string::npos);
    CHECK(race.find("on shared 's' byte ") != std::string::npos);
    CHECK(race.find(" by thread ") != std::string::npos);
    CHECK(race.find("planted_kernels.cpp:") != std::string::npos);
  }
  if (kSuite == "sim_asan") {
    const std::string overrun = text_of("shared_write_past_end");
    CAPTURE(overrun);
    CHECK(overrun.find("thread (63,0,0): bad access to shared 's' byte 256 of 256") != std::string::npos);
  }
}

TEST_CASE("planted/recovery/the simulator works after an error") {
  if (kSuite == "sim_asan") return;  // sanitizers end the process; SimErrors are the same code as in the other builds
  for (const char* name : {"early_exit", "shuffle_against_barrier", "copy_never_finished", "divergent_shuffle"}) {
    CAPTURE(name);
    CHECK(run_here(bug_named(name)).what != "fine");
    for (const Planted& kernel : innocent_kernels) CHECK(run_here(kernel.run).what == "fine");
  }
}
