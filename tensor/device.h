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
  /// Reads "cpu", "cuda", "cuda:1", "sim"; throws DeviceError when unknown, not in this build, or when this machine has
  /// no such device or driver.
  static Device parse(std::string_view text);

  /// What people are told: "cuda:0 (NVIDIA H100)", "sim (kernel simulator on the host)", "cpu"; with ", AVID_WGMMA=off"
  /// behind a device when kernels were left out (kernels/device/wgmma_switch.h).
  std::string describe() const;

  friend bool operator==(const Device&, const Device&) = default;
};

namespace detail {
/// Throws the DeviceError for a device that this build has no code for.
[[noreturn]] void fail_no_backend(Device device, const char* op);
}  // namespace detail

}  // namespace avid
