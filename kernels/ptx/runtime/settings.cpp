// kernels/ptx/runtime/settings.cpp -- see settings.h
#include "kernels/ptx/runtime/settings.h"

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace avid::kernels::ptx {
namespace {

/// Empty where nothing is set.
std::string_view text_of(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr ? text : "";
}

}  // namespace

Settings settings_from_environment() {
  Settings s;
  const auto refuse = [&](const char* name, const char* expected) {
    std::fprintf(stderr, "ptx machine: %s: expected %s, got '%s'\n", name, expected, text_of(name).data());
    s.valid = false;
  };
  if (const std::string_view arch = text_of("AVID_PTX_ARCH"); arch == "90")
    s.arch = 90;
  else if (arch != "" && arch != "80")
    refuse("AVID_PTX_ARCH", "80 or 90");
  if (const std::string_view order = text_of("AVID_PTX_ORDER"); order == "late")
    s.late = true;
  else if (order != "" && order != "early")
    refuse("AVID_PTX_ORDER", "early or late");
  if (const std::string_view mib = text_of("AVID_PTX_MEMORY_MIB"); mib != "") {
    constexpr std::size_t kMostMib = 1'000'000'000;
    std::size_t value = 0;
    const auto [end, error] = std::from_chars(mib.data(), mib.data() + mib.size(), value);
    if (error != std::errc() || end != mib.data() + mib.size() || value == 0 || value > kMostMib)
      refuse("AVID_PTX_MEMORY_MIB", "a whole number of MiB from 1 to 1000000000");
    else
      s.memory_bytes = value << 20;
  }
  const std::string_view blocking = text_of("CUDA_LAUNCH_BLOCKING");
  s.launch_blocking = blocking != "" && blocking != "0";
  return s;
}

Settings& settings() {
  static Settings read = settings_from_environment();
  return read;
}

}  // namespace avid::kernels::ptx
