// tensor/storage.h -- reference-counted memory from a caching pool
//
// Activations of one training step have the same sizes in every step. The pool keeps freed blocks and hands
// them out again, so that steps after the first never fault in fresh pages (on a CPU that costs more than
// many of the ops that fill them).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensor/device.h"

namespace avid {

/// One block of memory, 64-byte aligned, shared by all tensors that view it. Not copyable; freed by the last user.
class Storage {
 public:
  /// `num_bytes` of uninitialised pool memory. Throws OutOfMemoryError, and DeviceError where this build or machine has
  /// no such device.
  static std::shared_ptr<Storage> allocate(std::size_t num_bytes, Device device);
  /// Memory owned by somebody else (a mapped file), kept alive by `owner`; written to never.
  static std::shared_ptr<Storage> borrow(const void* data, std::size_t num_bytes, std::shared_ptr<const void> owner);

  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  /// The first byte; a device pointer where device() is a GPU backend.
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t num_bytes() const { return num_bytes_; }
  Device device() const { return device_; }
  bool read_only() const { return owner_ != nullptr; }

  /// Number of in-place changes so far; autograd compares it with the value at the time of saving.
  std::uint64_t version() const { return version_; }
  void bump_version() { ++version_; }

 private:
  Storage() = default;
  std::byte* data_ = nullptr;
  std::size_t num_bytes_ = 0;
  std::size_t block_bytes_ = 0;  // size class in the pool; 0 when borrowed
  std::uint64_t version_ = 0;
  Device device_;
  std::shared_ptr<const void> owner_;
};

/// What the host pool holds, in bytes.
struct PoolStats {
  std::size_t in_use_bytes = 0;       ///< handed out now
  std::size_t peak_in_use_bytes = 0;  ///< largest in_use_bytes since the last reset
  std::size_t cached_bytes = 0;       ///< kept for reuse
};
PoolStats host_pool_stats();
/// The same for a GPU backend (cached_bytes is not known here: its runtime keeps the cache).
PoolStats device_pool_stats(Device device);
void reset_device_pool_peak(Device device);
/// Sets the peak to what is in use now.
void reset_host_pool_peak();
/// Gives all cached blocks back to the system.
void trim_host_pool();

}  // namespace avid
