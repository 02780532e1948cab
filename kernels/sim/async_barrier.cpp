// kernels/sim/async_barrier.cpp -- see async_barrier.h
#include "kernels/sim/async_barrier.h"

#include <string>
#include <utility>

#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {
namespace {

constexpr unsigned kBytes = 8;
constexpr std::uint32_t kMostArrivals = (1u << 20) - 1;

/// An mbarrier is an object that many use at once; only its initialisation must come before, with a barrier between.
void touch(std::uint32_t address, Access kind, Site site) {
  Engine& e = engine();
  if (have_race_hooks() && options().detect_races)
    e.races.access(reinterpret_cast<std::uintptr_t>(e.shared.at(address)), kBytes, kind, e.current(), place_of(site));
}

}  // namespace

void AsyncBarriers::init(std::uint32_t address, std::uint32_t arrivals, Site site) {
  Engine& e = engine();
  require_arch(90, "mbarrier_init", site);
  if (address % kBytes != 0)
    fail(ErrorKind::misaligned, "mbarrier: not aligned to 8 bytes, " + e.shared.describe(e.shared.at(address)), site);
  if (arrivals == 0 || arrivals > kMostArrivals)
    fail(ErrorKind::mbarrier, "mbarrier_init: expected 1 to 2^20 - 1 arrivals, got " + std::to_string(arrivals), site);
  touch(address, Access::write, site);
  e.races.use_clocks();
  for (Barrier& barrier : barriers_) {
    if (barrier.address != address) continue;
    if (!barrier.waiting.empty()) fail(ErrorKind::mbarrier, "mbarrier_init: threads wait at this barrier", site);
    barrier = {address, arrivals, arrivals, 0, {}, {}, {}};
    return;
  }
  barriers_.push_back({address, arrivals, arrivals, 0, {}, {}, {}});
}

AsyncBarriers::Barrier& AsyncBarriers::at(std::uint32_t address, const char* what, Site site) {
  for (Barrier& barrier : barriers_)
    if (barrier.address == address) {
      touch(address, Access::read, site);
      return barrier;
    }
  Engine& e = engine();
  fail(
      ErrorKind::mbarrier, std::string(what) + ": nobody initialised " + e.shared.describe(e.shared.at(address)), site);
}

void AsyncBarriers::arrive(std::uint32_t address, Site site) {
  Engine& e = engine();
  Barrier& barrier = at(address, "mbarrier_arrive", site);
  e.races.release(e.current(), barrier.arriving);
  if (--barrier.pending > 0) return;
  barrier.pending = barrier.arrivals;
  ++barrier.phase;
  RaceDetector::join(barrier.completed, barrier.arriving);
  barrier.arriving.clear();
  for (const std::uint32_t number : std::exchange(barrier.waiting, {})) e.make_ready(number / 32, 1u << (number & 31u));
}

void AsyncBarriers::wait(std::uint32_t address, std::uint32_t parity, Site site) {
  Engine& e = engine();
  if (parity > 1)
    fail(ErrorKind::mbarrier, "mbarrier_wait: expected a parity of 0 or 1, got " + std::to_string(parity), site);
  // Each time the barrier is looked up again: others may have initialised more of them meanwhile.
  while ((at(address, "mbarrier_wait", site).phase & 1u) == parity) {
    at(address, "mbarrier_wait", site).waiting.push_back(e.current().number);
    e.suspend(Status::at_mbarrier, site);
  }
  e.races.acquire(e.current(), at(address, "mbarrier_wait", site).completed);
}

// ---- called by the device language ----

void mbarrier_init(std::uint32_t address, std::uint32_t arrivals, Site site) {
  engine().barriers.init(address, arrivals, site);
}
void mbarrier_arrive(std::uint32_t address, Site site) { engine().barriers.arrive(address, site); }
void mbarrier_wait(std::uint32_t address, std::uint32_t parity, Site site) {
  engine().barriers.wait(address, parity, site);
}

void require_arch(int arch, const char* what, Site site) {
  if (options().arch >= arch) return;
  fail(
      ErrorKind::bad_launch,
      std::string(what) + " needs sm_" + std::to_string(arch) + ", the simulated device is sm_" +
          std::to_string(options().arch),
      site);
}

}  // namespace avid::kernels::simulator
