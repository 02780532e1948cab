// kernels/ptx/runtime/calls.h -- how the machine's functions of the CUDA runtime begin and end
//
//   cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
//     return call("cudaStreamSynchronize", [&] { ... refuse(cudaErrorInvalidResourceHandle, "..."); ... });
//   }
// What a function refuses is an error for its caller, as of CUDA's runtime, and one line on stderr that says why. A
// kernel that fails breaks the device: from then on every call that needs it returns the same error, as on a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>
#include <string>
#include <utility>

#include "kernels/ptx/runtime/settings.h"

namespace avid::kernels::ptx {

/// Ends a call with an error.
struct Refusal {
  cudaError_t error;
  std::string reason;
};
[[noreturn]] inline void refuse(cudaError_t error, std::string reason) { throw Refusal{error, std::move(reason)}; }

/// One call runs at a time, its work with it.
std::recursive_mutex& call_mutex();

/// What broke the device; cudaSuccess while it works.
cudaError_t device_error();
/// The device is broken from here on. One line on stderr.
void break_device(cudaError_t error, const std::string& reason);

/// Remembers the error for cudaGetLastError, prints the reason.
cudaError_t report(const char* function, cudaError_t error, const char* reason);
/// The same without words. cudaSuccess is not remembered.
cudaError_t remember(cudaError_t error);
/// cudaGetLastError of this thread.
cudaError_t take_last_error();

/// A function that waits for the device, or does not use it: returns what the call itself refused, or what broke the
/// device before or meanwhile.
template <class F>
cudaError_t call(const char* function, F&& body) {
  const std::lock_guard lock(call_mutex());
  if (const cudaError_t broken = device_error(); broken != cudaSuccess) return remember(broken);
  try {
    body();
  } catch (const Refusal& refusal) {
    return report(function, refusal.error, refusal.reason.c_str());
  }
  return remember(device_error());
}

/// A function that queues work and returns at once: what the work itself does wrong is the error of a later call, but
/// with CUDA_LAUNCH_BLOCKING.
template <class F>
cudaError_t queueing_call(const char* function, F&& body) {
  const std::lock_guard lock(call_mutex());
  const bool worked = device_error() == cudaSuccess;
  const cudaError_t error = call(function, body);
  return worked && error == device_error() && !settings().launch_blocking ? cudaSuccess : error;
}

}  // namespace avid::kernels::ptx
