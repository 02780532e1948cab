// kernels/device/wgmma_switch.cpp -- reads AVID_WGMMA and AVID_TMA
#include "kernels/device/wgmma_switch.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "kernels/device/backend.h"

namespace avid::kernels {
namespace {

bool read_environment(const char* name) {
  const char* set = std::getenv(name);
  const std::string text = set != nullptr ? set : "";
  if (text == "" || text == "on") return true;
  if (text == "off") return false;
  throw GpuError(std::string(name) + ": expected on or off, got '" + text + "'");
}

std::atomic<bool>& wgmma_now() {
  static std::atomic<bool> allowed{read_environment("AVID_WGMMA")};
  return allowed;
}
std::atomic<bool>& tma_now() {
  static std::atomic<bool> allowed{read_environment("AVID_TMA")};
  return allowed;
}

}  // namespace

bool wgmma_allowed() { return wgmma_now().load(std::memory_order_relaxed); }
void allow_wgmma(bool allowed) { wgmma_now() = allowed; }
bool tma_allowed() { return tma_now().load(std::memory_order_relaxed); }
void allow_tma(bool allowed) { tma_now() = allowed; }

}  // namespace avid::kernels
