// kernels/sim/traffic.cpp -- see traffic.h
#include "kernels/sim/traffic.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>

#include "kernels/device/sim_recorder.h"
#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {
namespace {

constexpr std::uintptr_t kShared = std::uintptr_t{1} << 62;
constexpr std::uintptr_t kSectorBytes = 32;

/// Sectors that loads of a block find again in the first level: 32 KiB, about what a resident block has there beside
/// the shared memory.
constexpr std::size_t kFirstLevelSectors = 1024, kFirstLevelWays = 8;
constexpr std::size_t kFirstLevelSets = kFirstLevelSectors / kFirstLevelWays;

std::mutex totals_mutex;
std::map<std::pair<const void*, std::uintptr_t>, TrafficLine> totals;

/// Passes through the banks: 8- and 16-byte accesses go by halves and quarters of the warp; in each part a bank
/// serves one 4-byte word per pass, to any number of lanes.
template <class Request>
std::uint64_t passes(const Request& r, std::uint64_t* ideal) {
  const int parts = r.bytes <= 4 ? 1 : static_cast<int>(r.bytes / 4), lanes = std::max(1, 32 / parts);
  const unsigned words_of_lane = std::max(1u, r.bytes / 4);
  std::uint64_t total = 0;
  for (int first = 0; first < 32; first += lanes) {
    std::array<std::array<std::uintptr_t, 32>, 32> words;  // of a bank; only the first count[bank] are set
    std::array<std::uint8_t, 32> count{};
    std::uint8_t most = 0;
    for (int i = first; i < std::min(32, first + lanes); ++i) {
      if ((r.lanes >> i & 1u) == 0) continue;
      for (unsigned w = 0; w < words_of_lane; ++w) {
        const std::uintptr_t word = r.address[static_cast<std::size_t>(i)] / 4 + w;
        auto& bank = words[word % 32];
        std::uint8_t& n = count[word % 32];
        if (n < 32 && std::find(bank.begin(), bank.begin() + n, word) == bank.begin() + n) bank[n++] = word;
        most = std::max(most, n);
      }
    }
    total += most;
    *ideal += most > 0;
  }
  return total;
}

}  // namespace

void TrafficRecorder::begin_block(std::uint32_t num_threads, BlockWork* work) {
  recording_ = true;
  work_ = work;
  num_threads_ = num_threads;
  place_numbers_.clear();
  places_.clear();
  first_level_.assign(kFirstLevelSectors, 0);
  touched_.clear();
  block_numbers_.clear();
  last_ = nullptr;
}

void TrafficRecorder::abandon_block() {
  recording_ = false;
  work_ = nullptr;
}

TrafficRecorder::Place& TrafficRecorder::place_at(std::uintptr_t place, bool shared) {
  // A copy reads global and writes shared memory at one place.
  if (shared) place |= kShared;
  const auto [found, is_new] = place_numbers_.try_emplace(place, static_cast<std::uint32_t>(places_.size()));
  if (!is_new) return places_[found->second];
  Place& added = places_.emplace_back();
  added.address = place;
  added.shared = shared;
  added.times.assign(num_threads_, 0);
  added.pending.resize((num_threads_ + 31) / 32);
  return added;
}

void TrafficRecorder::access(
    std::uintptr_t address, unsigned bytes, bool write, bool shared, const Thread& thread, std::uintptr_t place) {
  Place& at = place_at(place, shared);
  at.write = write;
  if (bytes != 0) at.bytes = bytes;
  Pending& pending = at.pending[thread.warp()];
  const std::uint32_t number = at.times[thread.number]++ - pending.number_of_first;
  if (number >= pending.requests.size()) pending.requests.resize(number + 1);
  Request& request = pending.requests[number];
  request.lanes |= 1u << thread.lane();
  if (bytes == 0) {
    request.idle |= 1u << thread.lane();
  } else {
    request.bytes = bytes;
    request.address[thread.lane()] = address;
    if (work_ != nullptr) ++work_->accesses;
  }
  // Whole requests are counted and forgotten at once; a warp that is not converged keeps its own to the end.
  while (!pending.requests.empty() && pending.requests.front().lanes == ~0u) {
    account(at, pending.requests.front());
    pending.requests.pop_front();
    ++pending.number_of_first;
  }
}

void TrafficRecorder::tensor_copy(const std::vector<Run>& runs, std::uint64_t shared_bytes, std::uintptr_t place) {
  Place& from = place_at(place, false);
  sectors_.clear();
  for (const Run& run : runs) {
    for (std::uintptr_t s = run.address / kSectorBytes; s <= (run.address + run.bytes - 1) / kSectorBytes; ++s)
      sectors_.push_back(s);
    from.ideal_units += (run.bytes + kSectorBytes - 1) / kSectorBytes;
    from.bytes = run.bytes;
  }
  std::sort(sectors_.begin(), sectors_.end());
  sectors_.erase(std::unique(sectors_.begin(), sectors_.end()), sectors_.end());
  from.units += sectors_.size();
  ++from.requests;
  if (work_ != nullptr) count_sectors(from);

  constexpr std::uint64_t kPassBytes = 128;
  const std::uint64_t passes = (shared_bytes + kPassBytes - 1) / kPassBytes;
  Place& to = place_at(place, true);
  to.write = true;
  to.bytes = kPassBytes;
  to.units += passes;
  to.ideal_units += passes;
  ++to.requests;
  if (work_ == nullptr) return;
  work_->passes += passes;
  work_->accesses += runs.size() + passes;
}

bool TrafficRecorder::first_level_has(std::uint64_t sector) {
  constexpr int kHashBits = std::bit_width(kFirstLevelSets) - 1;
  static_assert(kFirstLevelSets == std::size_t{1} << kHashBits);
  const std::size_t set = sector * 0x9e3779b97f4a7c15ull >> (64 - kHashBits);
  const auto ways = first_level_.begin() + static_cast<std::ptrdiff_t>(set * kFirstLevelWays);
  const auto found = std::find(ways, ways + kFirstLevelWays, sector + 1);
  const bool has = found != ways + kFirstLevelWays;
  // The last one used comes first, the oldest goes.
  std::rotate(ways, has ? found : ways + kFirstLevelWays - 1, (has ? found : ways + kFirstLevelWays - 1) + 1);
  *ways = sector + 1;
  return has;
}

const TrafficRecorder::Piece* TrafficRecorder::piece_at(std::uintptr_t address) {
  const auto after = touched_.upper_bound(address);
  if (after != touched_.begin() && std::prev(after)->second.holds(address)) return &std::prev(after)->second;
  const auto block = block_at(reinterpret_cast<const void*>(address));
  if (!block) return nullptr;
  Piece piece;
  piece.begin = piece.block_begin = reinterpret_cast<std::uintptr_t>(block->begin);
  piece.end = piece.begin + block->bytes;
  piece.block_number = block_numbers_.try_emplace(block->begin, block_numbers_.size()).first->second;
  if (work_->pieces != nullptr) {
    const auto next = std::upper_bound(work_->pieces->begin(), work_->pieces->end(), address);
    if (next != work_->pieces->end()) piece.end = std::min(piece.end, *next);
    if (next != work_->pieces->begin()) piece.begin = std::max(piece.begin, *std::prev(next));
  }
  piece.sectors = &work_->memory[reinterpret_cast<const std::byte*>(piece.begin)];
  piece.sectors->bytes_of_block = piece.end - piece.begin;
  piece.sectors->num_blocks = 1;
  return &(touched_[piece.begin] = piece);
}

void TrafficRecorder::count_sectors(const Place& place) {
  const bool copy = (place.address & kPlaceIsSite) != 0;  // cp.async of 16 bytes passes the first level by
  for (const std::uintptr_t sector : sectors_) {
    const std::uintptr_t address = sector * kSectorBytes;
    if (last_ == nullptr || !last_->holds(address)) last_ = piece_at(address);
    if (last_ == nullptr) continue;  // a table of the compiler's: constant memory
    // A sector's name says which block it lies in and where, not its address: what the first level holds is then the
    // same wherever the system put the blocks.
    const std::uint64_t name = last_->block_number << 44 | (address - last_->block_begin) / kSectorBytes;
    if (!place.write && !copy && first_level_has(name)) continue;
    ++(place.write ? last_->sectors->written : last_->sectors->read);
  }
  if (!place.write) ++(copy ? work_->copies : work_->loads);
}

void TrafficRecorder::account(Place& place, const Request& request) {
  if (place.shared) {
    std::uint64_t ideal = 0;
    const std::uint64_t n = passes(request, &ideal);
    place.units += n;
    place.ideal_units += ideal;
    if (work_ != nullptr) work_->passes += n;
  } else {
    const std::uint32_t lanes = request.lanes & ~request.idle;
    if (lanes == 0) return;
    sectors_.clear();
    for (std::uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
      const std::uintptr_t address = request.address[static_cast<std::size_t>(std::countr_zero(rest))];
      for (std::uintptr_t s = address / kSectorBytes; s <= (address + request.bytes - 1) / kSectorBytes; ++s)
        if (sectors_.empty() || sectors_.back() != s) sectors_.push_back(s);
    }
    if (!std::is_sorted(sectors_.begin(), sectors_.end())) std::sort(sectors_.begin(), sectors_.end());
    sectors_.erase(std::unique(sectors_.begin(), sectors_.end()), sectors_.end());
    place.units += sectors_.size();
    place.ideal_units += (static_cast<std::uint64_t>(std::popcount(lanes)) * request.bytes + 31) / 32;
    if (work_ != nullptr) count_sectors(place);
  }
  ++place.requests;
}

void TrafficRecorder::end_block() {
  for (Place& place : places_)
    for (Pending& pending : place.pending)
      for (const Request& request : pending.requests)
        if (request.lanes != 0) account(place, request);
  recording_ = false;
  if (std::exchange(work_, nullptr) != nullptr) return;
  const void* kernel = engine().launch().kernel;
  const std::lock_guard lock(totals_mutex);
  for (const Place& place : places_) {
    if (place.requests == 0) continue;
    TrafficLine& line = totals[{kernel, place.address}];
    line.shared = place.shared;
    line.write = place.write;
    line.bytes = place.bytes;
    line.requests += place.requests;
    line.units += place.units;
    line.ideal_units += place.ideal_units;
  }
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
