// kernels/device/runtime.h -- memory, copies and streams of a backend
//
// The calls mean the same on both backends. On Cuda everything is queued on the stream; on Sim everything has happened
// when the call returns. "Device memory" of the simulator is host memory that host code does not touch: only these
// functions and kernels do, so that a program that runs on Sim has no copy missing on Cuda.
// Defined for Cuda where AVID_HAVE_CUDA is 1 (runtime_cuda.cpp), for Sim where AVID_HAVE_SIM is 1 (runtime_sim.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/device/backend.h"
#include "kernels/device/graph_memory.h"

namespace avid::kernels {

/// Why this machine cannot run the backend on this device (no driver, driver too old, no device, device too old), in
/// one line; empty when it can.
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
void device_copy(
    const Stream& stream, CopyKind kind, void* to, std::size_t to_step, const void* from, std::size_t from_step,
    std::size_t row_bytes, std::int64_t num_rows);

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

// ---- copies beside the work ----

/// A pinned host buffer whose values travel to the device while its stream does other things.
///
///   buffer()       the host fills it; waits until it has left for good the time before
///   start(to, n)   n bytes leave for `to`, which everything queued before last_use() may still read; nobody may look
///                  at `to` now
///   arrive()       what is queued from here on finds them there
///   last_use()     what was queued before is the last that reads them: the next start() waits for it
///
/// On Sim the copy happens as late as it may, in arrive(), and both ends are poisoned meanwhile: the target from
/// start(), the buffer once it is copied. Calls out of order throw GpuError there. On Cuda the copy runs in a stream of
/// its own.
class Upload {
 public:
  virtual ~Upload() = default;
  virtual std::byte* buffer() = 0;
  virtual void start(void* to, std::size_t bytes) = 0;
  virtual void arrive() = 0;
  virtual void last_use() = 0;
};
template <class Backend>
std::unique_ptr<Upload> make_upload(const Stream& stream, std::size_t bytes);

// ---- recorded work ----

/// Work that was written down once and can be done again as often as wanted, in memory of its own: a CUDA graph; on Sim
/// a list of launches, copies and fills.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  /// Launches, copies and fills.
  virtual std::int64_t num_steps() const = 0;
  /// Device memory kept for it.
  virtual std::size_t memory_bytes() const = 0;
};

/// From here to record_end() what is queued on the stream is recorded instead of being done. `plan`: which blocks it is
/// expected to take, or how much memory at once (graph_memory.h); it gets more when that is not enough. While recording
///   device_allocate     gives memory of the recorded work, which keeps it to its end
///   device_free         lets later recorded work use such memory; other blocks stay until the recorded work is
///   destroyed device_copy         to the device: the host's values of now, at every repetition; to the host: GpuError
///   device_synchronise  GpuError
/// Numbers passed to kernels by value stay what they are: what changes must lie in device memory.
template <class Backend>
void record_begin(const Stream& stream, const MemoryPlan& plan);
template <class Backend>
std::unique_ptr<RecordedWork> record_end(const Stream& stream);
/// Ends a recording whose work failed.
template <class Backend>
void record_cancel(const Stream& stream) noexcept;
/// Queues all of it. Nothing in the work's memory survives from one time to the next.
template <class Backend>
void replay(const Stream& stream, RecordedWork& work);

// Defined per backend.
// clang-format off
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
  template <> DeviceMemory device_memory<Backend>(int);                                                                \
  template <> std::unique_ptr<Upload> make_upload<Backend>(const Stream&, std::size_t);                                \
  template <> void record_begin<Backend>(const Stream&, const MemoryPlan&);                                            \
  template <> std::unique_ptr<RecordedWork> record_end<Backend>(const Stream&);                                        \
  template <> void record_cancel<Backend>(const Stream&) noexcept;                                                     \
  template <> void replay<Backend>(const Stream&, RecordedWork&);
// clang-format on
AVID_DECLARE(Cuda)
AVID_DECLARE(Sim)
#undef AVID_DECLARE

/// While on, the simulator only pretends: blocks are addresses without memory, launches, copies and fills do nothing,
/// and copies to the host bring zeros. What a program would allocate can be counted then, whatever its size
/// (train/dry_run.h). What was allocated meanwhile is of no use afterwards.
void sim_pretend(bool on);

}  // namespace avid::kernels
