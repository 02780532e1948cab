// tensor/device.cpp -- device names
#include "tensor/device.h"

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

Device Device::parse(std::string_view text) {
  if (text == "cpu") return {};
  if (text == "sim" || text == "cuda" || text.starts_with("cuda:"))
    fail<DeviceError>("device: {}: this build has only the CPU backend | use --device cpu", text);
  fail<DeviceError>("device: expected cpu, got '{}' | use --device cpu", text);
}

}  // namespace avid
