// kernels/device/wgmma_switch.cpp -- reads AVID_WGMMA
#include "kernels/device/wgmma_switch.h"

#include <atomic>
#include <cstdlib>
#include <string>

#include "kernels/device/backend.h"

namespace avid::kernels {
namespace {

bool read_environment() {
  const char* set = std::getenv("AVID_WGMMA");
  const std::string text = set != nullptr ? set : "";
  if (text == "" || text == "on") return true;
  if (text == "off") return false;
  throw GpuError("AVID_WGMMA: expected on or off, got '" + text + "'");
}

std::atomic<bool>& allowed_now() {
  static std::atomic<bool> allowed{read_environment()};
  return allowed;
}

}  // namespace

bool wgmma_allowed() { return allowed_now().load(std::memory_order_relaxed); }
void allow_wgmma(bool allowed) { allowed_now() = allowed; }

}  // namespace avid::kernels
