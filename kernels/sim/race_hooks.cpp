// kernels/sim/race_hooks.cpp -- the functions that code compiled with -fsanitize=thread calls; libtsan is not linked
//
// The compiler inserts a call before every access to memory. Ours look at shared memory (races, uninitialised reads),
// at global memory (races between blocks) and, when profiling, count both (coalescing, bank conflicts). std functions
// that instrumented and plain files share may be linked in their instrumented form: a guard keeps the simulator's own
// accesses out.
#include <cstdint>

#include "kernels/device/gpu_sim.h"
#include "kernels/sim/engine.h"
#include "kernels/sim/global_races.h"

namespace avid::kernels::simulator {
namespace {

constinit bool instrumented = false;
constinit thread_local bool in_hook = false;

/// threadIdx and the like are registers on a GPU.
bool is_index(const volatile void* p) {
  return p == &sim::threadIdx.x || p == &sim::threadIdx.y || p == &sim::threadIdx.z || p == &sim::blockIdx.x ||
         p == &sim::blockIdx.y || p == &sim::blockIdx.z || p == &sim::blockDim.x || p == &sim::blockDim.y ||
         p == &sim::blockDim.z || p == &sim::gridDim.x || p == &sim::gridDim.y || p == &sim::gridDim.z;
}

inline __attribute__((always_inline)) void on_access(
    const volatile void* p, unsigned bytes, Access kind, std::uintptr_t pc) {
  Engine* e = engine_of_this_thread;
  if (e == nullptr || !e->in_kernel() || in_hook) return;
  const bool shared = e->shared.contains(const_cast<const void*>(p));
  if (!shared && (e->is_private(p) || is_index(p))) return;
  in_hook = true;
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  if (e->traffic.recording()) e->traffic.access(address, bytes, kind != Access::read, shared, e->current(), pc);
  if (options().detect_races) {
    if (shared) {
      e->races.access(address, bytes, kind, e->current(), pc);
    } else {
      global_access(address, bytes, kind, pc);
    }
  }
  in_hook = false;
}

}  // namespace

bool inside_hook() {
  // Asked by fail(), which never returns to the hook: the guard is lifted for what runs next.
  const bool was = in_hook;
  in_hook = false;
  return was;
}
bool have_race_hooks() { return instrumented; }

}  // namespace avid::kernels::simulator

using namespace avid::kernels::simulator;

#define AVID_CALLER reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))
#define AVID_HOOK(name, bytes, kind) \
  void __tsan_##name(void* p) { on_access(p, bytes, Access::kind, AVID_CALLER); }

extern "C" {
void __tsan_init() { instrumented = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
AVID_HOOK(read1, 1, read)
AVID_HOOK(read2, 2, read)
AVID_HOOK(read4, 4, read)
AVID_HOOK(read8, 8, read)
AVID_HOOK(read16, 16, read)
AVID_HOOK(write1, 1, write)
AVID_HOOK(write2, 2, write)
AVID_HOOK(write4, 4, write)
AVID_HOOK(write8, 8, write)
AVID_HOOK(write16, 16, write)
AVID_HOOK(unaligned_read2, 2, read)
AVID_HOOK(unaligned_read4, 4, read)
AVID_HOOK(unaligned_read8, 8, read)
AVID_HOOK(unaligned_read16, 16, read)
AVID_HOOK(unaligned_write2, 2, write)
AVID_HOOK(unaligned_write4, 4, write)
AVID_HOOK(unaligned_write8, 8, write)
AVID_HOOK(unaligned_write16, 16, write)
AVID_HOOK(volatile_read1, 1, read)
AVID_HOOK(volatile_read2, 2, read)
AVID_HOOK(volatile_read4, 4, read)
AVID_HOOK(volatile_read8, 8, read)
AVID_HOOK(volatile_write1, 1, write)
AVID_HOOK(volatile_write2, 2, write)
AVID_HOOK(volatile_write4, 4, write)
AVID_HOOK(volatile_write8, 8, write)
void __tsan_read_range(void* p, unsigned long n) { on_access(p, static_cast<unsigned>(n), Access::read, AVID_CALLER); }
void __tsan_write_range(void* p, unsigned long n) {
  on_access(p, static_cast<unsigned>(n), Access::write, AVID_CALLER);
}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}

// Atomics are replaced by calls, which have to do the work.
#define AVID_ATOMICS(bits, T)                                                                             \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                                             \
    on_access(p, sizeof(T), Access::atomic, AVID_CALLER);                                                 \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                             \
  }                                                                                                       \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                                             \
    on_access(p, sizeof(T), Access::atomic, AVID_CALLER);                                                 \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                                            \
    on_access(p, sizeof(T), Access::atomic, AVID_CALLER);                                                 \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                                            \
    on_access(p, sizeof(T), Access::atomic, AVID_CALLER);                                                 \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                       \
  T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) {                                             \
    on_access(p, sizeof(T), Access::atomic, AVID_CALLER);                                                 \
    return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);                                                     \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) {          \
    on_access(p, sizeof(T), Access::atomic, AVID_CALLER);                                                 \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {            \
    on_access(p, sizeof(T), Access::atomic, AVID_CALLER);                                                 \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }
AVID_ATOMICS(8, unsigned char)
AVID_ATOMICS(16, unsigned short)
AVID_ATOMICS(32, unsigned)
AVID_ATOMICS(64, unsigned long)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}
}
