// kernels/device/exponential.h -- powers of two in one instruction, for softmax in bf16 kernels
#pragma once

#include "kernels/device/gpu.h"

namespace avid::kernels::AVID_GPU {

inline constexpr float kLog2E = 1.4426950408889634f;

/// 2^v to 2 ulp, zero below 2^-126. (exp2f and __expf keep what lies below, which takes four instructions more.)
AVID_DEVICE float exp2_flushed(float v) {
#if defined(__CUDACC__)
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
  return r;
#else
  const float r = exp2f(v);
  return r < 1.17549435e-38f ? 0.0f : r;
#endif
}

}  // namespace avid::kernels::AVID_GPU
