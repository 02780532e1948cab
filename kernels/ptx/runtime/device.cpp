// kernels/ptx/runtime/device.cpp -- what the CUDA runtime says about the device, versions and errors, on the machine
//
// One device, of compute capability 8.0 or 9.0 (settings.h). Its numbers are those that programs are bound by: shared
// memory, threads, grids. Of what only a clock would show, the number of multiprocessors is that of an A100 or H200,
// by which programs cut their work. The second-level cache is a small one: programs that measure read a few times as
// much to empty it.
#include <cuda.h>

#include <cstdio>
#include <cstring>

#include "kernels/ptx/runtime/calls.h"
#include "kernels/ptx/runtime/device_memory.h"
#include "kernels/ptx/runtime/driver_functions.h"

namespace avid::kernels::ptx {
namespace {

constexpr int kDriverVersion = CUDART_VERSION;

bool is_90() { return settings().arch == 90; }

void check_device(int device) {
  if (!settings().valid) refuse(cudaErrorNoDevice, "the environment's settings of the machine are wrong");
  if (device != 0) refuse(cudaErrorInvalidDevice, "there is one device, 0");
}

cudaDeviceProp properties() {
  cudaDeviceProp p{};
  std::snprintf(p.name, sizeof(p.name), "PTX machine (compute capability %d.%d)", settings().arch / 10, 0);
  p.major = settings().arch / 10;
  p.minor = 0;
  p.totalGlobalMem = device_bytes();
  p.sharedMemPerBlock = 48 << 10;
  p.sharedMemPerBlockOptin = static_cast<std::size_t>(is_90() ? 227 : 163) << 10;
  p.sharedMemPerMultiprocessor = static_cast<std::size_t>(is_90() ? 228 : 164) << 10;
  p.reservedSharedMemPerBlock = 1 << 10;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.memPitch = (std::size_t{1} << 31) - 1;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxBlocksPerMultiProcessor = 32;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.totalConstMem = 64 << 10;
  p.multiProcessorCount = is_90() ? 132 : 108;
  p.l2CacheSize = 32 << 10;
  p.canMapHostMemory = p.unifiedAddressing = p.memoryPoolsSupported = p.hostRegisterSupported = 1;
  p.concurrentKernels = 1;
  return p;
}

/// -1: not modelled.
int attribute_of(cudaDeviceAttr attribute) {
  const cudaDeviceProp p = properties();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: return p.major;
    case cudaDevAttrComputeCapabilityMinor: return p.minor;
    case cudaDevAttrMaxSharedMemoryPerBlock: return static_cast<int>(p.sharedMemPerBlock);
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return static_cast<int>(p.sharedMemPerBlockOptin);
    case cudaDevAttrMultiProcessorCount: return p.multiProcessorCount;
    case cudaDevAttrL2CacheSize: return p.l2CacheSize;
    case cudaDevAttrMaxThreadsPerBlock: return p.maxThreadsPerBlock;
    case cudaDevAttrWarpSize: return p.warpSize;
    default: return -1;
  }
}

void find_driver_function(const char* name, void** function, unsigned version, cudaDriverEntryPointQueryResult* found) {
  constexpr unsigned kEncodeTiledSince = 12000;
  const bool known = std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  const bool takes = known && version >= kEncodeTiledSince;
  *function = takes ? reinterpret_cast<void*>(&encode_tiled) : nullptr;
  if (found != nullptr)
    *found = takes   ? cudaDriverEntryPointSuccess
             : known ? cudaDriverEntryPointVersionNotSufficent
                     : cudaDriverEntryPointSymbolNotFound;
}

struct ErrorText {
  cudaError_t error;
  const char *name, *text;
};
#define AVID_ERROR(name, text) \
  { cudaError##name, "cudaError" #name, text }
// The errors that the machine returns, in words of its own.
constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    AVID_ERROR(InvalidValue, "a wrong argument"),
    AVID_ERROR(MemoryAllocation, "out of memory"),
    AVID_ERROR(InvalidConfiguration, "a wrong configuration of the launch"),
    AVID_ERROR(InvalidPitchValue, "a wrong pitch"),
    AVID_ERROR(InvalidMemcpyDirection, "a wrong direction of the copy"),
    AVID_ERROR(MissingConfiguration, "a kernel without its launch"),
    AVID_ERROR(InvalidDeviceFunction, "no such kernel"),
    AVID_ERROR(NoDevice, "no device"),
    AVID_ERROR(InvalidDevice, "no such device"),
    AVID_ERROR(InvalidKernelImage, "a wrong fat binary"),
    AVID_ERROR(NoKernelImageForDevice, "no code for this device"),
    AVID_ERROR(InvalidPtx, "wrong PTX"),
    AVID_ERROR(InvalidResourceHandle, "a wrong handle"),
    AVID_ERROR(IllegalState, "not in this state"),
    AVID_ERROR(NotReady, "not over yet"),
    AVID_ERROR(IllegalAddress, "memory that is not there"),
    AVID_ERROR(LaunchOutOfResources, "more resources than the kernel may have"),
    AVID_ERROR(HostMemoryAlreadyRegistered, "memory that is registered already"),
    AVID_ERROR(LaunchFailure, "a kernel failed"),
    AVID_ERROR(NotSupported, "not modelled"),
    AVID_ERROR(StreamCaptureUnsupported, "not allowed while a stream is captured"),
    AVID_ERROR(StreamCaptureInvalidated, "the capture was lost"),
    AVID_ERROR(StreamCaptureMerge, "two captures would be joined"),
    AVID_ERROR(StreamCaptureUnmatched, "the capture began in another stream"),
    AVID_ERROR(StreamCaptureUnjoined, "the capture has ends that were not joined"),
    AVID_ERROR(StreamCaptureIsolation, "the capture would depend on work outside of it"),
    AVID_ERROR(CapturedEvent, "the event belongs to a capture"),
    AVID_ERROR(StreamCaptureWrongThread, "the capture began in another thread"),
};
#undef AVID_ERROR

const ErrorText& text_of(cudaError_t error) {
  static constexpr ErrorText kOther = {
      cudaErrorUnknown, "cudaErrorUnknown", "an error that the machine does not return"};
  for (const ErrorText& one : kErrors)
    if (one.error == error) return one;
  return kOther;
}

}  // namespace
}  // namespace avid::kernels::ptx

using namespace avid::kernels::ptx;

extern "C" {

// ---- the device ----

cudaError_t CUDARTAPI cudaGetDeviceCount(int* count) {
  return call(__func__, [&] {
    if (count == nullptr) refuse(cudaErrorInvalidValue, "no place for the answer");
    *count = 0;
    check_device(0);
    *count = 1;
  });
}

cudaError_t CUDARTAPI cudaSetDevice(int device) {
  return call(__func__, [&] { check_device(device); });
}

cudaError_t CUDARTAPI cudaGetDevice(int* device) {
  return call(__func__, [&] {
    if (device == nullptr) refuse(cudaErrorInvalidValue, "no place for the answer");
    check_device(0);
    *device = 0;
  });
}

cudaError_t CUDARTAPI cudaGetDeviceProperties(cudaDeviceProp* answer, int device) {
  return call(__func__, [&] {
    if (answer == nullptr) refuse(cudaErrorInvalidValue, "no place for the answer");
    check_device(device);
    *answer = properties();
  });
}

cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return call(__func__, [&] {
    if (value == nullptr) refuse(cudaErrorInvalidValue, "no place for the answer");
    check_device(device);
    const int answer = attribute_of(attribute);
    if (answer < 0) refuse(cudaErrorNotSupported, "attribute " + std::to_string(attribute) + " is not modelled");
    *value = answer;
  });
}

cudaError_t CUDARTAPI cudaDriverGetVersion(int* version) {
  return call(__func__, [&] { *version = kDriverVersion; });
}

cudaError_t CUDARTAPI cudaRuntimeGetVersion(int* version) {
  return call(__func__, [&] { *version = CUDART_VERSION; });
}

cudaError_t CUDARTAPI cudaGetDriverEntryPointByVersion(
    const char* name, void** function, unsigned version, unsigned long long, cudaDriverEntryPointQueryResult* found) {
  return call(__func__, [&] {
    if (name == nullptr || function == nullptr) refuse(cudaErrorInvalidValue, "a null argument");
    find_driver_function(name, function, version, found);
  });
}

// ---- errors ----

cudaError_t CUDARTAPI cudaGetLastError() { return take_last_error(); }
const char* CUDARTAPI cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
const char* CUDARTAPI cudaGetErrorString(cudaError_t error) { return text_of(error).text; }

}  // extern "C"
