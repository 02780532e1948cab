// kernels/sim/tensor_copy.cpp -- see tensor_copy.h
#include "kernels/sim/tensor_copy.h"

#include <algorithm>
#include <cstring>

#include "kernels/sim/engine.h"
#include "kernels/sim/global_races.h"
#include "kernels/sim/report.h"

#if AVID_SIM_ASAN
extern "C" void __asan_loadN(void*, std::size_t);
#endif

namespace avid::kernels::simulator {
namespace {

/// The part of a tile's row that lies in the matrix: where it begins in the row and in memory, and its bytes.
struct Inside {
  std::uint32_t at = 0, bytes = 0;
  const std::byte* from = nullptr;
};

Inside inside(const MatrixTiles& m, std::int64_t column, std::int64_t row) {
  if (row < 0 || row >= static_cast<std::int64_t>(m.rows)) return {};
  const std::int64_t first = std::max<std::int64_t>(0, -column);
  const std::int64_t end =
      std::min(static_cast<std::int64_t>(m.tile_columns), static_cast<std::int64_t>(m.columns) - column);
  if (first >= end) return {};
  const auto* from =
      static_cast<const std::byte*>(m.data) + row * static_cast<std::int64_t>(m.row_bytes) + 2 * (column + first);
  return {static_cast<std::uint32_t>(2 * first), static_cast<std::uint32_t>(2 * (end - first)), from};
}

}  // namespace

void TensorCopies::begin(
    std::uint32_t to, const MatrixTiles& map, std::int64_t column, std::int64_t row, std::uint32_t barrier, Site site) {
  Engine& e = engine();
  Thread& thread = e.current();
  require_arch(90, "copy_tile", site);
  try {
    check_matrix_tiles("copy_tile", "tensor map", map);
  } catch (const GpuError& error) {
    fail(ErrorKind::bad_operand, error.what(), site);
  }
  const auto bytes = static_cast<std::uint32_t>(map.tile_bytes());
  void* dst = e.shared.at(to);
  if (!e.shared.contains(dst) || !e.shared.contains(e.shared.at(to + bytes - 1)))
    fail(ErrorKind::misaligned, "copy_tile: the destination is not shared memory", site);
  // The pattern of a swizzle follows the bits of the address: a tile begins where a pattern does.
  const std::uint32_t align = std::max<std::uint32_t>(128, map.swizzle_bytes > 16 ? 8 * map.swizzle_bytes : 128);
  if (to % align != 0)
    fail(
        ErrorKind::misaligned,
        "copy_tile: destination not aligned to " + std::to_string(align) + " bytes, " + e.shared.describe(dst), site);
  e.barriers.claim_bytes(barrier, bytes, site);
  int writer = e.warpgroups.writer_without_proxy_fence(to, bytes);
  if (writer < 0 && have_race_hooks() && options().detect_races)
    writer = e.races.writer_without_proxy_fence(dst, bytes);
  if (writer >= 0)
    fail(
        ErrorKind::proxy_fence,
        "copy_tile overwrites " + e.shared.describe(dst) + ", written by thread " + std::to_string(writer) +
            " without a fence_proxy_async of that thread behind it",
        site);

  std::vector<TrafficRecorder::Run> runs;
  for (std::uint64_t r = 0; r < map.tile_rows; ++r) {
    const Inside part = inside(map, column, row + static_cast<std::int64_t>(r));
    if (part.bytes == 0) continue;
    if (e.shared.contains(part.from)) fail(ErrorKind::misaligned, "copy_tile: the matrix is shared memory", site);
#if AVID_SIM_ASAN
    __asan_loadN(const_cast<std::byte*>(part.from), part.bytes);  // a fault is reported at the issue
#endif
    if (e.launch().number != 0)
      global_access(reinterpret_cast<std::uintptr_t>(part.from), part.bytes, Access::read, place_of(site));
    if (e.traffic.recording()) runs.push_back({reinterpret_cast<std::uintptr_t>(part.from), part.bytes});
  }
  if (e.traffic.recording()) e.traffic.tensor_copy(runs, bytes, place_of(site));

  e.races.begin_tensor_copy(dst, bytes, thread, site, e.barriers.number_of(barrier));
  std::memset(dst, 0xff, bytes);
#if AVID_SIM_ASAN
  __asan_poison_memory_region(dst, bytes);
#endif
  const Copy copy{to, bytes, map, column, row, barrier, site};
  const bool at_once = e.choose(2) == 1;
  if (at_once) return arrive(copy);
  under_way_.push_back(copy);
}

bool TensorCopies::let_one_arrive() {
  if (under_way_.empty()) return false;
  const auto next = under_way_.begin() + engine().choose(static_cast<unsigned>(under_way_.size()));
  const Copy copy = *next;
  under_way_.erase(next);
  arrive(copy);
  return true;
}

void TensorCopies::arrive(const Copy& copy) {
  Engine& e = engine();
  char* dst = e.shared.at(copy.to);
#if AVID_SIM_ASAN
  __asan_unpoison_memory_region(dst, copy.bytes);
#endif
  std::memset(dst, 0, copy.bytes);
  const auto row_bytes = static_cast<std::uint32_t>(2 * copy.map.tile_columns);
  const auto swizzled_bits = static_cast<std::uint32_t>(copy.map.swizzle_bytes - 16);
  for (std::uint32_t r = 0; r < copy.map.tile_rows; ++r) {
    const Inside part = inside(copy.map, copy.column, copy.row + r);
    for (std::uint32_t done = 0; done < part.bytes;) {  // by chunks of 16 bytes, which a swizzle exchanges
      const std::uint32_t at = copy.to + r * row_bytes + part.at + done;
      const std::uint32_t now = std::min(16 - at % 16, part.bytes - done);
      std::memcpy(e.shared.at(at ^ ((at >> 3) & swizzled_bits)), part.from + done, now);
      done += now;
    }
  }
  e.races.end_tensor_copy(dst, copy.bytes);
  e.barriers.bytes_arrived(copy.barrier, copy.bytes);
}

std::string TensorCopies::unfinished() const {
  if (under_way_.empty()) return {};
  return "a tensor copy that nobody waited for, begun at " + text_of(under_way_[0].site) + ", to " +
         engine().shared.describe(engine().shared.at(under_way_[0].to));
}

// ---- called by the device language ----

void copy_tile(std::uint32_t to, const MatrixTiles& map, int column, int row, std::uint32_t barrier, Site site) {
  engine().tensor_copies.begin(to, map, column, row, barrier, site);
}

}  // namespace avid::kernels::simulator
