// tests/sim/launch_list.h -- what a call launches on the simulator, without doing it: work that nobody asked for shows
// in no result
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/device/sim_recorder.h"
#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"
#include "kernels/sim/traffic.h"
#include "tests/doctest.h"
#include "tests/sim/orders.h"

namespace avid::test {

/// The simulator's launches can be listed, and what the kernels of "sim_race" access; a GPU's cannot.
inline bool lists_launches() { return std::string(sim_suite()) != "gpu"; }
inline bool lists_accesses() { return std::string(sim_suite()) == "sim_race"; }

struct ListedLaunch {
  std::string kernel;  ///< "accumulate_kernel<float>", or "fill"
  unsigned blocks = 1, threads = 1;
  std::size_t shared_bytes = 0;
  bool operator==(const ListedLaunch&) const = default;
};

/// While it lives, launches are listed and not run.
class LaunchList final : public kernels::simulator::LaunchNotes {
 public:
  LaunchList() {
    kernels::simulator::options().detect_races = false;
    kernels::simulator::pretend_and_note(this);
  }
  ~LaunchList() override {
    kernels::simulator::pretend_and_note(nullptr);
    kernels::simulator::options().detect_races = races_;
  }
  LaunchList(const LaunchList&) = delete;
  LaunchList& operator=(const LaunchList&) = delete;

  const std::vector<ListedLaunch>& launches() const { return launches_; }

  void launched(const kernels::simulator::Launch& l) override {
    launches_.push_back(
        {kernels::simulator::function_name(l.kernel), l.grid.x * l.grid.y * l.grid.z, l.block.x * l.block.y * l.block.z,
         l.shared_bytes});
  }
  void copied(std::size_t) override {}
  void filled(std::size_t) override { launches_.push_back({"fill"}); }

 private:
  bool races_ = kernels::simulator::options().detect_races;
  std::vector<ListedLaunch> launches_;
};

/// What f() launches, in order.
template <class F>
std::vector<ListedLaunch> launches_of(F&& f) {
  LaunchList list;
  f();
  return list.launches();
}

/// a without what it shares with b.
inline std::vector<ListedLaunch> without(std::vector<ListedLaunch> a, const std::vector<ListedLaunch>& b) {
  for (const ListedLaunch& launch : b) {
    const auto found = std::find(a.begin(), a.end(), launch);
    if (found != a.end()) a.erase(found);
  }
  return a;
}

/// The narrowest access of f() to global memory, in bytes of a lane, if lists_accesses().
template <class F>
unsigned narrowest_access(F&& f) {
  kernels::simulator::take_traffic_lines();
  kernels::simulator::options().profile = true;
  f();
  kernels::simulator::options().profile = false;
  unsigned narrowest = 0;
  for (const kernels::simulator::TrafficLine& line : kernels::simulator::take_traffic_lines())
    if (!line.shared) narrowest = narrowest == 0 ? line.bytes : std::min(narrowest, line.bytes);
  return narrowest;
}

/// A block's gradients in the order of the backward pass. launches(i): what the forward pass and the backward pass for
/// gradient i alone launch, with i = -1 the one for none. An earlier gradient does without something that every later
/// one needs.
template <class Launches>
void check_gradients_launch_what_they_need(int num_gradients, Launches&& launches) {
  if (!lists_launches()) return;
  const std::vector<ListedLaunch> none = launches(-1);
  for (int late = 1; late < num_gradients; ++late) {
    const std::vector<ListedLaunch> needed = without(launches(late), none);
    for (int early = 0; early < late; ++early) {
      CAPTURE(early);
      CAPTURE(late);
      CHECK_FALSE(without(needed, without(launches(early), none)).empty());
    }
  }
}

}  // namespace avid::test
