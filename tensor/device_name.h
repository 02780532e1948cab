// tensor/device_name.h -- the words that name a device
#pragma once

#include <string_view>

namespace avid {

inline constexpr const char* kDeviceNames = "cpu, cuda, cuda:N or sim";

/// Whether Device::parse can read the word; whether there is such a device is for it to say.
bool is_device_name(std::string_view text);

}  // namespace avid
