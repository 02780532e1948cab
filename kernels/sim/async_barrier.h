// kernels/sim/async_barrier.h -- mbarriers: barriers in shared memory that some threads arrive at, and the bytes of
// tensor copies, and others wait for
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

/// For each thread, the moment up to which another has seen what it did (race_detector.h). Empty without race hooks.
using Clock = std::vector<std::uint32_t>;

/// The mbarriers of a block. A phase is complete when all arrivals of it came, and all bytes that were announced with
/// them; the next begins at once, and its parity is the other one. Who waits for a parity is let through while the
/// current phase has the other, as on hardware: a thread that is late by two phases waits again, forever.
class AsyncBarriers {
 public:
  void begin_block() { barriers_.clear(); }
  void init(std::uint32_t address, std::uint32_t arrivals, Site site);
  /// `bytes`: announces so many, of tensor copies begun after this.
  void arrive(std::uint32_t address, std::uint32_t bytes, Site site);
  void wait(std::uint32_t address, std::uint32_t parity, Site site);

  /// A tensor copy begins that will bring `bytes` of those announced for the current phase. Fails with mbarrier where
  /// they were not: the copy might complete this phase too early, or none ever; and with proxy_fence unless who
  /// initialised the barrier passed a fence_proxy_async since.
  void claim_bytes(std::uint32_t address, std::uint32_t bytes, Site site);
  void bytes_arrived(std::uint32_t address, std::uint32_t bytes);
  /// A barrier's place in the order of their initialisation.
  std::uint32_t number_of(std::uint32_t address) const;
  /// What the barriers wait for at which threads wait: a line each.
  std::string describe() const;

 private:
  struct Barrier {
    std::uint32_t address, arrivals;
    std::uint32_t pending, phase = 0;      ///< arrivals left of the current phase, and its number
    std::uint32_t expected = 0;            ///< bytes of the current phase that are announced and did not arrive yet
    std::uint32_t unclaimed = 0;           ///< of these, those that no copy was begun for
    std::uint32_t owner = 0, fences = 0;   ///< who initialised it, and that thread's fence_proxy_async before
    std::vector<std::uint32_t> waiting{};  ///< threads
    Clock arriving{}, completed{};         ///< what the arrivals of the current and of all finished phases saw
  };
  Barrier& at(std::uint32_t address, const char* what, Site site);
  void complete(Barrier& barrier);

  std::vector<Barrier> barriers_;
};

}  // namespace avid::kernels::simulator
