// kernels/sim/traffic.h -- memory traffic: sectors of global memory, passes through shared banks
//
// Only in builds with race hooks. One block is recorded: the accesses that the lanes of a warp make at one place, the
// n-th time each comes there, count as one request, as they do on a GPU whose warp is converged. Totals are kept per
// source line (bench kernels --sim), or per block of device memory (launch_counter.h).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
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

  /// Device memory that counts into one entry of BlockWork::memory.
  struct Piece {
    std::uintptr_t begin = 0, end = 0;
    std::uintptr_t block_begin = 0;
    std::uint64_t block_number = 0;  ///< of the blocks of device memory, in the order in which they were touched
    BlockWork::Sectors* sectors = nullptr;
    bool holds(std::uintptr_t address) const { return address >= begin && address < end; }
  };

  Place& place_at(std::uintptr_t place, bool shared);
  void account(Place& place, const Request& request);
  void count_sectors(const Place& place);
  /// The piece that holds the address; null where no device memory is.
  const Piece* piece_at(std::uintptr_t address);
  bool first_level_has(std::uint64_t sector);

  bool recording_ = false;
  BlockWork* work_ = nullptr;
  std::uint32_t num_threads_ = 0;
  std::unordered_map<std::uintptr_t, std::uint32_t> place_numbers_;
  std::vector<Place> places_;
  std::vector<std::uintptr_t> sectors_;      ///< of a request
  std::vector<std::uint64_t> first_level_;   ///< what names a sector, plus 1; in sets by its hash
  std::map<std::uintptr_t, Piece> touched_;  ///< by where they begin
  std::map<const std::byte*, std::uint64_t> block_numbers_;
  const Piece* last_ = nullptr;  ///< the piece that was touched last
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
