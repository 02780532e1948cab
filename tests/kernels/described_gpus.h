// tests/kernels/described_gpus.h -- GPUs as cuDNN describes them, for plans where there is none
#pragma once

#include <cstdio>
#include <string>

#include "kernels/vendor/route.h"

namespace avid::test {

/// What cuDNN asks of a device, with the numbers of an H100 (SXM) or an A100 (SXM, 80 GB).
inline std::string described_gpu(bool h100) {
  const std::string own =
      h100 ? R"("deviceVer":900,"multiProcessorCount":132,"smClockRateKHz":1980000,"memClockRateKHz":2619000,
    "deviceName":"NVIDIA H100 80GB HBM3","l2CacheSize":52428800,"maxSharedMemoryPerBlockOptin":232448,
    "pciDeviceId":9009,)"
           : R"("deviceVer":800,"multiProcessorCount":108,"smClockRateKHz":1410000,"memClockRateKHz":1593000,
    "deviceName":"NVIDIA A100-SXM4-80GB","l2CacheSize":41943040,"maxSharedMemoryPerBlockOptin":166912,
    "pciDeviceId":8370,)";
  return "{" + own + R"("maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerSM":2048,
    "maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"driverVer":13000,"runtimeVer":13000,
    "warpSize":32,"cudaDeviceId":0,"isTccDriver":0,"maxSharedMemoryPerBlock":49152,"maxThreadsPerBlock":1024,
    "regsPerBlock":65536,"reservedSharedMemoryPerBlock":1024,"supportCoopLaunch":1,"totalGlobalMem":85899345920})";
}

/// Whether plan() finds a cuDNN to ask; says that a test is skipped where not.
template <class Plan>
bool cudnn_answers(Plan&& plan) {
  try {
    plan();
    return true;
  } catch (const kernels::vendor::LibraryError& error) {
    const std::string text = error.what();
    if (text.find("cannot be loaded") == std::string::npos && text.find("lacks cuDNN") == std::string::npos &&
        text.find("newer") == std::string::npos)
      throw;
    std::printf("skipped: no cuDNN: %s\n", error.what());
    return false;
  }
}

}  // namespace avid::test
