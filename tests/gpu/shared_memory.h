// tests/gpu/shared_memory.h -- memory of a test program that a GPU sees at the same addresses as the host
#pragma once

#include <functional>

namespace avid::test {

/// From here on `new` gives pinned host memory, 256-byte aligned, which kernels read and write in place: vectors may be
/// handed to them as in the simulator. Needs a device to be in use. Throws GpuError.
void begin_shared_memory();

/// Runs f in a thread whose stack is such memory, too: kernels may be given the addresses of locals. Constants and
/// static objects lie elsewhere.
int run_on_shared_stack(const std::function<int()>& f);

}  // namespace avid::test
