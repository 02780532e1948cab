// kernels/sim/async_copy.cpp -- cp.async, as early and as late as the hardware may be
//
// A copy may land at once: the destination is filled with NaN at the issue, so that data still needed there is lost.
// It may land as late as the wait allows: only there are the bytes delivered (and the source read).
#include <cstring>

#include "kernels/sim/engine.h"
#include "kernels/sim/global_races.h"
#include "kernels/sim/report.h"

#if AVID_SIM_ASAN
extern "C" void __asan_loadN(void*, std::size_t);
#endif

namespace avid::kernels::simulator {

void cp_async(void* dst, const void* src, unsigned bytes, bool valid, Site site) {
  Engine& e = engine();
  Thread& thread = e.current();
  if (reinterpret_cast<std::uintptr_t>(dst) % bytes != 0)
    fail(
        ErrorKind::misaligned,
        "cp_async: destination not aligned to " + std::to_string(bytes) + " bytes, " + e.shared.describe(dst), site);
  if (reinterpret_cast<std::uintptr_t>(src) % bytes != 0)  // an address must be one, also where nothing is read
    fail(ErrorKind::misaligned, "cp_async: source not aligned to " + std::to_string(bytes) + " bytes", site);
  if (!e.shared.contains(dst)) fail(ErrorKind::misaligned, "cp_async: destination is not shared memory", site);
  if (valid && e.shared.contains(src)) fail(ErrorKind::misaligned, "cp_async: source is shared memory", site);
#if AVID_SIM_ASAN
  if (valid) __asan_loadN(const_cast<void*>(src), bytes);  // a fault is reported at the issue
#endif
  e.races.begin_copy(dst, bytes, thread, site);
  if (valid && e.launch().number != 0)
    global_access(reinterpret_cast<std::uintptr_t>(src), bytes, Access::read, place_of(site));
  if (e.traffic.recording()) {
    e.traffic.access(reinterpret_cast<std::uintptr_t>(src), valid ? bytes : 0, false, false, thread, place_of(site));
    e.traffic.access(reinterpret_cast<std::uintptr_t>(dst), bytes, true, true, thread, place_of(site));
  }
  std::memset(dst, 0xff, bytes);
#if AVID_SIM_ASAN
  __asan_poison_memory_region(dst, bytes);
#endif
  thread.copies.push_back({dst, src, bytes, valid, site});
}

void cp_async_commit() {
  Thread& thread = engine().current();
  thread.groups.push_back(static_cast<std::uint32_t>(thread.copies.size()));
}

void cp_async_wait(int keep, Site site) {
  Engine& e = engine();
  Thread& thread = e.current();
  if (static_cast<int>(thread.groups.size()) <= keep) return;
  const std::size_t num_done = thread.groups.size() - static_cast<std::size_t>(keep);
  const std::uint32_t num_copies = thread.groups[num_done - 1];
  for (std::uint32_t i = 0; i < num_copies; ++i) {
    const AsyncCopy& copy = thread.copies[i];
#if AVID_SIM_ASAN
    __asan_unpoison_memory_region(copy.dst, copy.bytes);
#endif
    if (copy.valid) {
      std::memcpy(copy.dst, copy.src, copy.bytes);
    } else {
      std::memset(copy.dst, 0, copy.bytes);
    }
    e.races.end_copy(copy.dst, copy.bytes, thread, site);
    if (options().arch >= 90) e.warpgroups.note_generic_write(e.shared.offset(copy.dst), copy.bytes, thread);
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + num_copies);
  thread.groups.erase(thread.groups.begin(), thread.groups.begin() + static_cast<std::ptrdiff_t>(num_done));
  for (std::uint32_t& count : thread.groups) count -= num_copies;
}

}  // namespace avid::kernels::simulator
