// kernels/device/sim_settings.h -- what the environment says about the simulated device
//
// A variable that is unset or empty leaves the default. Anything that is none of its values is a GpuError, one line:
//   AVID_SIM_SEED: expected a whole number from 0 to 18446744073709551615, got '1e3'
#pragma once

#include <cstddef>

#include "kernels/sim/simulator.h"

namespace avid::kernels::simulator {

/// AVID_SIM_ORDER (forward, reverse, random), AVID_SIM_SEED, AVID_SIM_THREADS (1 to 256), AVID_SIM_ARCH (80, 90), as
/// they are now.
Options options_from_environment();

/// Bytes of AVID_SIM_MEMORY_MIB (above 0, a fraction too), as it is now; the greatest std::size_t without it: what the
/// host gives.
std::size_t memory_from_environment();

}  // namespace avid::kernels::simulator
