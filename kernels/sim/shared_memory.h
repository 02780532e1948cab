// kernels/sim/shared_memory.h -- the shared memory of the block that an OS thread runs
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

/// Arrays in one arena, each between two redzones and filled with NaN bits when it first appears. Under
/// AddressSanitizer the redzones are poisoned; otherwise they hold a pattern that is checked when the block ends.
class SharedMemory {
 public:
  /// Room for what a GPU has, and for the redzones.
  static constexpr std::size_t kArenaBytes = std::size_t{512} << 10;
  /// A block's shared memory on the simulated device.
  static std::size_t limit_bytes() { return (options().arch >= 90 ? 227 : 163) * std::size_t{1024}; }

  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// Forgets all arrays; the next block was launched with `dynamic_bytes`.
  void begin_block(std::size_t dynamic_bytes);
  /// Empty, or what was overrun (never under AddressSanitizer, which reports at once).
  std::string check_redzones() const;

  void* static_array(const SharedKey& key, std::size_t bytes, std::size_t align);
  void* take(std::size_t bytes, std::size_t align, const char* name, std::size_t* cursor, std::size_t* used);

  bool contains(const void* p) const { return offset(p) < kArenaBytes; }
  std::size_t offset(const void* p) const {
    return reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(arena_);
  }
  char* at(std::size_t offset) const { return arena_ + offset; }
  /// Of the arrays that are not from the launch's dynamic part.
  std::size_t static_bytes() const { return static_bytes_; }
  /// "shared 'tile' byte 12 of 256", or "global memory".
  std::string describe(const void* p) const;

 private:
  struct Array {
    const SharedKey* key;  ///< null for arrays of a SharedArena
    char* data;
    std::size_t bytes;
    const char* name;
  };
  char* allocate(std::size_t bytes, std::size_t align, const char* name);

  char* arena_;
  std::size_t top_ = 0;  ///< end of the last array
  std::size_t static_bytes_ = 0, dynamic_bytes_ = 0;
  std::vector<Array> arrays_;
  std::vector<Array> taken_;  ///< of the arena, in order
};

}  // namespace avid::kernels::simulator
