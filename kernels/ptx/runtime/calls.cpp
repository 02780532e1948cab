// kernels/ptx/runtime/calls.cpp -- see calls.h
#include "kernels/ptx/runtime/calls.h"

#include <atomic>
#include <cstdio>

namespace avid::kernels::ptx {
namespace {

std::atomic<cudaError_t> broken{cudaSuccess};
thread_local cudaError_t last_error = cudaSuccess;

}  // namespace

std::recursive_mutex& call_mutex() {
  static auto* mutex = new std::recursive_mutex;  // never destroyed: static objects give memory back at the end
  return *mutex;
}

cudaError_t device_error() { return broken; }

void break_device(cudaError_t error, const std::string& reason) {
  broken = error;
  std::fprintf(stderr, "ptx machine: %s: %s\n", cudaGetErrorName(error), reason.c_str());
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t report(const char* function, cudaError_t error, const char* reason) {
  std::fprintf(stderr, "ptx machine: %s: %s: %s\n", function, cudaGetErrorName(error), reason);
  return remember(error);
}

cudaError_t take_last_error() {
  const cudaError_t error = broken != cudaSuccess ? broken.load() : last_error;
  last_error = cudaSuccess;
  return error;
}

}  // namespace avid::kernels::ptx
