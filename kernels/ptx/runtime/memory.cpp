// kernels/ptx/runtime/memory.cpp -- the CUDA runtime's memory, copies and fills, on the machine
//
// Ends of copies are looked up twice: when the copy is queued, which refuses what CUDA refuses, and when it is done,
// because memory may have been freed meanwhile, which breaks the device as it may break a GPU's.
// "Device end": device memory, or memory of the host that was pinned or registered, which a device sees too.
// "Host end": any memory of the host. What is neither pinned nor registered is copied before the call returns.
#include <cstring>

#include "kernels/ptx/runtime/device_memory.h"
#include "kernels/ptx/runtime/streams.h"

namespace avid::kernels::ptx {
namespace {

constexpr std::size_t kMostPitch = (std::size_t{1} << 31) - 1;

/// Rows of bytes, `pitch` from one to the next.
struct Area {
  const std::byte* begin;
  std::size_t pitch, width, height;
  std::size_t extent() const { return (height - 1) * pitch + width; }
};

Area area(const void* begin, std::size_t pitch, std::size_t width, std::size_t height) {
  return {static_cast<const std::byte*>(begin), pitch, width, height};
}

/// Why the device cannot reach all of the area; null when it can.
const char* device_problem(const Area& a) {
  const MemoryBlock block = block_at(a.begin);
  if (block.begin == nullptr)
    return was_memory(a.begin) ? "lies in memory that was freed, or behind a block" : "is memory of the host";
  return static_cast<std::size_t>(block.begin + block.bytes - a.begin) < a.extent() ? "is longer than its block"
                                                                                    : nullptr;
}

/// The same for the host.
const char* host_problem(const Area& a) {
  const MemoryBlock block = block_at(a.begin);
  if (block.begin == nullptr && !was_memory(a.begin)) return nullptr;
  if (block.begin != nullptr && block.on_device()) return "is memory of the device";
  return device_problem(a);
}

bool is_pageable(const Area& a) { return block_at(a.begin).begin == nullptr; }

/// Whether two areas of one pitch, or two of one row, share bytes. Of others nobody asks.
bool overlap(const Area& a, const Area& b) {
  const auto from = reinterpret_cast<std::uintptr_t>(a.begin), to = reinterpret_cast<std::uintptr_t>(b.begin);
  const std::size_t apart = from < to ? to - from : from - to;
  if (apart >= (from < to ? a : b).extent()) return false;
  if (a.height == 1 || a.pitch != b.pitch) return a.height == 1;
  return apart % a.pitch < a.width || a.pitch - apart % a.pitch < a.width;
}

void check_end(const char* end, const char* problem) {
  if (problem != nullptr) refuse(cudaErrorInvalidValue, std::string(end) + " " + problem);
}

void check_pitch(const Area& a) {
  if (a.pitch > kMostPitch) refuse(cudaErrorInvalidPitchValue, "a pitch above 2^31 - 1 bytes");
  if (a.pitch < a.width) refuse(cudaErrorInvalidPitchValue, "a pitch below the width");
}

void copy_now(const Area& to, const Area& from, bool to_device, bool from_device) {
  for (const char* problem :
       {to_device ? device_problem(to) : host_problem(to), from_device ? device_problem(from) : host_problem(from)})
    if (problem != nullptr)
      return break_device(cudaErrorIllegalAddress, std::string("a copy was queued, and then one end ") + problem);
  open_device_memory();
  for (std::size_t row = 0; row < to.height; ++row)
    std::memcpy(const_cast<std::byte*>(to.begin) + row * to.pitch, from.begin + row * from.pitch, to.width);
}

void queue_copy(const Area& to, const Area& from, cudaMemcpyKind kind, cudaStream_t stream) {
  CUstream_st& queued_on = stream_of(stream);
  if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToHost && kind != cudaMemcpyDeviceToDevice)
    refuse(cudaErrorInvalidMemcpyDirection, "only copies from or to the device, or on it, are modelled");
  if (to.width == 0 || to.height == 0) return;
  const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
  check_end("the target", to_device ? device_problem(to) : host_problem(to));
  check_end("the source", from_device ? device_problem(from) : host_problem(from));
  if (overlap(to, from)) refuse(cudaErrorInvalidValue, "the target and the source overlap");
  queue_work(stream, [=] { copy_now(to, from, to_device, from_device); });
  if (queued_on.capture == nullptr && (is_pageable(to) || is_pageable(from)))
    wait_for(*queued_on.queue, queued_on.queue->queued);
}

void queue_fill(const Area& to, int value, cudaStream_t stream) {
  stream_of(stream);
  if (to.width == 0 || to.height == 0) return;
  check_end("the target", device_problem(to));
  queue_work(stream, [=] {
    if (const char* problem = device_problem(to))
      return break_device(cudaErrorIllegalAddress, std::string("a fill was queued, and then its target ") + problem);
    open_device_memory();
    for (std::size_t row = 0; row < to.height; ++row)
      std::memset(const_cast<std::byte*>(to.begin) + row * to.pitch, value, to.width);
  });
}

void allocate(MemoryKind kind, void** place, std::size_t bytes) {
  if (place == nullptr) refuse(cudaErrorInvalidValue, "no place for the address");
  *place = nullptr;
  if (bytes == 0) return;
  *place = take_memory(kind, bytes);
  if (*place != nullptr) return;
  refuse(
      cudaErrorMemoryAllocation, std::to_string(bytes) + " B, and " +
                                     std::to_string(device_bytes() - device_bytes_in_use()) + " of " +
                                     std::to_string(device_bytes()) + " B are free");
}

bool is_device_block(const void* begin) {
  const MemoryBlock block = block_at(begin);
  return block.begin == begin && block.begin != nullptr && block.on_device();
}

bool free_device_block(const void* begin) {
  return give_memory_back(MemoryKind::device, begin) || give_memory_back(MemoryKind::pool, begin);
}

/// A test's operator new asks for pinned memory, from any thread, also while a call holds its mutex and its work
/// allocates. So these do not take that mutex, unless a capture may forbid them.
template <class F>
cudaError_t host_memory_call(const char* function, F&& body) {
  if (any_strict_capture())
    return call(function, [&] {
      check_allowed_while_capturing();
      if (const char* problem = body()) refuse(cudaErrorInvalidValue, problem);
    });
  if (const cudaError_t broken = device_error(); broken != cudaSuccess) return remember(broken);
  const char* problem = body();
  return problem == nullptr ? cudaSuccess : report(function, cudaErrorInvalidValue, problem);
}

}  // namespace
}  // namespace avid::kernels::ptx

using namespace avid::kernels::ptx;

// The device's only pool. Nothing stays in it: what is freed leaves the device.
struct CUmemPoolHandle_st {
  int device = 0;
};

extern "C" {

// ---- blocks ----

cudaError_t CUDARTAPI cudaMalloc(void** place, std::size_t bytes) {
  return call(__func__, [&] {
    check_allowed_while_capturing();
    allocate(MemoryKind::device, place, bytes);
  });
}

cudaError_t CUDARTAPI cudaFree(void* block) {
  return call(__func__, [&] {
    check_allowed_while_capturing();
    if (block != nullptr && !free_device_block(block)) refuse(cudaErrorInvalidValue, "no block of the device");
  });
}

cudaError_t CUDARTAPI cudaMallocAsync(void** place, std::size_t bytes, cudaStream_t stream) {
  return queueing_call(__func__, [&] {
    if (stream_of(stream).capture != nullptr)
      refuse(
          cudaErrorNotSupported, "the stream is being captured, and graphs with memory of their own are not modelled");
    allocate(MemoryKind::pool, place, bytes);
  });
}

cudaError_t CUDARTAPI cudaFreeAsync(void* block, cudaStream_t stream) {
  return queueing_call(__func__, [&] {
    if (stream_of(stream).capture != nullptr)
      refuse(cudaErrorInvalidValue, "the stream is being captured, and the block is none of its graph's");
    if (!is_device_block(block)) refuse(cudaErrorInvalidValue, "no block of the device");
    queue_work(stream, [=] {
      if (!free_device_block(block)) break_device(cudaErrorIllegalAddress, "a block was freed twice");
    });
  });
}

cudaError_t CUDARTAPI cudaHostAlloc(void** place, std::size_t bytes, unsigned flags) {
  return host_memory_call(__func__, [&]() -> const char* {
    if (place == nullptr || (flags & ~7u) != 0) return "no such flags, or no place for the address";
    *place = bytes == 0 ? nullptr : take_memory(MemoryKind::pinned, bytes);
    return bytes == 0 || *place != nullptr ? nullptr : "so much memory cannot be pinned";
  });
}

cudaError_t CUDARTAPI cudaMallocHost(void** place, std::size_t bytes) {
  return cudaHostAlloc(place, bytes, cudaHostAllocDefault);
}

cudaError_t CUDARTAPI cudaFreeHost(void* block) {
  return host_memory_call(__func__, [&]() -> const char* {
    return block == nullptr || give_memory_back(MemoryKind::pinned, block) ? nullptr : "no block of pinned memory";
  });
}

cudaError_t CUDARTAPI cudaHostRegister(void* begin, std::size_t bytes, unsigned flags) {
  return call(__func__, [&] {
    check_allowed_while_capturing();
    if (begin == nullptr || bytes == 0 || (flags & ~7u) != 0)
      refuse(cudaErrorInvalidValue, "no such flags, or nothing");
    if (!register_memory(begin, bytes))
      refuse(cudaErrorHostMemoryAlreadyRegistered, "some of it is registered or pinned already");
  });
}

cudaError_t CUDARTAPI cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return call(__func__, [&] {
    if (free == nullptr || total == nullptr) refuse(cudaErrorInvalidValue, "no place for the answer");
    *total = device_bytes();
    *free = device_bytes() - device_bytes_in_use();
  });
}

cudaError_t CUDARTAPI cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  static CUmemPoolHandle_st only;
  return call(__func__, [&] {
    if (pool == nullptr) refuse(cudaErrorInvalidValue, "no place for the answer");
    if (device != only.device) refuse(cudaErrorInvalidDevice, "there is one device, 0");
    *pool = &only;
  });
}

cudaError_t CUDARTAPI cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  return call(__func__, [&] {
    if (pool == nullptr || value == nullptr) refuse(cudaErrorInvalidValue, "a null argument");
    if (attribute != cudaMemPoolAttrReleaseThreshold) refuse(cudaErrorNotSupported, "this attribute is not modelled");
  });
}

cudaError_t CUDARTAPI cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t) {
  return call(__func__, [&] {
    if (pool == nullptr) refuse(cudaErrorInvalidValue, "a null argument");
  });
}

// ---- copies and fills ----

cudaError_t CUDARTAPI
cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return queueing_call(
      __func__, [&] { queue_copy(area(to, bytes, bytes, 1), area(from, bytes, bytes, 1), kind, stream); });
}

cudaError_t CUDARTAPI cudaMemcpy2DAsync(
    void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width, std::size_t height,
    cudaMemcpyKind kind, cudaStream_t stream) {
  return queueing_call(__func__, [&] {
    const Area target = area(to, to_pitch, width, height), source = area(from, from_pitch, width, height);
    check_pitch(target);
    check_pitch(source);
    queue_copy(target, source, kind, stream);
  });
}

cudaError_t CUDARTAPI cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return queueing_call(__func__, [&] { queue_fill(area(to, bytes, bytes, 1), value, stream); });
}

cudaError_t CUDARTAPI
cudaMemset2DAsync(void* to, std::size_t pitch, int value, std::size_t width, std::size_t height, cudaStream_t stream) {
  return queueing_call(__func__, [&] {
    check_pitch(area(to, pitch, width, height));
    queue_fill(area(to, pitch, width, height), value, stream);
  });
}

}  // extern "C"
