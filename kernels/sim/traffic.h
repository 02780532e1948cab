// kernels/sim/traffic.h -- memory traffic per source line: sectors of global memory, passes through shared banks
//
// Only in builds with race hooks. One block is recorded: the accesses that the lanes of a warp make at one place, the
// n-th time each comes there, count as one request, as they do on a GPU whose warp is converged.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

struct Thread;

class TrafficRecorder {
 public:
  bool recording() const { return recording_; }
  void begin_block(std::uint32_t num_threads);
  /// Adds what was recorded to the process's totals (see traffic_lines()).
  void end_block();
  /// `place` is a return address of a hook, or place_of() for what the compiler does not see: copies, ldmatrix.
  void access(
      std::uintptr_t address, unsigned bytes, bool write, bool shared, const Thread& thread, std::uintptr_t place);

 private:
  struct Request {
    std::uint32_t lanes = 0;
    unsigned bytes = 0;
    bool write = false, shared = false;
    std::array<std::uintptr_t, 32> address{};
  };
  using Place = std::tuple<std::uintptr_t, std::uint32_t, std::uint32_t>;  // place and kind of memory, warp, n-th time

  bool recording_ = false;
  std::vector<std::unordered_map<std::uintptr_t, std::uint32_t>> times_;  // per thread: how often at a pc
  std::map<Place, Request> requests_;
};

/// Totals of one instruction. A sector is 32 bytes of global memory; a pass is one cycle of the 32 banks.
struct TrafficLine {
  std::string kernel, line;
  bool shared = false, write = false;
  unsigned bytes = 0;             ///< per lane
  std::uint64_t requests = 0;     ///< of warps
  std::uint64_t units = 0;        ///< sectors or passes
  std::uint64_t ideal_units = 0;  ///< what the same bytes need at least
};
/// All lines recorded since the last call, most units first, and forgets them.
std::vector<TrafficLine> take_traffic_lines();

}  // namespace avid::kernels::simulator
