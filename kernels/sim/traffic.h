// kernels/sim/traffic.h -- memory traffic: sectors of global memory, passes through shared banks
//
// Only in builds with race hooks. One block is recorded: the accesses that the lanes of a warp make at one place, the
// n-th time each comes there, count as one request, as they do on a GPU whose warp is converged. Totals are kept per
// source line (bench kernels --sim), or per block of device memory (launch_counter.h).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/sim/block_work.h"
#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

struct Thread;

class TrafficRecorder {
 public:
  bool recording() const { return recording_; }
  /// What the running block is counted into; null while it is not, or while lines are recorded.
  BlockWork* work() { return work_; }

  /// Counts into `work`; null: records lines, for take_traffic_lines().
  void begin_block(std::uint32_t num_threads, BlockWork* work);
  void end_block();
  /// Forgets the block, which failed.
  void abandon_block();
  /// What a tensor copy reads of a row.
  struct Run {
    std::uintptr_t address;
    unsigned bytes;
  };
  /// A request of its own: these runs of global memory, and `shared_bytes` into shared memory, without bank conflicts.
  void tensor_copy(const std::vector<Run>& runs, std::uint64_t shared_bytes, std::uintptr_t place);
  /// `place` is a return address of a hook, or place_of() for what the compiler does not see: copies, ldmatrix. Of no
  /// bytes: a lane that keeps its turn and touches nothing.
  void access(
      std::uintptr_t address, unsigned bytes, bool write, bool shared, const Thread& thread, std::uintptr_t place);

 private:
  struct Request {
    std::uint32_t lanes = 0;  ///< that have made it
    std::uint32_t idle = 0;   ///< of them those that touch nothing
    unsigned bytes = 0;
    std::array<std::uintptr_t, 32> address{};
  };
  /// Requests that some lanes of a warp have made; the first is the number_of_first-th at its place.
  struct Pending {
    std::uint32_t number_of_first = 0;
    std::deque<Request> requests;
  };
  struct Place {
    std::uintptr_t address = 0;
    bool write = false, shared = false;
    unsigned bytes = 0;
    std::vector<std::uint32_t> times;  ///< per thread
    std::vector<Pending> pending;      ///< per warp
    std::uint64_t requests = 0, units = 0, ideal_units = 0;
  };

  Place& place_at(std::uintptr_t place, bool shared);
  void account(Place& place, const Request& request);
  void count_sectors(const Place& place);
  bool first_level_has(std::uintptr_t sector);

  bool recording_ = false;
  BlockWork* work_ = nullptr;
  std::uint32_t num_threads_ = 0;
  std::unordered_map<std::uintptr_t, std::uint32_t> place_numbers_;
  std::vector<Place> places_;
  std::vector<std::uintptr_t> sectors_;      ///< of a request
  std::vector<std::uintptr_t> first_level_;  ///< sector + 1, in sets by a hash of its number
  BlockWork::Sectors* last_ = nullptr;       ///< the memory that was touched last
  std::uintptr_t last_begin_ = 0, last_end_ = 0;
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
