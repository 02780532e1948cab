// tensor/storage.cpp -- the caching host pool
//
// Size classes: powers of two split in eight, so at most 12.5 % of a block is unused. Small blocks (below one
// page) use the same lists; they are cheap either way. Under AddressSanitizer nothing is cached: a use after
// free must stay visible.
#include "tensor/storage.h"

#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "tensor/error.h"
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
          "host memory: could not get {:.1f} MiB more, {:.1f} MiB are in use | use a smaller batch or model, or more accumulation",
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

// What GPU backends hold; their runtimes keep pools of their own.
std::mutex device_stats_mutex;
std::map<std::pair<DeviceKind, int>, PoolStats> device_stats;

std::byte* take_from_device(std::size_t block_bytes, Device device) {
  void* block = on_device(device, "storage", [&]<class Backend>(const kernels::Stream& stream) {
    return kernels::device_allocate<Backend>(stream, block_bytes);
  });
  const std::lock_guard lock(device_stats_mutex);
  PoolStats& stats = device_stats[{device.kind, device.index}];
  check<OutOfMemoryError>(block != nullptr,
                          "{}: could not get {:.1f} MiB more, {:.1f} MiB are in use | use a smaller batch or model, or more accumulation",
                          device.to_string(), static_cast<double>(block_bytes) / 1048576.0,
                          static_cast<double>(stats.in_use_bytes) / 1048576.0);
  stats.in_use_bytes += block_bytes;
  stats.peak_in_use_bytes = std::max(stats.peak_in_use_bytes, stats.in_use_bytes);
  return static_cast<std::byte*>(block);
}

void give_back_to_device(std::byte* block, std::size_t block_bytes, Device device) {
  on_device(device, "storage", [&]<class Backend>(const kernels::Stream& stream) {
    kernels::device_free<Backend>(stream, block, block_bytes);
  });
  const std::lock_guard lock(device_stats_mutex);
  device_stats[{device.kind, device.index}].in_use_bytes -= block_bytes;
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
  if (device_.is_gpu()) give_back_to_device(data_, block_bytes_, device_);
  else host_pool().give_back(data_, block_bytes_);
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
  const std::lock_guard lock(device_stats_mutex);
  return device_stats[{device.kind, device.index}];
}

void trim_host_pool() { host_pool().trim(); }

}  // namespace avid
