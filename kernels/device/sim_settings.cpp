// kernels/device/sim_settings.cpp -- reads AVID_SIM_...
#include "kernels/device/sim_settings.h"

#if AVID_HAVE_SIM

#include <charconv>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>

namespace avid::kernels::simulator {
namespace {

/// Empty where nothing is set.
std::string_view text_of(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr ? text : "";
}

[[noreturn]] void refuse(const char* name, const std::string& expected, std::string_view got) {
  throw GpuError(std::string(name) + ": expected " + expected + ", got '" + std::string(got) + "'");
}

/// Whether all of `text` is a number that T holds. No sign, except the minus of a fraction.
template <class T>
bool is_number(std::string_view text, T* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

template <class T>
void read_whole(const char* name, T least, T most, T* value) {
  const std::string_view text = text_of(name);
  if (text.empty()) return;
  T got;
  if (!is_number(text, &got) || got < least || got > most)
    refuse(name, "a whole number from " + std::to_string(least) + " to " + std::to_string(most), text);
  *value = got;
}

}  // namespace

Options options_from_environment() {
  Options o;
  if (const std::string_view order = text_of("AVID_SIM_ORDER"); order == "reverse")
    o.order = Order::reverse;
  else if (order == "random")
    o.order = Order::random;
  else if (order != "" && order != "forward")
    refuse("AVID_SIM_ORDER", "forward, reverse or random", order);
  if (const std::string_view arch = text_of("AVID_SIM_ARCH"); arch == "90")
    o.arch = 90;
  else if (arch != "" && arch != "80")
    refuse("AVID_SIM_ARCH", "80 or 90", arch);
  read_whole<std::uint64_t>("AVID_SIM_SEED", 0, std::numeric_limits<std::uint64_t>::max(), &o.seed);
  read_whole("AVID_SIM_THREADS", 1, 256, &o.os_threads);
  return o;
}

std::size_t memory_from_environment() {
  constexpr double kMostMib = 1e9;  // in bytes it is a whole number of 64 bits
  const std::string_view text = text_of("AVID_SIM_MEMORY_MIB");
  if (text.empty()) return std::numeric_limits<std::size_t>::max();
  double mib;
  if (!is_number(text, &mib) || !(mib > 0 && mib <= kMostMib))
    refuse("AVID_SIM_MEMORY_MIB", "MiB above 0, up to 1e9, such as 64 or 0.5", text);
  return static_cast<std::size_t>(mib * 1048576);
}

}  // namespace avid::kernels::simulator

#endif  // AVID_HAVE_SIM
