// kernels/ptx/runtime/device_memory.cpp -- see device_memory.h
#include "kernels/ptx/runtime/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "kernels/ptx/runtime/settings.h"

namespace avid::kernels::ptx {
namespace {

constexpr std::size_t kRange = std::size_t{16} << 40, kAlignment = 256, kPage = 4096;
constexpr int kUnwritten = 0xff;

/// Without operator new.
template <class T>
struct Malloc {
  using value_type = T;
  Malloc() = default;
  template <class U>
  Malloc(const Malloc<U>&) {}
  T* allocate(std::size_t n) {
    void* memory = std::malloc(n * sizeof(T));
    if (memory == nullptr) std::abort();
    return static_cast<T*>(memory);
  }
  void deallocate(T* p, std::size_t) { std::free(p); }
  bool operator==(const Malloc&) const { return true; }
};

struct Memory {
  std::shared_mutex mutex;
  std::byte *base = nullptr, *next = nullptr;            // of the range: what was handed out lies between
  std::vector<MemoryBlock, Malloc<MemoryBlock>> blocks;  // by address
  std::size_t in_use = 0;
  bool is_open = false;
};

Memory& memory() {
  static Memory& m = *new (std::malloc(sizeof(Memory))) Memory;  // never destroyed
  return m;
}

std::size_t up(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

/// The first block that begins behind p.
auto behind(Memory& m, const void* p) {
  return std::upper_bound(m.blocks.begin(), m.blocks.end(), p, [](const void* at, const MemoryBlock& b) {
    return at < static_cast<const void*>(b.begin);
  });
}

MemoryBlock block_at_locked(Memory& m, const void* p) {
  const auto after = behind(m, p);
  if (after == m.blocks.begin()) return {};
  const MemoryBlock& block = *(after - 1);
  return static_cast<const std::byte*>(p) < block.begin + block.bytes ? block : MemoryBlock{};
}

bool reserve_range(Memory& m) {
  if (m.base != nullptr) return true;
  void* range = mmap(nullptr, kRange, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return false;
  m.base = m.next = static_cast<std::byte*>(range);
  return true;
}

std::byte* first_page(const MemoryBlock& b) {
  const auto at = reinterpret_cast<std::uintptr_t>(b.begin);
  return reinterpret_cast<std::byte*>(at / kPage * kPage);
}
std::size_t page_bytes(const MemoryBlock& b) {
  return up(static_cast<std::size_t>(b.begin + b.bytes - first_page(b)), kPage);
}

/// Everything between the first and the last block: one call is faster than one per block, and the pages between them
/// hold nothing. Pinned blocks stay open.
void set_access(Memory& m, bool open) {
  m.is_open = open;
  if (m.base == nullptr) return;
  std::byte* from = m.base;
  const int access = open ? PROT_READ | PROT_WRITE : PROT_NONE;
  for (const MemoryBlock& block : m.blocks) {
    if (block.kind != MemoryKind::pinned) continue;
    mprotect(from, static_cast<std::size_t>(first_page(block) - from), access);
    from = first_page(block) + page_bytes(block);
  }
  mprotect(from, static_cast<std::size_t>(m.next - from), access);
}

}  // namespace

thread_local FoundBlocks found_blocks;
std::atomic<std::uint64_t> memory_changes{1};

void* take_memory(MemoryKind kind, std::size_t bytes) {
  Memory& m = memory();
  const std::unique_lock lock(m.mutex);
  const bool of_device = kind != MemoryKind::pinned;
  bytes = std::max<std::size_t>(bytes, 1);
  const std::size_t most = device_bytes();
  if (bytes > most || (of_device && bytes > most - m.in_use) || !reserve_range(m)) return nullptr;
  const std::size_t pages = up(up(bytes, kAlignment), kPage);
  if (static_cast<std::size_t>(m.base + kRange - m.next) < pages + kPage) return nullptr;
  std::byte* first = m.next;
  if (mprotect(first, pages, PROT_READ | PROT_WRITE) != 0) return nullptr;
  std::byte* begin = first + pages - up(bytes, kAlignment);
  std::memset(begin, kUnwritten, bytes);
  if (of_device && !m.is_open) mprotect(first, pages, PROT_NONE);
  m.next += pages + kPage;
  m.blocks.insert(behind(m, begin), {begin, bytes, kind});
  if (of_device) m.in_use += bytes;
  memory_changes.fetch_add(1, std::memory_order_release);
  return begin;
}

bool give_memory_back(MemoryKind kind, const void* begin) {
  Memory& m = memory();
  const std::unique_lock lock(m.mutex);
  const auto after = behind(m, begin);
  if (after == m.blocks.begin()) return false;
  const MemoryBlock block = *(after - 1);
  if (block.begin != begin || block.kind != kind) return false;
  m.blocks.erase(after - 1);
  memory_changes.fetch_add(1, std::memory_order_release);
  if (kind == MemoryKind::registered) return true;
  if (block.on_device()) m.in_use -= block.bytes;
  madvise(first_page(block), page_bytes(block), MADV_DONTNEED);
  mprotect(first_page(block), page_bytes(block), PROT_NONE);
  return true;
}

bool register_memory(const void* begin, std::size_t bytes) {
  Memory& m = memory();
  const std::unique_lock lock(m.mutex);
  const auto* first = static_cast<const std::byte*>(begin);
  const auto after = behind(m, begin);
  if (after != m.blocks.end() && after->begin < first + bytes) return false;
  if (block_at_locked(m, begin).begin != nullptr) return false;
  m.blocks.insert(after, {first, bytes, MemoryKind::registered});
  memory_changes.fetch_add(1, std::memory_order_release);
  return true;
}

MemoryBlock block_at(const void* p) {
  Memory& m = memory();
  const std::shared_lock lock(m.mutex);
  return block_at_locked(m, p);
}

bool was_memory(const void* p) {
  Memory& m = memory();
  const std::shared_lock lock(m.mutex);
  return m.base != nullptr && p >= m.base && p < m.next;
}

std::size_t device_bytes_in_use() {
  Memory& m = memory();
  const std::shared_lock lock(m.mutex);
  return m.in_use;
}

std::size_t device_bytes() {
  static const std::size_t host =
      static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  return std::min(settings().memory_bytes, host);
}

void open_device_memory() {
  Memory& m = memory();
  const std::unique_lock lock(m.mutex);
  if (!m.is_open) set_access(m, true);
}
void close_device_memory() {
  Memory& m = memory();
  const std::unique_lock lock(m.mutex);
  if (m.is_open) set_access(m, false);
}

bool find_block(const void* p, std::size_t bytes) {
  Memory& m = memory();
  const std::shared_lock lock(m.mutex);
  const MemoryBlock block = block_at_locked(m, p);
  if (block.begin == nullptr) return false;
  FoundBlocks& found = found_blocks;
  const std::uint64_t changes = memory_changes.load(std::memory_order_acquire);
  if (found.changes != changes) found = FoundBlocks{.changes = changes, .ranges = {}};
  found.ranges[found.next++ % 4] = {reinterpret_cast<std::uintptr_t>(block.begin), block.bytes};
  return bytes <= static_cast<std::size_t>(block.begin + block.bytes - static_cast<const std::byte*>(p));
}

}  // namespace avid::kernels::ptx
