// kernels/ptx/runtime/device_memory.h -- the machine's device memory, and what of the host's memory kernels may touch
//
// Plain C++. Addresses of the device are addresses of this process. Blocks are cut, one behind the other, from a range
// of addresses that was reserved for them, and an address is never handed out a second time: what was freed stays
// known as freed, however late somebody reads it.
//   - A block ends where its last page ends, up to the 256 bytes to which it is aligned; nobody gets more alignment
//     than CUDA promises. Behind it lies a page that nothing can read.
//   - It is filled with bytes 0xff, NaN in every type: what reads memory that nobody wrote, shows it.
//   - The host cannot touch device memory, as with a GPU: host code that follows a device pointer ends with a
//     segmentation fault. Work of the device opens it, and it is closed again when the host has waited for the device:
//     to close it behind every kernel took longer than the kernels.
// Pinned memory of the host is cut from the same range; the host reads and writes it at any time.
// Nothing here uses operator new: tests replace it by one that asks for pinned memory (tests/gpu/shared_memory.cpp).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace avid::kernels::ptx {

enum class MemoryKind : std::uint8_t {
  device,      ///< of the device, by cudaMalloc
  pool,        ///< of the device, by cudaMallocAsync
  pinned,      ///< of the host, by cudaMallocHost or cudaHostAlloc
  registered,  ///< of the host, by cudaHostRegister
};

/// Memory that was handed out or registered, and is not freed.
struct MemoryBlock {
  const std::byte* begin = nullptr;  ///< null: no block
  std::size_t bytes = 0;
  MemoryKind kind = MemoryKind::device;

  bool on_device() const { return kind == MemoryKind::device || kind == MemoryKind::pool; }
};

/// A block of at least one byte, 256-byte aligned; null when there is not so much left.
void* take_memory(MemoryKind kind, std::size_t bytes);
/// Whether `begin` was the begin of a block of such a kind; it is none any more.
bool give_memory_back(MemoryKind kind, const void* begin);
/// Makes the host's own memory visible to kernels. False where some of it is already.
bool register_memory(const void* begin, std::size_t bytes);

/// The block that a byte lies in.
MemoryBlock block_at(const void* p);
/// Whether the byte lies in the range from which blocks are cut: a block, or one that was freed, or between two.
bool was_memory(const void* p);

/// Memory of the device in use, and all it has, in bytes.
std::size_t device_bytes_in_use();
std::size_t device_bytes();

/// From here on this process may touch device memory, or may not.
void open_device_memory();
void close_device_memory();

// ---- for every access of a kernel ----

/// Blocks that a thread found last. `changes` tells whether they may have gone since.
struct FoundBlocks {
  struct Range {
    std::uintptr_t begin = 0;
    std::size_t bytes = 0;
  };
  std::uint64_t changes = 0;
  Range ranges[4];
  unsigned next = 0;
};
extern thread_local FoundBlocks found_blocks;
extern std::atomic<std::uint64_t> memory_changes;
bool find_block(const void* p, std::size_t bytes);

/// Whether a kernel may touch all of these bytes: they lie in one block, of whatever kind. Any thread.
inline bool in_device_memory(const void* p, std::size_t bytes) {
  const FoundBlocks& found = found_blocks;
  if (found.changes == memory_changes.load(std::memory_order_acquire)) {
    const auto at = reinterpret_cast<std::uintptr_t>(p);
    for (const FoundBlocks::Range& r : found.ranges)
      if (at - r.begin < r.bytes && bytes <= r.bytes - (at - r.begin)) return true;
  }
  return find_block(p, bytes);
}

}  // namespace avid::kernels::ptx
