// tensor/device.cpp -- device names
#include "tensor/device.h"

#include <charconv>

#include "kernels/device/runtime.h"
#include "kernels/device/wgmma_switch.h"
#include "tensor/device_name.h"
#include "tensor/error.h"

namespace avid {

std::string Device::to_string() const {
  switch (kind) {
    case DeviceKind::cpu: return "cpu";
    case DeviceKind::cuda: return fmt::format("cuda:{}", index);
    case DeviceKind::sim: return "sim";
  }
  return "?";
}

bool is_device_name(std::string_view text) {
  constexpr std::string_view kNumbered = "cuda:";
  if (text.starts_with(kNumbered) && text.size() > kNumbered.size())
    return text.find_first_not_of("0123456789", kNumbered.size()) == std::string_view::npos;
  return text == "cpu" || text == "cuda" || text == "sim";
}

Device Device::parse(std::string_view text) {
  if (text == "cpu") return {};
  Device device;
  bool known = is_device_name(text);
  if (text == "sim") {
    device.kind = DeviceKind::sim;
  } else if (known) {
    device.kind = DeviceKind::cuda;
    const std::string_view digits = text.substr(text == "cuda" ? 4 : 5);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), device.index);
    known = text == "cuda" || error == std::errc();  // a number that is too large
  }
  check<DeviceError>(known, "device: expected {}, got '{}'", kDeviceNames, text);
  if ((device.kind == DeviceKind::cuda && !AVID_HAVE_CUDA) || (device.kind == DeviceKind::sim && !AVID_HAVE_SIM))
    detail::fail_no_backend(device, "device");
#if AVID_HAVE_CUDA
  if (device.kind == DeviceKind::cuda) {
    const std::string problem = kernels::device_problem<kernels::Cuda>(device.index);
    check<DeviceError>(problem.empty(), "device: {} | use --device cpu", problem);
  }
#endif
#if AVID_HAVE_SIM
  if (device.kind == DeviceKind::sim) {  // of its settings
    const std::string problem = kernels::device_problem<kernels::Sim>(0);
    check<DeviceError>(problem.empty(), "device: {}", problem);
  }
#endif
  return device;
}

std::string Device::describe() const {
  std::string without;
  if (is_gpu() && !kernels::wgmma_allowed()) without += ", AVID_WGMMA=off";
  if (is_gpu() && !kernels::tma_allowed()) without += ", AVID_TMA=off";
  switch (kind) {
#if AVID_HAVE_CUDA
    case DeviceKind::cuda:
      return fmt::format("{} ({}){}", to_string(), kernels::device_name<kernels::Cuda>(index), without);
#endif
    case DeviceKind::sim: return "sim (kernel simulator on the host)" + without;
    default: return to_string();
  }
}

namespace detail {

void fail_no_backend(Device device, const char* op) {
  switch (device.kind) {
    case DeviceKind::cuda:
      fail<DeviceError>(
          "{}: {}: this build has no CUDA kernels | rebuild with -DAVID_CUDA=ON, or use --device cpu", op,
          device.to_string());
    case DeviceKind::sim:
      fail<DeviceError>(
          "{}: sim: this build has no kernel simulator | rebuild with -DAVID_SIM=ON, or use --device cpu", op);
    case DeviceKind::cpu: break;
  }
  fail<DeviceError>("{}: expected a tensor on a device, got one on cpu", op);
}

}  // namespace detail

}  // namespace avid
