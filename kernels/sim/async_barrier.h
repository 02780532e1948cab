// kernels/sim/async_barrier.h -- mbarriers: barriers in shared memory that some threads arrive at and others wait for
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

/// For each thread, the moment up to which another has seen what it did (race_detector.h). Empty without race hooks.
using Clock = std::vector<std::uint32_t>;

/// The mbarriers of a block. A phase is complete when all arrivals of it came; the next begins at once, and its parity
/// is the other one. Who waits for a parity is let through while the current phase has the other, as on hardware: a
/// thread that is late by two phases waits again, forever.
class AsyncBarriers {
 public:
  void begin_block() { barriers_.clear(); }
  void init(std::uint32_t address, std::uint32_t arrivals, Site site);
  void arrive(std::uint32_t address, Site site);
  void wait(std::uint32_t address, std::uint32_t parity, Site site);

 private:
  struct Barrier {
    std::uint32_t address, arrivals;
    std::uint32_t pending, phase = 0;    ///< arrivals left of the current phase, and its number
    std::vector<std::uint32_t> waiting;  ///< threads
    Clock arriving, completed;           ///< what the arrivals of the current and of all finished phases saw
  };
  Barrier& at(std::uint32_t address, const char* what, Site site);

  std::vector<Barrier> barriers_;
};

}  // namespace avid::kernels::simulator
