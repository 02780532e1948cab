// tensor/device.h -- where a tensor lives
#pragma once

#include <string>
#include <string_view>

namespace avid {

enum class DeviceKind { cpu, cuda, sim };

/// A place for tensors: the host, a CUDA device, or the kernel simulator on the host.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;

  /// True where data live on the other side of a copy: a CUDA device, or the simulator, which plays one.
  bool is_gpu() const { return kind != DeviceKind::cpu; }
  /// "cpu", "cuda:0", "sim"
  std::string to_string() const;
  /// Reads "cpu", "cuda", "cuda:1", "sim"; throws DeviceError when unknown or not in this build.
  static Device parse(std::string_view text);

  friend bool operator==(const Device&, const Device&) = default;
};

namespace detail {
/// Throws the DeviceError for a device that this build has no code for.
[[noreturn]] void fail_no_backend(Device device, const char* op);
}  // namespace detail

}  // namespace avid
