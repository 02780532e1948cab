// kernels/ptx/runtime/driver_functions.h -- functions of the driver that a program asks the runtime for
#pragma once

#include <cuda.h>

namespace avid::kernels::ptx {

/// cuTensorMapEncodeTiled (tensor_map_encoding.h). What it refuses is one line on stderr.
CUresult CUDAAPI encode_tiled(
    CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* sizes,
    const cuuint64_t* strides, const cuuint32_t* tile, const cuuint32_t* steps, CUtensorMapInterleave interleave,
    CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2_promotion, CUtensorMapFloatOOBfill fill);

}  // namespace avid::kernels::ptx
