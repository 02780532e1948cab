// tests/sim/traffic.h -- kernels whose memory traffic is known
#pragma once

namespace avid::test {

/// One warp: loads in[lane * stride], then writes and reads shared[lane * stride]. in has 32 * stride floats.
void run_strided(const float* in, float* out, int stride);

/// One warp copies chunks 0 to 31 of 16 bytes of `in` by cp.async, then 32 to 63; zeros for every tenth.
void run_copies_with_gaps(const float* in);

}  // namespace avid::test
