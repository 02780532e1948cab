// kernels/device/runtime_sim.cpp -- the simulator's "device" memory and copies
//
// Blocks come fresh from the system and start as NaN in every float format (all bits set), so that a kernel that reads
// what nobody wrote shows itself in the result, and under AddressSanitizer a stray access is seen at once.
// AVID_SIM_MEMORY_MIB=n gives the device n MiB, to see what a small GPU would say.
#include "kernels/device/runtime.h"

#if AVID_HAVE_SIM

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace avid::kernels {

namespace {

// How much the simulated device has: AVID_SIM_MEMORY_MIB, or all that the host gives.
std::size_t memory_limit() {
  static const std::size_t limit = [] {
    const char* text = std::getenv("AVID_SIM_MEMORY_MIB");
    const long long mib = text == nullptr ? 0 : std::atoll(text);
    return mib > 0 ? static_cast<std::size_t>(mib) << 20 : ~std::size_t{0};
  }();
  return limit;
}

std::atomic<std::size_t> in_use{0};

}  // namespace

template <>
std::string device_problem<Sim>(int) {
  return {};
}

template <>
int device_count<Sim>() {
  return 1;
}

template <>
std::string device_name<Sim>(int) {
  return "kernel simulator on the host";
}

template <>
Stream device_stream<Sim>(int) {
  return {};
}

template <>
void* device_allocate<Sim>(const Stream&, std::size_t bytes) {
  if (in_use.fetch_add(bytes) + bytes > memory_limit()) {
    in_use -= bytes;
    return nullptr;
  }
  const std::size_t rounded = (bytes + 255) / 256 * 256;
  void* block = std::aligned_alloc(256, rounded == 0 ? 256 : rounded);
  if (block != nullptr)
    std::memset(block, 0xff, bytes);
  else
    in_use -= bytes;
  return block;
}

template <>
void device_free<Sim>(const Stream&, void* block, std::size_t bytes) noexcept {
  in_use -= bytes;
  std::free(block);
}

template <>
void device_copy<Sim>(
    const Stream&, CopyKind, void* to, std::size_t to_step, const void* from, std::size_t from_step,
    std::size_t row_bytes, std::int64_t num_rows) {
  if (row_bytes == 0) return;
  auto* target = static_cast<std::byte*>(to);
  const auto* source = static_cast<const std::byte*>(from);
  for (std::int64_t r = 0; r < num_rows; ++r, target += to_step, source += from_step)
    std::memmove(target, source, row_bytes);
}

template <>
void device_zero<Sim>(const Stream&, void* to, std::size_t step, std::size_t row_bytes, std::int64_t num_rows) {
  if (row_bytes == 0) return;
  auto* target = static_cast<std::byte*>(to);
  for (std::int64_t r = 0; r < num_rows; ++r, target += step) std::memset(target, 0, row_bytes);
}

template <>
void device_synchronise<Sim>(const Stream&) {}

template <>
DeviceMemory device_memory<Sim>(int) {
  return {memory_limit(), memory_limit() - in_use};
}

}  // namespace avid::kernels

#endif  // AVID_HAVE_SIM
