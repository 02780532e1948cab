// kernels/sim/fiber.h -- a CUDA thread's stack and registers, and the switch from one to the next
//
// On x86-64 and AArch64 a switch is a dozen instructions (about 15 ns with the scheduler around it); elsewhere, or with
// AVID_SIM_PORTABLE_FIBERS, it is swapcontext (about 230 ns: it also saves the signal mask).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#if !defined(AVID_SIM_ASAN)
#if defined(__SANITIZE_ADDRESS__)
#define AVID_SIM_ASAN 1
#else
#define AVID_SIM_ASAN 0
#endif
#endif
#if AVID_SIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(AVID_SIM_PORTABLE_FIBERS) || !(defined(__x86_64__) || defined(__aarch64__))
#define AVID_SIM_UCONTEXT 1
#include <ucontext.h>
#else
#define AVID_SIM_UCONTEXT 0
extern "C" void avid_sim_switch(void** save_stack_pointer, void* load_stack_pointer);
#endif

namespace avid::kernels::simulator {

struct Fiber {
#if AVID_SIM_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;  ///< where the registers of a sleeping fiber lie
#endif
  char* stack = nullptr;  ///< lowest usable byte; a guard page lies below
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;      ///< AddressSanitizer's
  std::uint32_t thread = 0;        ///< the CUDA thread to begin with
  std::uint32_t colour_bytes = 0;  ///< spreads the stacks' hot ends over the cache sets
};

/// Stacks of one OS thread. A fiber belongs to the OS thread that made it.
class FiberPool {
 public:
  /// `body` is what every fiber runs; it must leave by switch_to and never return.
  explicit FiberPool(void (*body)()) : body_(body) {}
  ~FiberPool();
  FiberPool(const FiberPool&) = delete;
  FiberPool& operator=(const FiberPool&) = delete;

  /// A fiber that begins in the body at the first switch to it, or one that the body gave back while looping.
  Fiber* take() {
    if (idle_.empty()) add();
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }
  void give_back(Fiber* fiber) { idle_.push_back(fiber); }
  /// Abandons whatever the fibers were doing; none may be running.
  void reset();

  Fiber* current() const { return current_; }
  Fiber& main() { return main_; }
  /// Saves the running fiber and continues `to`.
  inline void switch_to(Fiber* to);
  /// First thing in the body.
  void entered();

 private:
  void add();
  void prepare(Fiber& fiber);

  void (*body_)();
  Fiber main_;
  Fiber* current_ = &main_;
  Fiber* previous_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
};

inline void FiberPool::switch_to(Fiber* to) {
  Fiber* from = current_;
  current_ = to;
  previous_ = from;
#if AVID_SIM_ASAN
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#if AVID_SIM_UCONTEXT
  swapcontext(&from->context, &to->context);
#else
  avid_sim_switch(&from->stack_pointer, to->stack_pointer);
#endif
#if AVID_SIM_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

}  // namespace avid::kernels::simulator
