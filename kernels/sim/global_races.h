// kernels/sim/global_races.h -- two blocks of a launch on the same bytes of global memory, one of them writing
//
// Blocks have no order and no barrier between them: whoever comes last or first is the GPU's choice. Only builds with
// race hooks reach this. Of every two bytes the last writer of a launch is remembered, and whether one or several
// blocks read them: blocks that run after each other here are found like those that run at the same time.
#pragma once

#include <cstdint>

#include "kernels/sim/race_detector.h"

namespace avid::kernels::simulator {

/// While one lives, its blocks' accesses are compared with each other.
class GlobalLaunch {
 public:
  GlobalLaunch();
  ~GlobalLaunch();
  GlobalLaunch(const GlobalLaunch&) = delete;
  GlobalLaunch& operator=(const GlobalLaunch&) = delete;
  std::uint32_t number() const { return number_; }

 private:
  std::uint32_t number_;
};

/// An access of the running thread. Fails with race.
void global_access(std::uintptr_t address, unsigned bytes, Access kind, std::uintptr_t place);

}  // namespace avid::kernels::simulator
