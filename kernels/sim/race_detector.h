// kernels/sim/race_detector.h -- who touched which byte of shared memory, and was there a barrier between
//
// Only builds whose kernels are compiled with -fsanitize=thread reach this: the compiler calls a hook before every
// access (race_hooks.cpp). Each shared byte remembers its last writer and two readers. Time is counted in barriers of
// the block and, within a warp, in __syncwarp.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

struct Thread;

enum class Access : std::uint8_t { read, write, atomic };

class RaceDetector {
 public:
  void begin_launch();
  void begin_block();
  /// The block's barrier opened.
  void barrier() { ++epoch_; }
  /// A __syncwarp of `lanes` completed; `whole` when it was every lane alive.
  void warp_barrier(unsigned warp, std::uint32_t lanes, bool whole);

  /// An access of the thread to shared memory. Fails with race, uninitialised or cp_async.
  void access(std::uintptr_t address, unsigned bytes, Access kind, const Thread& thread, std::uintptr_t place);
  void begin_copy(const void* dst, unsigned bytes, const Thread& thread, const Site& site);
  void end_copy(const void* dst, unsigned bytes, const Thread& thread, const Site& site);
  /// After a failure.
  void forget_pending_copies();

 private:
  struct Touch {
    std::uint32_t epoch = 0;      ///< of the block's barriers; 0: never
    std::uint32_t warp_time = 0;  ///< of its warp
    std::uint32_t place = 0;      ///< packed by pack()
    std::uint16_t thread = 0;
    bool atomic = false;
  };
  struct Byte {
    Touch write, read[2];
    bool copy_pending = false;
  };
  struct WarpClock {
    std::uint32_t now = 1;
    std::uint32_t all = 0;  ///< every lane saw what happened before this time
    std::uint32_t pair[32][32] = {};
  };
  bool conflicts(const Touch& past, const Thread& thread, bool atomic) const;
  Touch touch(const Thread& thread, std::uintptr_t place, bool atomic) const;
  /// Places are addresses in the program or numbers of Sites: 31 bits and one that tells.
  std::uint32_t pack(std::uintptr_t place) const;
  std::uintptr_t unpack(std::uint32_t place) const;

  struct Free {
    void operator()(Byte* p) const { std::free(p); }
  };
  std::unique_ptr<Byte[], Free> bytes_;  // zero pages until touched
  std::vector<WarpClock> clocks_;
  std::uint32_t epoch_ = 1, first_epoch_of_block_ = 1;
  std::uintptr_t program_ = 0;
};

/// True while a compiler hook runs: its callers cannot be unwound.
bool inside_hook();
/// True when instrumented code is linked in.
bool have_race_hooks();

}  // namespace avid::kernels::simulator
