// kernels/device/runtime.h -- memory, copies and streams of a backend
//
// The calls mean the same on both backends. On Cuda everything is queued on the stream; on Sim everything has happened
// when the call returns. "Device memory" of the simulator is host memory that host code does not touch: only these
// functions and kernels do, so that a program that runs on Sim has no copy missing on Cuda.
// Defined for Cuda where AVID_HAVE_CUDA is 1 (runtime_cuda.cpp), for Sim where AVID_HAVE_SIM is 1 (runtime_sim.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/device/backend.h"

namespace avid::kernels {

/// Why this machine cannot run the backend on this device (no driver, driver too old, no device, device too old), in one
/// line; empty when it can.
template <class Backend>
std::string device_problem(int device_index);
/// How many devices there are (0 without a driver), and what they are called.
template <class Backend>
int device_count();
template <class Backend>
std::string device_name(int device_index);

/// The stream that all ops of this process use. Throws GpuError when there is no usable device.
template <class Backend>
Stream device_stream(int device_index);

/// At least `bytes` of uninitialised memory, 256-byte aligned; null when the device has not so much left.
template <class Backend>
void* device_allocate(const Stream& stream, std::size_t bytes);
/// Gives a block back after everything queued so far. Never throws: destructors call it.
template <class Backend>
void device_free(const Stream& stream, void* block, std::size_t bytes) noexcept;

/// Where the two ends of a copy lie.
enum class CopyKind { to_device, to_host, on_device };

/// Copies `num_rows` rows of `row_bytes`, each `to_step` and `from_step` bytes after the last. Nothing when empty.
/// Host ends may be reused when the call returns; a copy to the host has finished then.
template <class Backend>
void device_copy(const Stream& stream, CopyKind kind, void* to, std::size_t to_step, const void* from,
                 std::size_t from_step, std::size_t row_bytes, std::int64_t num_rows);

/// Zeroes `row_bytes` of each of `num_rows` rows, each `step` bytes after the last.
template <class Backend>
void device_zero(const Stream& stream, void* to, std::size_t step, std::size_t row_bytes, std::int64_t num_rows);

/// Waits until everything queued so far is done; reports what went wrong in it.
template <class Backend>
void device_synchronise(const Stream& stream);

/// Memory of a device as its runtime sees it, in bytes.
struct DeviceMemory {
  std::size_t total = 0, free = 0;
};
template <class Backend>
DeviceMemory device_memory(int device_index);

// Defined per backend.
#define AVID_DECLARE(Backend)                                                                                          \
  template <> std::string device_problem<Backend>(int);                                                                \
  template <> int device_count<Backend>();                                                                             \
  template <> std::string device_name<Backend>(int);                                                                   \
  template <> Stream device_stream<Backend>(int);                                                                      \
  template <> void* device_allocate<Backend>(const Stream&, std::size_t);                                              \
  template <> void device_free<Backend>(const Stream&, void*, std::size_t) noexcept;                                   \
  template <> void device_copy<Backend>(                                                                               \
      const Stream&, CopyKind, void*, std::size_t, const void*, std::size_t, std::size_t, std::int64_t);               \
  template <> void device_zero<Backend>(const Stream&, void*, std::size_t, std::size_t, std::int64_t);                 \
  template <> void device_synchronise<Backend>(const Stream&);                                                         \
  template <> DeviceMemory device_memory<Backend>(int);
AVID_DECLARE(Cuda)
AVID_DECLARE(Sim)
#undef AVID_DECLARE

}  // namespace avid::kernels
