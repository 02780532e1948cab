// kernels/device/backend.h -- where a kernel runs: on a CUDA device, or in the simulator on the host
//
// Plain C++: contracts (kernels/<op>.h) include this file and declare `template <class Backend, class Elem> ...` beside
// their CPU functions. One text, kernels/<op>.cu, defines both: compiled by nvcc it instantiates Backend = Cuda,
// compiled as C++ against the simulator Backend = Sim.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/dtype.h"

// Which backends this build holds; the build system sets them (cmake/Simulator.cmake).
#ifndef AVID_HAVE_CUDA
#define AVID_HAVE_CUDA 0
#endif
#ifndef AVID_HAVE_SIM
#define AVID_HAVE_SIM 0
#endif

namespace avid::kernels {

/// An NVIDIA GPU.
struct Cuda {};
/// The simulator: the same kernels on host threads.
struct Sim {};

/// An ordered queue of work on a device: a cudaStream_t. The simulator ignores it, its launches finish before they
/// return.
struct Stream {
  void* handle = nullptr;
};

/// A launch or a call of the device's runtime failed. what() is one line: kernel, grid and block, and the runtime's
/// text.
class GpuError : public std::runtime_error {
 public:
  explicit GpuError(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace avid::kernels
