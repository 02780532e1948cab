// tests/gpu/as_cuda.h -- included in front of the sources of tests/sim: what they run on Sim runs on Cuda here
//
// The one source of a kernel's test serves both backends, as the one text of the kernel does. Headers that name both
// come before the change of name.
#pragma once

#include "kernels/device/backend.h"
#include "kernels/device/runtime.h"

#define Sim Cuda
#define AVID_TESTS_ON_GPU 1
