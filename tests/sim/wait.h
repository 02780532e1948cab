// tests/sim/wait.h -- what an op left to do when it returned
#pragma once

namespace avid::test {

/// Waits for fills and copies that an op queued behind its last launch, or without one. On a GPU the tests' program
/// waits for launches alone (CUDA_LAUNCH_BLOCKING); the simulator has done everything.
void wait_for_fills();

}  // namespace avid::test
