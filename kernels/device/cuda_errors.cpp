// kernels/device/cuda_errors.cpp -- see cuda_errors.h
#include "kernels/device/cuda_errors.h"

#include <charconv>
#include <cstdio>

namespace avid::kernels {
namespace {

std::string in_units_of(std::size_t unit, std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", static_cast<double>(bytes) / static_cast<double>(unit));
  return text;
}

constexpr std::size_t kGib = std::size_t{1} << 30, kNoLimit = std::size_t{1} << 50;
/// Context, loaded kernels and what the pool's blocks lose: neither free nor ours, and nobody else's.
constexpr std::size_t kOwnOverhead = 2 * kGib;

}  // namespace

std::string cuda_advice(int error) {
  switch (error) {  // numbers of cudaError_t, held against its names by runtime_cuda.cpp
    case 2:         // MemoryAllocation
      return " | the device's memory is full: nvidia-smi lists the processes that hold it";
    case 46:  // DevicesUnavailable
      return " | another process has the device to itself: nvidia-smi lists it";
    case 35:   // InsufficientDriver
    case 803:  // SystemDriverMismatch
      return " | update NVIDIA's driver, and restart the machine where it was updated already";
    case 802:  // SystemNotReady
      return " | machines with NVSwitch need nvidia-fabricmanager to run";
    case 209:  // NoKernelImageForDevice
      return " | this build has no code for the device: rebuild with its compute capability in -DAVID_CUDA_ARCHS";
    case 214:  // ECCUncorrectable
      return " | the device's memory is faulty: nvidia-smi -q -d ECC";
    case 700:  // IllegalAddress
    case 702:  // LaunchTimeout
    case 714:  // HardwareStackError ... LaunchFailure
    case 715:
    case 716:
    case 717:
    case 718:
    case 719:
      return " | a kernel before this failed; with CUDA_LAUNCH_BLOCKING=1 in the environment and --graph off the "
             "message names it";
    default: return "";
  }
}

std::string arch_problem(std::string_view archs, int major, int minor) {
  const int have = 10 * major + minor;
  std::string_view rest = archs;
  while (!rest.empty()) {
    const std::size_t end = rest.find(',');
    std::string_view entry = rest.substr(0, end);
    rest = end == std::string_view::npos ? "" : rest.substr(end + 1);
    int number = 0;
    const auto [behind, error] = std::from_chars(entry.data(), entry.data() + entry.size(), number);
    if (error != std::errc()) return "";  // "native", "all": CMake's words, and its business
    entry.remove_prefix(static_cast<std::size_t>(behind - entry.data()));
    const bool machine_code = entry != "-virtual", ptx = entry == "" || entry == "-virtual";
    if (entry.starts_with("a") || number > have) continue;
    if (ptx || (machine_code && number / 10 == major)) return "";
  }
  return "compute capability " + std::to_string(major) + "." + std::to_string(minor) + ", this build has code for " +
         std::string(archs) + " | rebuild with -DAVID_CUDA_ARCHS=" + std::to_string(have);
}

std::string memory_left(std::size_t total, std::size_t free, std::size_t ours) {
  if (total == 0 || total > kNoLimit) return "";
  const bool large = total >= kGib;
  const std::size_t unit = large ? kGib : kGib / 1024;
  const std::string unit_name = large ? " GiB" : " MiB";
  std::string text =
      ", the device has " + in_units_of(unit, free) + " of " + in_units_of(unit, total) + unit_name + " left";
  if (free + ours + kOwnOverhead < total)
    text += ", other processes hold about " + in_units_of(unit, total - free - ours) + unit_name +
            " (nvidia-smi lists them)";
  return text;
}

}  // namespace avid::kernels
