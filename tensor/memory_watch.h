// tensor/memory_watch.h -- what some work takes from a device's memory, and when
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "kernels/device/graph_memory.h"
#include "tensor/device.h"

namespace avid {

/// Notes what a device hands out while it lives, one at a time per device: work that is to be recorded runs under it
/// once, and then its recording needs no more memory than the work itself (tensor/device_graph.h).
class MemoryWatch {
 public:
  explicit MemoryWatch(Device device);
  ~MemoryWatch();
  MemoryWatch(const MemoryWatch&) = delete;
  MemoryWatch& operator=(const MemoryWatch&) = delete;

  /// The work is over: later blocks are not noted, only what is given back.
  void end_of_work() { ended_ = true; }
  /// Blocks in the order in which they were taken. Those that are still in use are not among them: they are no part of
  /// what is done again.
  std::vector<kernels::MemoryUse> uses() const;

  void taken(const void* block, std::size_t bytes);
  void given_back(const void* block);

 private:
  Device device_;
  bool ended_ = false;
  std::int64_t clock_ = 0;
  std::vector<kernels::MemoryUse> uses_;
  std::unordered_map<const void*, std::size_t> in_use_;  // to their places in uses_
};

}  // namespace avid
