// kernels/sim/shared_memory.cpp -- arrays, redzones, poison
#include "kernels/sim/shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "kernels/sim/engine.h"

namespace avid::kernels::simulator {
namespace {

constexpr std::size_t kRedzoneBytes = 128;
constexpr int kPoison = 0xff;  // NaN in every float format, -1 as an integer
// What a redzone holds, in each two bytes: also NaN in every float format, so that reads of it show, but not kPoison,
// so that writes of poison do.
constexpr unsigned char kPattern[2] = {0xfb, 0xff};

[[maybe_unused]] void fill_redzone(char* begin, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i)
    begin[i] = static_cast<char>(kPattern[reinterpret_cast<std::uintptr_t>(begin + i) & 1u]);
}
[[maybe_unused]] bool damaged(const char* byte) {
  return static_cast<unsigned char>(*byte) != kPattern[reinterpret_cast<std::uintptr_t>(byte) & 1u];
}

}  // namespace

SharedMemory::SharedMemory() {
  void* block = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  arena_ = static_cast<char*>(block);
}

SharedMemory::~SharedMemory() {
#if AVID_SIM_ASAN
  __asan_unpoison_memory_region(arena_, kArenaBytes);
#endif
  munmap(arena_, kArenaBytes);
}

void SharedMemory::begin_block(std::size_t dynamic_bytes) {
#if AVID_SIM_ASAN
  __asan_poison_memory_region(arena_, kArenaBytes);
#endif
  top_ = 0;
  static_bytes_ = 0;
  dynamic_bytes_ = dynamic_bytes;
  arrays_.clear();
  taken_.clear();
}

char* SharedMemory::allocate(std::size_t bytes, std::size_t align, const char* name) {
  align = std::max<std::size_t>(align, 16);
  const std::size_t begin = (top_ + kRedzoneBytes + align - 1) / align * align, end = begin + bytes;
  if (end + kRedzoneBytes > kArenaBytes)
    fail(ErrorKind::shared_size, std::string("shared memory exhausted at '") + name + "'", Site{});
#if AVID_SIM_ASAN
  __asan_unpoison_memory_region(arena_ + begin, bytes);
#else
  fill_redzone(arena_ + top_, begin - top_);
  fill_redzone(arena_ + end, kRedzoneBytes);
#endif
  std::memset(arena_ + begin, kPoison, bytes);
  top_ = end;
  return arena_ + begin;
}

void* SharedMemory::static_array(const SharedKey& key, std::size_t bytes, std::size_t align) {
  for (const Array& array : arrays_)
    if (array.key == &key) return array.data;
  static_bytes_ += bytes;
  if (static_bytes_ + dynamic_bytes_ > limit_bytes())
    fail(
        ErrorKind::shared_size,
        std::string("static array '") + key.name + "' brings shared memory to " +
            std::to_string(static_bytes_ + dynamic_bytes_) + " bytes; the device has " + std::to_string(limit_bytes()),
        Site{});
  arrays_.push_back({&key, allocate(bytes, align, key.name), bytes, key.name});
  return arrays_.back().data;
}

void* SharedMemory::take(
    std::size_t bytes, std::size_t align, const char* name, std::size_t* cursor, std::size_t* used) {
  *used += (bytes + 15) / 16 * 16 + align - 16;  // a GPU's arena may start at any multiple of 16
  if (*used > dynamic_bytes_)
    fail(
        ErrorKind::shared_size,
        std::string("SharedArena: '") + name + "' brings it to " + std::to_string(*used) +
            " bytes but the launch gave " + std::to_string(dynamic_bytes_),
        Site{});
  const std::size_t i = (*cursor)++;
  if (i == taken_.size()) {
    taken_.push_back({nullptr, allocate(bytes, align, name), bytes, name});
    arrays_.push_back(taken_.back());
  }
  if (taken_[i].bytes != bytes)
    fail(
        ErrorKind::shared_size,
        std::string("SharedArena: '") + name + "': threads take different sizes, " + std::to_string(taken_[i].bytes) +
            " and " + std::to_string(bytes) + " bytes",
        Site{});
  return taken_[i].data;
}

std::string SharedMemory::check_redzones() const {
#if !AVID_SIM_ASAN
  for (const Array& array : arrays_) {
    for (std::size_t i = 0; i < kRedzoneBytes; ++i)
      if (damaged(array.data + array.bytes + i)) return describe(array.data + array.bytes + i);
    for (std::size_t i = 1; i <= kRedzoneBytes; ++i)
      if (damaged(array.data - i)) return describe(array.data - i);
  }
#endif
  return {};
}

std::string SharedMemory::describe(const void* p) const {
  const auto* byte = static_cast<const char*>(p);
  // What lies behind an array's end may also lie before the next one's start; the first is the likelier story.
  for (const Array& array : arrays_)
    if (byte >= array.data && byte < array.data + array.bytes + kRedzoneBytes)
      return std::string("shared '") + array.name + "' byte " + std::to_string(byte - array.data) + " of " +
             std::to_string(array.bytes);
  for (const Array& array : arrays_)
    if (byte >= array.data - kRedzoneBytes && byte < array.data)
      return std::string("shared '") + array.name + "' byte " + std::to_string(byte - array.data) + " of " +
             std::to_string(array.bytes);
  return contains(p) ? "shared memory outside all arrays" : "global memory";
}

// ---- called by the device language ----

void* shared_static(const SharedKey& key, std::size_t bytes, std::size_t align) {
  return engine().shared.static_array(key, bytes, align);
}

void* shared_take(std::size_t bytes, std::size_t align, const char* name, std::size_t* cursor, std::size_t* used) {
  return engine().shared.take(bytes, align, name, cursor, used);
}

std::uint32_t shared_offset(const void* p, Site site) {
  const SharedMemory& shared = engine().shared;
  if (!shared.contains(p)) fail(ErrorKind::misaligned, "shared_address: not an address in shared memory", site);
  return static_cast<std::uint32_t>(shared.offset(p));
}

void* shared_pointer(std::uint32_t offset) { return engine().shared.at(offset); }

}  // namespace avid::kernels::simulator
