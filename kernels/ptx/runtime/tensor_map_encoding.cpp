// kernels/ptx/runtime/tensor_map_encoding.cpp -- cuTensorMapEncodeTiled: the driver's rules, as cuda.h describes them
#include "kernels/ptx/tensor_map_encoding.h"

#include <cuda.h>

#include <cstdio>
#include <cstring>

#include "kernels/ptx/runtime/driver_functions.h"

namespace avid::kernels::ptx {
namespace {

CUresult refuse(CUresult error, const char* reason) {
  std::fprintf(stderr, "ptx machine: cuTensorMapEncodeTiled: %s\n", reason);
  return error;
}

/// 0: none of those that tiles of 16-byte chunks have.
std::uint32_t swizzle_bytes(CUtensorMapSwizzle swizzle) {
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_32B: return 32;
    case CU_TENSOR_MAP_SWIZZLE_64B: return 64;
    case CU_TENSOR_MAP_SWIZZLE_128B: return 128;
    default: return 0;
  }
}

bool has_two_bytes(CUtensorMapDataType type) {
  return type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 ||
         type == CU_TENSOR_MAP_DATA_TYPE_UINT16;
}

}  // namespace

CUresult CUDAAPI encode_tiled(
    CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address, const cuuint64_t* sizes,
    const cuuint64_t* strides, const cuuint32_t* tile, const cuuint32_t* steps, CUtensorMapInterleave interleave,
    CUtensorMapSwizzle swizzle, CUtensorMapL2promotion l2_promotion, CUtensorMapFloatOOBfill fill) {
  constexpr cuuint64_t kMostSize = cuuint64_t{1} << 32, kStrideEnd = cuuint64_t{1} << 40;
  if (rank == 2 && has_two_bytes(type) && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
      fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE && swizzle <= CU_TENSOR_MAP_SWIZZLE_128B) {
    if (map == nullptr || sizes == nullptr || strides == nullptr || tile == nullptr || steps == nullptr)
      return refuse(CUDA_ERROR_INVALID_VALUE, "a null argument");
    if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0)
      return refuse(CUDA_ERROR_INVALID_VALUE, "the map's address is no multiple of 64");
    if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0)
      return refuse(CUDA_ERROR_INVALID_VALUE, "the matrix's address is no multiple of 16");
    for (int i = 0; i < 2; ++i) {
      if (sizes[i] == 0 || sizes[i] > kMostSize) return refuse(CUDA_ERROR_INVALID_VALUE, "a size is not 1 to 2^32");
      if (tile[i] == 0 || tile[i] > 256) return refuse(CUDA_ERROR_INVALID_VALUE, "a tile's side is not 1 to 256");
      if (steps[i] == 0 || steps[i] > 8) return refuse(CUDA_ERROR_INVALID_VALUE, "an element stride is not 1 to 8");
    }
    if (strides[0] % 16 != 0 || strides[0] >= kStrideEnd)
      return refuse(CUDA_ERROR_INVALID_VALUE, "a row's stride is no multiple of 16 below 2^40");
    if (strides[0] < 2 * sizes[0]) return refuse(CUDA_ERROR_INVALID_VALUE, "rows overlap");
    if (2 * tile[0] % 16 != 0) return refuse(CUDA_ERROR_INVALID_VALUE, "a tile's row is no multiple of 16 bytes");
    const std::uint32_t span = swizzle_bytes(swizzle);
    if (span != 0 && 2 * tile[0] > span)
      return refuse(CUDA_ERROR_INVALID_VALUE, "a tile's row is longer than the swizzle");
    if (l2_promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B)
      return refuse(CUDA_ERROR_INVALID_VALUE, "no L2 promotion has this number");
    if (steps[1] == 1) {
      const EncodedTensorMap encoded{
          .address = reinterpret_cast<std::uint64_t>(address),
          .columns = sizes[0],
          .rows = sizes[1],
          .row_bytes = strides[0],
          .element_bytes = 2,
          .tile_columns = tile[0],
          .tile_rows = tile[1],
          .swizzle_bytes = span};
      std::memset(map, 0, sizeof(*map));
      std::memcpy(map, &encoded, sizeof(encoded));
      return CUDA_SUCCESS;
    }
  }
  return refuse(CUDA_ERROR_NOT_SUPPORTED, "only tiles of matrices of two-byte elements are modelled");
}

}  // namespace avid::kernels::ptx
