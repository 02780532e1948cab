// kernels/sim/global_races.cpp -- see global_races.h
#include "kernels/sim/global_races.h"

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "kernels/sim/engine.h"
#include "kernels/sim/report.h"

namespace avid::kernels::simulator {
namespace {

constexpr std::uint32_t kSeveral = ~0u;

/// Two bytes of memory: no two blocks share them where elements have one byte, unless rows of odd length meet there.
struct Cell {
  std::uint32_t launch = 0;              ///< that the others are of
  std::uint32_t writer = 0, reader = 0;  ///< blocks, from 1
  bool atomic = false;                   ///< the last write
  std::uintptr_t writer_place = 0, reader_place = 0;
};
constexpr std::uintptr_t kPageBytes = 4096, kCellBytes = 2;
using Page = std::array<Cell, kPageBytes / kCellBytes>;

/// Pages by number, in parts with a lock each.
struct Shard {
  std::mutex mutex;
  std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages;
};
std::array<Shard, 64> shards;
std::mutex launches_mutex;
int num_launches = 0;
std::uint32_t last_launch = 0;
std::atomic<std::size_t> num_pages{0};
constexpr std::size_t kMostPages = 4096;  // kept between launches: 16 MiB of memory looked at, 300 MiB of notes

struct Conflict {
  const char *now, *before;
  std::uint32_t block;
  std::uintptr_t place;
};

/// What stands against the access; notes it otherwise.
bool note(Cell& cell, std::uint32_t launch, std::uint32_t block, Access kind, std::uintptr_t place, Conflict& found) {
  if (cell.launch != launch) cell = Cell{.launch = launch};
  const bool write = kind != Access::read, atomic = kind == Access::atomic;
  if (cell.writer != 0 && cell.writer != block && !(atomic && cell.atomic)) {
    found = {write ? "write" : "read", "write", cell.writer, cell.writer_place};
    return false;
  }
  if (write && cell.reader != 0 && cell.reader != block) {
    found = {"write", "read", cell.reader, cell.reader_place};
    return false;
  }
  if (write) {
    cell.writer = block, cell.atomic = atomic, cell.writer_place = place;
  } else if (cell.reader != block) {
    cell.reader = cell.reader == 0 ? block : kSeveral;
    cell.reader_place = place;
  }
  return true;
}

}  // namespace

GlobalLaunch::GlobalLaunch() {
  const std::lock_guard lock(launches_mutex);
  if (num_launches++ == 0 && num_pages > kMostPages) {
    for (Shard& shard : shards) shard.pages.clear();
    num_pages = 0;
  }
  number_ = ++last_launch;
}

GlobalLaunch::~GlobalLaunch() {
  const std::lock_guard lock(launches_mutex);
  --num_launches;
}

void global_access(std::uintptr_t address, unsigned bytes, Access kind, std::uintptr_t place) {
  const Engine& e = engine();
  const std::uint32_t launch = e.launch().number, block = e.block() + 1;
  Conflict found{};
  for (std::uintptr_t at = address & ~(kCellBytes - 1); at < address + bytes && found.now == nullptr;) {
    const std::uintptr_t number = at / kPageBytes;
    Shard& shard = shards[number % shards.size()];
    const std::lock_guard lock(shard.mutex);
    std::unique_ptr<Page>& page = shard.pages[number];
    if (page == nullptr) {
      page = std::make_unique<Page>();
      ++num_pages;
    }
    for (; at < address + bytes && at / kPageBytes == number; at += kCellBytes)
      if (!note((*page)[at % kPageBytes / kCellBytes], launch, block, kind, place, found)) break;
  }
  if (found.now == nullptr) return;
  const std::string before = found.block == kSeveral ? "several blocks" : "block " + std::to_string(found.block - 1);
  fail(
      ErrorKind::race,
      std::string("race in global memory, blocks have no order: ") + found.now + " of " + std::to_string(bytes) +
          " bytes by block " + std::to_string(block - 1) + " at " + source_line(place) + " and " + found.before +
          " by " + before + " at " + source_line(found.place),
      Site{});
}

}  // namespace avid::kernels::simulator
