// kernels/sim/race_detector.h -- who touched which byte of shared memory, and was there a barrier between
//
// Only builds whose kernels are compiled with -fsanitize=thread reach this: the compiler calls a hook before every
// access (race_hooks.cpp). Each shared byte remembers its last writer and two readers. Time is counted in barriers of
// the block and, within a warp, in __syncwarp; in blocks with mbarriers, also per thread: who arrives hands on all that
// it did and knows of, who is let through receives it (vector clocks).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/sim/async_barrier.h"
#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

struct Thread;

enum class Access : std::uint8_t { read, write, atomic };

class RaceDetector {
 public:
  void begin_launch();
  void begin_block();
  /// The block's barrier opened.
  void barrier();
  /// A __syncwarp of `lanes` completed; `whole` when it was every lane alive.
  void warp_barrier(unsigned warp, std::uint32_t lanes, bool whole);

  /// An access of the thread to shared memory. Fails with race, uninitialised or cp_async.
  void access(std::uintptr_t address, unsigned bytes, Access kind, const Thread& thread, std::uintptr_t place);
  void begin_copy(const void* dst, unsigned bytes, const Thread& thread, const Site& site);
  void end_copy(const void* dst, unsigned bytes, const Thread& thread, const Site& site);
  /// A tensor copy that counts at the mbarrier of this number: its bytes are written by nobody's clock but the
  /// barrier's, so that only who waited for the phase that they complete may touch them.
  void begin_tensor_copy(
      const void* dst, unsigned bytes, const Thread& thread, const Site& site, std::uint32_t barrier);
  void end_tensor_copy(const void* dst, unsigned bytes);
  /// One of the barrier's copies arrived.
  void release_tensor_copy(std::uint32_t barrier, Clock& to);
  /// After a failure.
  void forget_pending_copies();

  /// The block has mbarriers: from now on threads have clocks.
  void use_clocks();
  /// An arrival: `to` learns what the thread did and knows. Later accesses of the thread are not part of it.
  void release(const Thread& thread, Clock& to);
  /// A wait that was let through.
  void acquire(const Thread& thread, const Clock& from);
  /// to = the later of both, per thread.
  static void join(Clock& to, const Clock& from);
  /// A thread that wrote one of these bytes and has not passed a fence_proxy_async since, or -1.
  int writer_without_proxy_fence(const void* p, unsigned bytes) const;

 private:
  struct Touch {
    std::uint32_t epoch = 0;      ///< of the block's barriers; 0: never
    std::uint32_t warp_time = 0;  ///< of its warp
    std::uint32_t place = 0;      ///< packed by pack()
    std::uint32_t time = 0;       ///< of its thread
    std::uint32_t fences = 0;     ///< fence_proxy_async of its thread before
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
  /// Touch::thread of a tensor copy: this and the number of its barrier.
  static constexpr std::uint16_t kTensorCopy = 0x8000;
  struct TensorCopyClock {
    std::uint32_t begun = 0;   ///< copies so far: their times
    std::uint32_t thread = 0;  ///< that began the last
  };
  static bool by_tensor_copy(const Touch& touch) { return (touch.thread & kTensorCopy) != 0; }
  bool has_seen(std::uint32_t thread, const Touch& past) const;
  std::string who(const Touch& touch) const;
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
  std::vector<Clock> seen_;                     ///< per thread; empty in blocks without mbarriers
  Clock now_;                                   ///< time of each thread, from 1
  std::vector<TensorCopyClock> tensor_copies_;  ///< per mbarrier; their times stand in clocks behind the threads'
  std::uint32_t epoch_ = 1, first_epoch_of_block_ = 1;
  std::uintptr_t program_ = 0;
};

/// True while a compiler hook runs: its callers cannot be unwound.
bool inside_hook();
/// True when instrumented code is linked in.
bool have_race_hooks();

}  // namespace avid::kernels::simulator
