// tests/sim/arch.h -- which device the simulator is
#pragma once

#include "kernels/sim/simulator.h"

namespace avid::test {

/// The simulated device has this compute capability while the object lives.
class OnArch {
 public:
  explicit OnArch(int arch) { kernels::simulator::options().arch = arch; }
  ~OnArch() { kernels::simulator::options().arch = saved_; }
  OnArch(const OnArch&) = delete;
  OnArch& operator=(const OnArch&) = delete;

 private:
  int saved_ = kernels::simulator::options().arch;
};

}  // namespace avid::test
