// kernels/sim/engine.h -- one block at a time on one OS thread: threads, warps, and who runs next
#pragma once

#include <bit>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "kernels/sim/async_barrier.h"
#include "kernels/sim/fiber.h"
#include "kernels/sim/race_detector.h"
#include "kernels/sim/shared_memory.h"
#include "kernels/sim/simulator.h"
#include "kernels/sim/tensor_copy.h"
#include "kernels/sim/traffic.h"
#include "kernels/sim/warpgroup.h"

namespace avid::kernels::simulator {

enum class Status : std::uint8_t { not_started, running, at_barrier, in_collective, at_mbarrier, finished };

/// cp.async on its way.
struct AsyncCopy {
  void* dst;
  const void* src;
  unsigned bytes;
  bool valid;
  Site site;
};

/// A CUDA thread.
struct Thread {
  sim::uint3 index{};
  std::uint32_t number = 0;  ///< in its block, x fastest
  Status status = Status::not_started;
  Fiber* fiber = nullptr;             ///< null until it starts
  Site site;                          ///< where it waits
  std::vector<AsyncCopy> copies;      ///< issued and not waited for, oldest first
  std::vector<std::uint32_t> groups;  ///< copies.size() at each commit
  std::uint32_t proxy_fences = 0;     ///< fence_proxy_async so far

  unsigned lane() const { return number & 31u; }
  unsigned warp() const { return number / 32; }
};

/// A collective that some lanes of its mask have reached.
struct PendingCollective {
  const Collective* what;
  std::uint32_t mask, arrived;
  Site site;
  void* argument[32];
};

struct Warp {
  std::uint32_t alive = 0;  ///< lanes that exist and have not finished
  std::uint32_t num_pending = 0;
  PendingCollective pending[32];  ///< their masks are disjoint
};

struct Launch {
  const void* kernel = nullptr;
  void (*call)(void*) = nullptr;
  void* context = nullptr;
  std::size_t context_bytes = 0;
  sim::dim3 grid, block;
  std::size_t shared_bytes = 0;
  std::uint32_t number = 0;  ///< in builds with race hooks (global_races.h)
};

/// Runs blocks. Scheduling is warp-greedy: one warp runs until all its lanes wait, because that is what brings out
/// missing barriers; in which order is Options::order.
class Engine {
 public:
  Engine();
  void begin_launch(const Launch& launch);
  /// Throws what a thread threw; the engine can be used again. With `work`: also counts what the block does, and does
  /// not compute what tensor cores would (accumulators stay as they are).
  void run_block(std::uint64_t block, BlockWork* work = nullptr);

  const Launch& launch() const { return launch_; }
  /// The running block's place in the grid, x fastest.
  std::uint32_t block() const { return block_; }
  Thread& current() { return *current_; }
  Thread* current_or_null() { return in_kernel_ ? current_ : nullptr; }
  Thread& thread(std::uint32_t number) { return threads_[number]; }
  Warp& warp(std::uint32_t w) { return warps_[w]; }
  bool in_kernel() const { return in_kernel_; }
  /// The running thread's stack, or the kernel's arguments: registers, local and constant memory on a GPU.
  bool is_private(const volatile void* p) {
    const auto offset = [p](const void* base) {
      return reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(base);
    };
    const Fiber& fiber = *fibers_.current();
    return offset(fiber.stack) < fiber.stack_bytes || offset(launch_.context) < launch_.context_bytes;
  }
  /// Makes reports name another lane than the one that happens to run.
  void blame(Thread& thread) { current_ = &thread; }

  /// The running thread waits; returns when it was made ready and chosen.
  void suspend(Status status, const Site& site);
  void make_ready(std::uint32_t warp, std::uint32_t lanes) {
    ready_[warp] |= lanes;
    ready_warps_ |= 1u << warp;
  }
  int barrier(Reduce op, bool predicate, const Site& site);
  /// Leaves the block at once with `error`; for callers that the compiler believes cannot throw.
  [[noreturn]] void abandon_block(std::exception_ptr error);
  /// Of n things that may happen next: the first in forward order, the last in reverse, any in a random one.
  unsigned choose(unsigned n);
  /// A table of who waits where.
  std::string describe_threads() const;

  SharedMemory shared;
  AsyncBarriers barriers;
  TensorCopies tensor_copies;
  Warpgroups warpgroups;
  RaceDetector races;
  TrafficRecorder traffic;

 private:
  static void fiber_body();
  void run_threads();
  Thread* next();
  Fiber* next_fiber();
  void finish(Thread& thread);
  void release_barrier();
  std::uint32_t random();

  Launch launch_;
  std::uint32_t block_ = 0;
  FiberPool fibers_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  Thread* current_ = nullptr;
  bool in_kernel_ = false;
  std::exception_ptr error_;

  // Ready lanes per warp, and the warps that have some.
  std::uint32_t ready_[32] = {}, ready_warps_ = 0;
  std::uint32_t priority_[32] = {}, num_warps_ = 0;  // warps in the order that a random run prefers
  std::uint64_t random_state_ = 1;
  Order order_ = Order::forward;

  // The block's barrier.
  std::uint32_t num_live_ = 0, num_arrived_ = 0, num_finished_ = 0;
  std::uint32_t at_barrier_[32] = {};
  Site barrier_site_;
  int barrier_value_ = 0, barrier_result_ = 0;
};

/// The engine of this OS thread, made by the first call and made current.
Engine& own_engine();
/// The engine of this OS thread; null before its first block.
inline constinit thread_local Engine* engine_of_this_thread __attribute__((tls_model("initial-exec"))) = nullptr;
inline Engine& engine() { return *engine_of_this_thread; }

/// The same call in the source? Templates and inlined copies have their own Site objects.
inline bool same_site(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::string_view(a.file_name()) == b.file_name());
}

}  // namespace avid::kernels::simulator
