// kernels/device/tensor_map_cuda.h -- the driver's tensor map, as an argument of kernels (TMA)
#pragma once

#include "kernels/device/tensor_map.h"

namespace avid::kernels::cuda {

/// What cuTensorMapEncodeTiled writes; opaque. Kernels take it as `const __grid_constant__ TensorMap`, so that it lies
/// in constant memory, where the copies' unit reads it.
struct alignas(128) TensorMap {
  unsigned char opaque[128];
};

/// Throws GpuError, "op: name: ...", one line. Host code alone, allowed while a stream is captured.
TensorMap tensor_map(const char* op, const char* name, const MatrixTiles& m);

}  // namespace avid::kernels::cuda
