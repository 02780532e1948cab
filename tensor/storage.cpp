// tensor/storage.cpp -- the caching host pool
//
// Size classes: powers of two split in eight, so at most 12.5 % of a block is unused. Small blocks (below one
// page) use the same lists; they are cheap either way. Under AddressSanitizer nothing is cached: a use after
// free must stay visible.
#include "tensor/storage.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/device/cuda_errors.h"
#include "kernels/device/graph_memory.h"
#include "kernels/op_timer.h"
#include "tensor/error.h"
#include "tensor/memory_watch.h"
#include "tensor/ops/on_device.h"

#if defined(__SANITIZE_ADDRESS__)
#define AVID_POOL_CACHES 0
#else
#define AVID_POOL_CACHES 1
#endif

namespace avid {
namespace {

std::size_t size_class(std::size_t num_bytes) {
  constexpr std::size_t kSmallest = 64;
  if (num_bytes <= kSmallest) return kSmallest;
  const std::size_t step = std::max<std::size_t>(kSmallest, std::bit_floor(num_bytes) / 8);
  return (num_bytes + step - 1) / step * step;
}

struct HostPool {
  std::mutex mutex;
  std::unordered_map<std::size_t, std::vector<std::byte*>> free_blocks;
  PoolStats stats;

  std::byte* take(std::size_t block_bytes, std::size_t asked_bytes) {
    {
      const std::lock_guard lock(mutex);
      auto found = free_blocks.find(block_bytes);
      stats.in_use_bytes += block_bytes;
      stats.peak_in_use_bytes = std::max(stats.peak_in_use_bytes, stats.in_use_bytes);
      if (found != free_blocks.end() && !found->second.empty()) {
        std::byte* block = found->second.back();
        found->second.pop_back();
        stats.cached_bytes -= block_bytes;
        return block;
      }
    }
    void* block = std::aligned_alloc(64, block_bytes);
    if (block == nullptr) {  // the cache may hold what is missing
      trim();
      block = std::aligned_alloc(64, block_bytes);
    }
    if (block == nullptr) {
      const std::lock_guard lock(mutex);
      stats.in_use_bytes -= block_bytes;
      fail<OutOfMemoryError>(
          "host memory: could not get {:.1f} MiB more, {:.1f} MiB are in use | use a smaller batch or model, or more "
          "accumulation",
          static_cast<double>(asked_bytes) / 1048576.0, static_cast<double>(stats.in_use_bytes) / 1048576.0);
    }
    return static_cast<std::byte*>(block);
  }

  void give_back(std::byte* block, std::size_t block_bytes) {
    const std::lock_guard lock(mutex);
    stats.in_use_bytes -= block_bytes;
#if AVID_POOL_CACHES
    free_blocks[block_bytes].push_back(block);
    stats.cached_bytes += block_bytes;
#else
    std::free(block);
#endif
  }

  void trim() {
    const std::lock_guard lock(mutex);
    for (auto& [bytes, blocks] : free_blocks)
      for (std::byte* block : blocks) std::free(block);
    free_blocks.clear();
    stats.cached_bytes = 0;
  }
};

// Never destroyed: tensors in static objects may outlive any order we could choose.
HostPool& host_pool() {
  static auto* pool = new HostPool;
  return *pool;
}

double mib(std::size_t bytes) { return static_cast<double>(bytes) / 1048576.0; }

/// What a GPU backend has handed out; its runtime keeps the pool itself.
struct DeviceLedger {
  struct Block {
    std::size_t bytes;
    const char* op;  // the op that asked for it, null outside of ops
  };
  PoolStats stats;
  std::unordered_map<const std::byte*, Block> blocks;
  MemoryWatch* watch = nullptr;

  /// "conv3d 812.0 MiB, weights and batches 96.5 MiB": the ops whose outputs are the most.
  std::string largest_holders() const {
    constexpr std::size_t kShown = 4;
    std::map<std::string, std::size_t> by_op;
    for (const auto& [address, block] : blocks)
      by_op[block.op != nullptr ? block.op : "weights and batches"] += block.bytes;
    std::vector<std::pair<std::size_t, std::string>> sorted;
    for (const auto& [op, bytes] : by_op) sorted.emplace_back(bytes, op);
    std::sort(sorted.rbegin(), sorted.rend());
    std::string text;
    for (std::size_t i = 0; i < std::min(kShown, sorted.size()); ++i)
      text += fmt::format("{}{} {:.1f} MiB", i == 0 ? "" : ", ", sorted[i].second, mib(sorted[i].first));
    return text;
  }
};

/// Recorded work keeps its memory whether or not a tensor lies there (tensor/device_graph.h).
std::size_t with_graphs(const PoolStats& stats) { return stats.in_use_bytes + kernels::GraphMemory::idle_bytes(); }

std::mutex ledgers_mutex;

DeviceLedger& ledger_of(Device device) {
  static auto* ledgers = new std::map<std::pair<DeviceKind, int>, DeviceLedger>;  // never destroyed, like the pool
  return (*ledgers)[{device.kind, device.index}];
}

/// What others leave of the device's memory, as its runtime says; for a message, so that a failure to ask says nothing.
std::string left_on(Device device, std::size_t ours) {
  try {
    return on_device(device, "storage", [&]<class Backend>(const kernels::Stream&) {
      const kernels::DeviceMemory memory = kernels::device_memory<Backend>(device.index);
      return kernels::memory_left(memory.total, memory.free, ours);
    });
  } catch (const std::exception&) {
    return "";
  }
}

std::byte* take_from_device(std::size_t block_bytes, Device device) {
  std::byte* block = nullptr;
  try {
    on_device(device, "storage", [&]<class Backend>(const kernels::Stream& stream) {
      block = static_cast<std::byte*>(kernels::device_allocate<Backend>(stream, block_bytes));
    });
  } catch (const kernels::GpuError& error) {  // no such device, or it is broken
    fail<DeviceError>("storage: {}", error.what());
  }
  const char* op = kernels::current_op();
  const std::lock_guard lock(ledgers_mutex);
  DeviceLedger& ledger = ledger_of(device);
  if (block == nullptr)
    fail<OutOfMemoryError>(
        "{}: {}: could not get {:.1f} MiB more, {:.1f} MiB are in use ({}){} | use a smaller batch or model, or more "
        "accumulation",
        device.to_string(), op != nullptr ? op : "storage", mib(block_bytes), mib(ledger.stats.in_use_bytes),
        ledger.largest_holders(), left_on(device, with_graphs(ledger.stats)));
  ledger.blocks[block] = {block_bytes, op};
  if (ledger.watch != nullptr) ledger.watch->taken(block, block_bytes);
  ledger.stats.in_use_bytes += block_bytes;
  ledger.stats.peak_in_use_bytes = std::max(ledger.stats.peak_in_use_bytes, with_graphs(ledger.stats));
  return block;
}

void give_back_to_device(std::byte* block, std::size_t block_bytes, Device device) {
  {
    const std::lock_guard lock(ledgers_mutex);
    DeviceLedger& ledger = ledger_of(device);
    ledger.blocks.erase(block);
    if (ledger.watch != nullptr) ledger.watch->given_back(block);
    ledger.stats.in_use_bytes -= block_bytes;
  }
  try {
    on_device(device, "storage", [&]<class Backend>(const kernels::Stream& stream) {
      kernels::device_free<Backend>(stream, block, block_bytes);
    });
  } catch (const std::exception&) {  // called by a destructor: a broken device reports itself with the next call
  }
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(std::size_t num_bytes, Device device) {
  std::shared_ptr<Storage> storage(new Storage);
  const std::size_t block_bytes = size_class(num_bytes);
  storage->data_ = device.is_gpu() ? take_from_device(block_bytes, device) : host_pool().take(block_bytes, num_bytes);
  storage->block_bytes_ = block_bytes;
  storage->num_bytes_ = num_bytes;
  storage->device_ = device;
  return storage;
}

std::shared_ptr<Storage> Storage::borrow(const void* data, std::size_t num_bytes, std::shared_ptr<const void> owner) {
  std::shared_ptr<Storage> storage(new Storage);
  storage->data_ = static_cast<std::byte*>(const_cast<void*>(data));  // Tensor::mutable access refuses read_only()
  storage->num_bytes_ = num_bytes;
  storage->owner_ = std::move(owner);
  return storage;
}

Storage::~Storage() {
  if (block_bytes_ == 0) return;
  if (device_.is_gpu())
    give_back_to_device(data_, block_bytes_, device_);
  else
    host_pool().give_back(data_, block_bytes_);
}

PoolStats host_pool_stats() {
  const std::lock_guard lock(host_pool().mutex);
  return host_pool().stats;
}

void reset_host_pool_peak() {
  const std::lock_guard lock(host_pool().mutex);
  host_pool().stats.peak_in_use_bytes = host_pool().stats.in_use_bytes;
}

PoolStats device_pool_stats(Device device) {
  const std::lock_guard lock(ledgers_mutex);
  PoolStats stats = ledger_of(device).stats;
  stats.in_use_bytes = with_graphs(stats);
  return stats;
}

void reset_device_pool_peak(Device device) {
  const std::lock_guard lock(ledgers_mutex);
  PoolStats& stats = ledger_of(device).stats;
  stats.peak_in_use_bytes = with_graphs(stats);
}

void trim_host_pool() { host_pool().trim(); }

MemoryWatch::MemoryWatch(Device device) : device_(device) {
  const std::lock_guard lock(ledgers_mutex);
  ledger_of(device).watch = this;
}

MemoryWatch::~MemoryWatch() {
  const std::lock_guard lock(ledgers_mutex);
  MemoryWatch*& watch = ledger_of(device_).watch;
  if (watch == this) watch = nullptr;
}

void MemoryWatch::taken(const void* block, std::size_t bytes) {
  if (ended_) return;
  in_use_[block] = uses_.size();
  uses_.push_back({.bytes = bytes, .from = clock_++, .until = -1});
}

void MemoryWatch::given_back(const void* block) {
  const auto found = in_use_.find(block);
  if (found == in_use_.end()) return;
  uses_[found->second].until = ended_ ? std::numeric_limits<std::int64_t>::max() : clock_++;
  in_use_.erase(found);
}

std::vector<kernels::MemoryUse> MemoryWatch::uses() const {
  std::vector<kernels::MemoryUse> list;
  for (const kernels::MemoryUse& use : uses_)
    if (use.until >= 0) list.push_back(use);
  return list;
}

}  // namespace avid
