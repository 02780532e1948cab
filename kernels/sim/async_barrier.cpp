// kernels/sim/async_barrier.cpp -- see async_barrier.h
#include "kernels/sim/async_barrier.h"

#include <string>
#include <utility>

#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {
namespace {

constexpr unsigned kBytes = 8;
constexpr std::uint32_t kMostArrivals = (1u << 20) - 1, kMostBytes = kMostArrivals;

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
  Barrier fresh{.address = address, .arrivals = arrivals, .pending = arrivals};
  fresh.owner = e.current().number, fresh.fences = e.current().proxy_fences;
  for (Barrier& barrier : barriers_) {
    if (barrier.address != address) continue;
    if (!barrier.waiting.empty()) fail(ErrorKind::mbarrier, "mbarrier_init: threads wait at this barrier", site);
    if (barrier.expected > 0) fail(ErrorKind::mbarrier, "mbarrier_init: this barrier waits for bytes", site);
    barrier = std::move(fresh);
    return;
  }
  barriers_.push_back(std::move(fresh));
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

void AsyncBarriers::arrive(std::uint32_t address, std::uint32_t bytes, Site site) {
  Engine& e = engine();
  Barrier& barrier = at(address, "mbarrier_arrive", site);
  if (barrier.pending == 0)
    fail(ErrorKind::mbarrier, "mbarrier_arrive: all arrivals of this phase came, it waits for bytes only", site);
  if (barrier.expected + bytes > kMostBytes)
    fail(
        ErrorKind::mbarrier,
        "mbarrier_arrive_and_expect: expected at most 2^20 - 1 bytes in a phase, got " +
            std::to_string(barrier.expected + bytes),
        site);
  barrier.expected += bytes;
  barrier.unclaimed += bytes;
  e.races.release(e.current(), barrier.arriving);
  --barrier.pending;
  complete(barrier);
}

void AsyncBarriers::complete(Barrier& barrier) {
  if (barrier.pending > 0 || barrier.expected > 0) return;
  Engine& e = engine();
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

void AsyncBarriers::claim_bytes(std::uint32_t address, std::uint32_t bytes, Site site) {
  Barrier& barrier = at(address, "copy_tile", site);
  if (engine().thread(barrier.owner).proxy_fences == barrier.fences)
    fail(
        ErrorKind::proxy_fence,
        "copy_tile: its mbarrier was initialised by thread " + std::to_string(barrier.owner) +
            " without a fence_proxy_async of that thread behind it",
        site);
  if (barrier.unclaimed < bytes)
    fail(
        ErrorKind::mbarrier,
        "copy_tile brings " + std::to_string(bytes) + " bytes, its mbarrier expects " +
            std::to_string(barrier.unclaimed) + " more in this phase: mbarrier_arrive_and_expect comes first",
        site);
  barrier.unclaimed -= bytes;
}

void AsyncBarriers::bytes_arrived(std::uint32_t address, std::uint32_t bytes) {
  Barrier& barrier = barriers_[number_of(address)];
  barrier.expected -= bytes;
  engine().races.release_tensor_copy(number_of(address), barrier.arriving);
  complete(barrier);
}

std::uint32_t AsyncBarriers::number_of(std::uint32_t address) const {
  std::uint32_t i = 0;
  while (barriers_[i].address != address) ++i;
  return i;
}

std::string AsyncBarriers::describe() const {
  std::string text;
  for (const Barrier& barrier : barriers_) {
    if (barrier.waiting.empty()) continue;
    text += "  mbarrier at " + engine().shared.describe(engine().shared.at(barrier.address)) + ": " +
            std::to_string(barrier.waiting.size()) + " threads wait, " + std::to_string(barrier.pending) + " of " +
            std::to_string(barrier.arrivals) + " arrivals to come";
    if (barrier.expected > 0)
      text += ", and " + std::to_string(barrier.expected) + " bytes, " + std::to_string(barrier.unclaimed) +
              " of them of copies that nobody began";
    text += "\n";
  }
  return text;
}

// ---- called by the device language ----

void mbarrier_init(std::uint32_t address, std::uint32_t arrivals, Site site) {
  engine().barriers.init(address, arrivals, site);
}
void mbarrier_arrive(std::uint32_t address, std::uint32_t bytes, Site site) {
  engine().barriers.arrive(address, bytes, site);
}
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
