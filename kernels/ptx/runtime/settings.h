// kernels/ptx/runtime/settings.h -- what the environment says about the machine
//
//   AVID_PTX_ARCH         80 or 90: compute capability of the device; 80 without it
//   AVID_PTX_MEMORY_MIB   memory of the device, such as 512; what the host gives without it
//   AVID_PTX_ORDER        early or late: when queued work is done; early without it
//   CUDA_LAUNCH_BLOCKING  as with CUDA: a launch returns the error of its own kernel
// Anything that is none of a variable's values is one line on stderr, and there is no device then.
#pragma once

#include <cstddef>
#include <limits>

namespace avid::kernels::ptx {

struct Settings {
  bool valid = true;
  int arch = 80;
  std::size_t memory_bytes = std::numeric_limits<std::size_t>::max();
  bool late = false;  ///< work is done when somebody waits for it, and not when it is queued
  bool launch_blocking = false;
};

/// What the environment says now.
Settings settings_from_environment();

/// The machine's: what the environment said at the first call. Tests change them before the machine is used.
Settings& settings();

}  // namespace avid::kernels::ptx
