// tests/sim/traffic.h -- kernels whose memory traffic is known
#pragma once

namespace avid::test {

/// One warp: loads in[lane * stride], then writes and reads shared[lane * stride]. in has 32 * stride floats.
void run_strided(const float* in, float* out, int stride);

}  // namespace avid::test
