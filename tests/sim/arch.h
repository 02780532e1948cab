// tests/sim/arch.h -- which device the simulator is
#pragma once

#include "kernels/device/wgmma_switch.h"
#include "kernels/gather_gemm.h"
#include "kernels/sim/simulator.h"

namespace avid::test {

/// The simulated device has this compute capability while the object lives. A GPU (tests/gpu) is what it is, but below
/// 90 it is used without what 9.0 adds.
class OnArch {
 public:
  explicit OnArch(int arch) {
    kernels::simulator::options().arch = arch;
#if defined(AVID_TESTS_ON_GPU)
    kernels::allow_wgmma(allowed_ && arch >= 90);
#endif
  }
  ~OnArch() {
    kernels::simulator::options().arch = saved_;
    kernels::allow_wgmma(allowed_);
  }
  OnArch(const OnArch&) = delete;
  OnArch& operator=(const OnArch&) = delete;

 private:
  int saved_ = kernels::simulator::options().arch;
  bool allowed_ = kernels::wgmma_allowed();
};

/// Whether the device can be of this compute capability: the simulator can be of any, a GPU has the kernels on wgmma or
/// has them not.
inline bool can_be_arch(int arch) {
#if defined(AVID_TESTS_ON_GPU)
  return arch < 90 || kernels::have_wgmma<kernels::Cuda>();
#else
  return arch == 80 || arch == 90;
#endif
}

/// Tensor copies are allowed, or not, while the object lives.
class TensorCopiesAllowed {
 public:
  explicit TensorCopiesAllowed(bool allowed) { kernels::allow_tma(allowed); }
  ~TensorCopiesAllowed() { kernels::allow_tma(saved_); }
  TensorCopiesAllowed(const TensorCopiesAllowed&) = delete;
  TensorCopiesAllowed& operator=(const TensorCopiesAllowed&) = delete;

 private:
  bool saved_ = kernels::tma_allowed();
};

/// Calls f with tensor copies and without. On a GPU only as the environment says: AVID_TMA=off has to keep them out.
template <class F>
void with_and_without_tensor_copies(F&& f) {
#if defined(AVID_TESTS_ON_GPU)
  if (!kernels::tma_allowed()) return f();
#endif
  for (const bool allowed : {true, false}) {
    const TensorCopiesAllowed with(allowed);
    f();
  }
}

}  // namespace avid::test
