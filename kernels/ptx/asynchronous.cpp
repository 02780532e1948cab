// kernels/ptx/asynchronous.cpp -- copies behind the math: cp.async, mbarriers, tensor copies; and fences
//
// Copies of a thread (cp.async) land as late as they may: when the wait that covers them runs, or when the thread ends.
// Tensor copies land at once. Destinations hold NaNs in between.
#include <cstring>

#include "kernels/ptx/opcode.h"
#include "kernels/ptx/tensor_map_encoding.h"
#include "kernels/ptx/warp.h"

namespace avid::kernels::ptx {
namespace {

// ---- cp.async ----

void land(Warp& warp, const PendingCopy& copy) {
  unsigned char* to = warp.block().shared.data() + copy.to;
  std::memset(to, 0, copy.bytes);
  std::memcpy(to, copy.from, copy.read_bytes);
}

constexpr std::uint32_t kPastL1 = 1;  // .cg, which is for 16 bytes alone

/// cp.async [to], [from], bytes, read_bytes: the rest are zeros.
void copy_begin(Warp& warp, const Instruction& i) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((warp.mask() >> lane & 1) == 0) continue;
    PendingCopy copy;
    copy.bytes = warp.value<std::uint32_t>(i.from[2], lane);
    copy.read_bytes = i.num_from > 3 ? warp.value<std::uint32_t>(i.from[3], lane) : copy.bytes;
    copy.to = static_cast<std::uint32_t>(warp.address(i, lane));
    if (copy.bytes != 16 && ((i.flags & kPastL1) != 0 || (copy.bytes != 4 && copy.bytes != 8)))
      warp.fail("a copy of " + std::to_string(copy.bytes) + " bytes, which the instruction does not have", lane);
    if (copy.read_bytes > copy.bytes) warp.fail("a copy that reads more bytes than it writes", lane);
    std::memset(warp.memory('s', copy.to, copy.bytes, lane, true), 0xff, copy.bytes);
    const std::uint64_t from = warp.value<std::uint64_t>(i.from[1], lane) + static_cast<std::uint64_t>(i.second_number);
    if (from % copy.bytes != 0) warp.fail("a copy from a misaligned address", lane);
    if (copy.read_bytes > 0) copy.from = warp.memory('g', from, copy.read_bytes, lane, false);
    ThreadCopies& copies = warp.copies(lane);
    copy.group = copies.open_group;
    copies.pending.push_back(copy);
  }
}

void copy_commit(Warp& warp, const Instruction&) {
  for (int lane = 0; lane < kLanes; ++lane)
    if (warp.mask() >> lane & 1) ++warp.copies(lane).open_group;
}

/// cp.async.wait_group n: at most the n youngest groups are still under way.
void copy_wait(Warp& warp, const Instruction& i) {
  const auto still = warp.uniform<std::uint32_t>(i.from[0]);
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((warp.mask() >> lane & 1) == 0) continue;
    ThreadCopies& copies = warp.copies(lane);
    while (!copies.pending.empty() && copies.pending.front().group + still < copies.open_group) {
      land(warp, copies.pending.front());
      copies.pending.pop_front();
    }
  }
}

// ---- mbarriers ----

/// What lies in the eight bytes of shared memory; a GPU has its own layout.
struct Barrier {
  std::uint16_t expected, pending;  // arrivals of a phase; those that have not come
  std::int32_t bytes;               // announced and not there, shifted by one; the low bit is the phase
  bool phase() const { return (bytes & 1) != 0; }
  void settle() {
    if (pending != 0 || bytes >> 1 != 0) return;
    pending = expected;
    bytes ^= 1;
  }
};
static_assert(sizeof(Barrier) == 8);

template <class F>
void change_barrier(Warp& warp, std::uint64_t address, int lane, F&& f) {
  unsigned char* at = warp.memory('s', address, sizeof(Barrier), lane, true);
  Barrier barrier;
  std::memcpy(&barrier, at, sizeof barrier);
  f(barrier);
  std::memcpy(at, &barrier, sizeof barrier);
}

void barrier_init(Warp& warp, const Instruction& i) {
  for (int lane = 0; lane < kLanes; ++lane)
    if (warp.mask() >> lane & 1)
      change_barrier(warp, warp.address(i, lane), lane, [&](Barrier& barrier) {
        barrier.expected = barrier.pending = static_cast<std::uint16_t>(warp.value<std::uint32_t>(i.from[1], lane));
        barrier.bytes = 0;
      });
}

/// mbarrier.arrive _, [at] and mbarrier.arrive.expect_tx _, [at], bytes
void barrier_arrive(Warp& warp, const Instruction& i) {
  for (int lane = 0; lane < kLanes; ++lane)
    if (warp.mask() >> lane & 1)
      change_barrier(warp, warp.address(i, lane), lane, [&](Barrier& barrier) {
        if (barrier.pending == 0) warp.fail("more arrivals at an mbarrier than its phase expects", lane);
        if (i.num_from > 1) barrier.bytes += 2 * static_cast<std::int32_t>(warp.value<std::uint32_t>(i.from[1], lane));
        --barrier.pending;
        barrier.settle();
      });
}

/// mbarrier.try_wait.parity p, [at], parity: whether the phase of this parity is complete.
void barrier_look(Warp& warp, const Instruction& i) {
  std::uint32_t complete = 0;
  for (int lane = 0; lane < kLanes; ++lane)
    if (warp.mask() >> lane & 1)
      change_barrier(warp, warp.address(i, lane), lane, [&](Barrier& barrier) {
        const bool wanted = (warp.value<std::uint32_t>(i.from[1], lane) & 1) != 0;
        complete |= static_cast<std::uint32_t>(barrier.phase() != wanted) << lane;
      });
  warp.set_predicate(i.to[0], complete);
  if (complete != warp.mask()) warp.look_failed();
}

// ---- tensor copies ----

/// cp.async.bulk.tensor.2d [to], [map, {column, row}], [barrier]: a tile, zeros where it lies outside of the matrix.
void copy_tile(Warp& warp, const Instruction& i) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((warp.mask() >> lane & 1) == 0) continue;
    unsigned char bytes_of_map[128];
    EncodedTensorMap map;
    const auto map_address = warp.value<std::uint64_t>(i.from[1], lane);
    if (map_address % 64 != 0) warp.fail("a tensor map that does not lie at a multiple of 64 bytes", lane);
    if (const std::uint64_t window = map_address & kWindowMask; window == kLocalWindow || window == kSharedWindow)
      warp.fail(
          "a tensor map in local or shared memory: it is an argument, or lies in constant or device memory", lane);
    for (std::size_t half = 0; half < 128; half += 64)
      std::memcpy(bytes_of_map + half, warp.memory(' ', map_address + half, 64, lane, false), 64);
    std::memcpy(&map, bytes_of_map, sizeof map);
    if (map.magic != EncodedTensorMap::kMagic || map.element_bytes != 2)
      warp.fail("not a tensor map of 16-bit elements", lane);
    const auto column = warp.value<std::int32_t>(i.from[2], lane), row = warp.value<std::int32_t>(i.from[3], lane);
    const auto to = warp.value<std::uint32_t>(i.from[0], lane);
    const std::uint32_t row_bytes = map.tile_columns * 2, bytes = row_bytes * map.tile_rows;
    if (to % 128 != 0) warp.fail("a tensor copy to an address that is no multiple of 128", lane);
    for (std::uint32_t at = 0; at < bytes; at += 16) warp.memory('s', to + at, 16, lane, true);
    unsigned char* shared = warp.block().shared.data();
    // Chunks of 16 bytes change places within the pattern of the swizzle, which goes by the address.
    const std::uint32_t swap = map.swizzle_bytes == 128  ? 7
                               : map.swizzle_bytes == 64 ? 3
                               : map.swizzle_bytes == 32 ? 1
                                                         : 0;
    for (std::uint32_t r = 0; r < map.tile_rows; ++r)
      for (std::uint32_t c = 0; c < map.tile_columns; ++c) {
        const std::int64_t y = std::int64_t{row} + r, x = std::int64_t{column} + c;
        std::uint16_t element = 0;
        if (y >= 0 && x >= 0 && y < static_cast<std::int64_t>(map.rows) && x < static_cast<std::int64_t>(map.columns)) {
          const std::uint64_t from =
              map.address + static_cast<std::uint64_t>(y) * map.row_bytes + 2 * static_cast<std::uint64_t>(x);
          std::memcpy(&element, warp.memory('g', from, 2, lane, false), 2);
        }
        std::uint32_t at = to + r * row_bytes + 2 * c;
        at ^= (at >> 7 & swap) << 4;
        std::memcpy(shared + at, &element, 2);
      }
    change_barrier(warp, warp.value<std::uint32_t>(i.from[4], lane), lane, [&](Barrier& barrier) {
      barrier.bytes -= 2 * static_cast<std::int32_t>(bytes);
      barrier.settle();
    });
  }
}

}  // namespace

void finish_copies(Warp& warp, std::uint32_t lanes) {
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    for (const PendingCopy& copy : warp.copies(lane).pending) land(warp, copy);
    warp.copies(lane) = {};
  }
}

Known known_asynchronous(const Opcode& op) {
  using Kind = Instruction::Kind;
  if (op.name == "cp" && op.has("async")) {
    if (op.has("commit_group")) return {.action = &copy_commit};
    if (op.has("wait_group")) return {.action = &copy_wait};
    if (op.has("bulk")) {
      const bool known = op.has("tensor") && op.has("2d") && op.has("tile") && op.has("shared::cluster") &&
                         op.has("mbarrier::complete_tx::bytes") && op.has("global");
      return {.action = known ? &copy_tile : nullptr};
    }
    if ((op.has("ca") || op.has("cg")) && op.has("shared") && op.has("global"))
      return {.action = &copy_begin, .flags = op.has("cg") ? kPastL1 : 0};
    return {};
  }
  if (op.name == "mbarrier" && op.has("shared::cta") && op.has("b64")) {
    if (op.has("init")) return {.action = &barrier_init};
    if (op.has("arrive")) return {.action = &barrier_arrive};
    if (op.has("try_wait") && op.has("parity")) return {.action = &barrier_look, .kind = Kind::look};
    return {};
  }
  if (op.name == "fence" || op.name == "membar" || op.name == "setmaxnreg") return {.action = &nothing};
  return {};
}

}  // namespace avid::kernels::ptx
