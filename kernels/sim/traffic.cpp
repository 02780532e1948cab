// kernels/sim/traffic.cpp -- see traffic.h
#include "kernels/sim/traffic.h"

#include <algorithm>
#include <bit>
#include <mutex>
#include <set>

#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {
namespace {

constexpr std::uintptr_t kShared = std::uintptr_t{1} << 62;

std::mutex totals_mutex;
std::map<std::pair<const void*, std::uintptr_t>, TrafficLine> totals;

/// 32-byte sectors that one request touches.
template <class Request>
std::uint64_t sectors(const Request& r) {
  std::set<std::uintptr_t> touched;
  for (int i = 0; i < 32; ++i)
    if ((r.lanes >> i & 1u) != 0)
      for (std::uintptr_t s = r.address[i] / 32; s <= (r.address[i] + r.bytes - 1) / 32; ++s) touched.insert(s);
  return touched.size();
}

/// Passes through the banks: 8- and 16-byte accesses go by halves and quarters of the warp; in each part a bank
/// serves one 4-byte word per pass, to any number of lanes.
template <class Request>
std::uint64_t passes(const Request& r, std::uint64_t* ideal) {
  const int parts = r.bytes <= 4 ? 1 : static_cast<int>(r.bytes / 4), lanes = 32 / parts;
  std::uint64_t total = 0;
  for (int part = 0; part < parts; ++part) {
    std::array<std::set<std::uintptr_t>, 32> words;
    for (int i = part * lanes; i < (part + 1) * lanes; ++i)
      if ((r.lanes >> i & 1u) != 0)
        for (unsigned w = 0; w < std::max(1u, r.bytes / 4); ++w)
          words[(r.address[i] / 4 + w) % 32].insert(r.address[i] / 4 + w);
    std::size_t most = 0;
    for (const auto& bank : words) most = std::max(most, bank.size());
    total += most;
    *ideal += most > 0;
  }
  return total;
}

}  // namespace

void TrafficRecorder::begin_block(std::uint32_t num_threads) {
  times_.assign(num_threads, {});
  requests_.clear();
  recording_ = true;
}

void TrafficRecorder::access(
    std::uintptr_t address, unsigned bytes, bool write, bool shared, const Thread& thread, std::uintptr_t place) {
  // A copy reads global and writes shared memory at one place.
  if (shared) place |= kShared;
  const std::uint32_t time = times_[thread.number][place]++;
  Request& r = requests_[{place, thread.warp(), time}];
  r.lanes |= 1u << thread.lane();
  r.bytes = bytes;
  r.write = write;
  r.shared = shared;
  r.address[thread.lane()] = address;
}

void TrafficRecorder::end_block() {
  recording_ = false;
  const void* kernel = engine().launch().kernel;
  const std::lock_guard lock(totals_mutex);
  for (const auto& [place, request] : requests_) {
    const std::uintptr_t pc = std::get<0>(place);
    TrafficLine& line = totals[{kernel, pc}];
    line.shared = request.shared;
    line.write = request.write;
    line.bytes = request.bytes;
    ++line.requests;
    if (request.shared) {
      line.units += passes(request, &line.ideal_units);
    } else {
      line.units += sectors(request);
      line.ideal_units += (static_cast<std::uint64_t>(std::popcount(request.lanes)) * request.bytes + 31) / 32;
    }
  }
  requests_.clear();
}

std::vector<TrafficLine> take_traffic_lines() {
  const std::lock_guard lock(totals_mutex);
  std::vector<TrafficLine> lines;
  for (auto& [key, line] : totals) {
    line.kernel = function_name(key.first);
    line.line = source_line(key.second & ~kShared);
    lines.push_back(line);
  }
  totals.clear();
  std::stable_sort(
      lines.begin(), lines.end(), [](const TrafficLine& a, const TrafficLine& b) { return a.units > b.units; });
  return lines;
}

}  // namespace avid::kernels::simulator
