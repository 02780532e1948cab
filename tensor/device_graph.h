// tensor/device_graph.h -- work of a device recorded once and repeated: a CUDA graph; the simulator keeps a list
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "tensor/device.h"

namespace avid {

namespace kernels {
class RecordedWork;
}
class MemoryWatch;

/// Whether work is to be recorded. `automatic`: where that is possible, with a line that says so where it is not.
enum class UseGraph { off, on, automatic };
/// Reads "off", "on", "auto"; ConfigError that names `where`.
UseGraph parse_use_graph(std::string_view text, std::string_view where);

/// What ops queue for a GPU backend, written down once and done again by replay() with one call of the device's
/// runtime.
///
/// Inputs   Tensors that exist before record() are used where they lie: put new values into them before replay().
///          Everything else is fixed: shapes, numbers that ops got by value, values copied from the host.
/// Outputs  Tensors made inside `work` and kept are overwritten by every replay(). Their memory stays valid while they
///          live. Host-side records of change (Tensor::version) do not notice a replay.
/// Memory   What `work` allocates lies in memory of its own, which nobody else gets while the graph lives.
class DeviceGraph {
 public:
  DeviceGraph();
  ~DeviceGraph();
  DeviceGraph(DeviceGraph&&) noexcept;
  DeviceGraph& operator=(DeviceGraph&&) noexcept;

  /// Runs `work` with its ops recorded instead of done. Run the same work once before without recording: what is made
  /// or loaded at a first use (tables, weights' copies, libraries' handles, kernels) is there then. `watch` is what saw
  /// that run; with it the recording takes about as much memory, without it more.
  /// Errors   DeviceError for the CPU, when `work` reads from the device or waits for it, and on the simulator when it
  ///          launches a kernel that never ran; OutOfMemoryError; what `work` throws. Nothing is recorded then.
  static DeviceGraph record(Device device, const std::function<void()>& work, const MemoryWatch* watch = nullptr);

  bool defined() const { return work_ != nullptr; }
  /// Queues all of it. DeviceError when the device refuses.
  void replay();
  /// Launches, copies and fills.
  std::int64_t num_steps() const;
  std::size_t memory_bytes() const;

 private:
  Device device_;
  std::unique_ptr<kernels::RecordedWork> work_;
};

}  // namespace avid
