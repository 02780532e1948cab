// kernels/device/tensor_map.cpp -- see tensor_map.h; the driver's tensor maps in builds with CUDA
#include "kernels/device/tensor_map.h"

#include <string>

#include "kernels/device/backend.h"

#if AVID_HAVE_CUDA
#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/device/tensor_map_cuda.h"
#endif

namespace avid::kernels {
namespace {

std::string text_of(const MatrixTiles& m) {
  return std::to_string(m.rows) + " rows of " + std::to_string(m.columns) + " elements, " +
         std::to_string(m.row_bytes) + " B apart, in tiles of " + std::to_string(m.tile_rows) + "x" +
         std::to_string(m.tile_columns);
}

}  // namespace

void check_matrix_tiles(const char* op, const char* name, const MatrixTiles& m) {
  const auto refuse = [&](const char* expected) {
    throw GpuError(
        std::string(op) + ": " + name + ": tensor copies: expected " + expected + ", got " + text_of(m) +
        " | AVID_TMA=off copies without them");
  };
  constexpr std::uint64_t kMostSize = std::uint64_t{1} << 32, kMostStride = std::uint64_t{1} << 40, kMostTile = 256;
  if (m.data == nullptr || reinterpret_cast<std::uintptr_t>(m.data) % 16 != 0)
    refuse("an address that is a multiple of 16 bytes");
  if (m.columns == 0 || m.rows == 0 || m.columns > kMostSize || m.rows > kMostSize)
    refuse("1 to 2^32 rows and columns");
  if (m.row_bytes % 16 != 0 || m.row_bytes >= kMostStride || (m.rows > 1 && m.row_bytes < 2 * m.columns))
    refuse("rows a multiple of 16 bytes apart, less than 2^40, that do not overlap");
  if (m.tile_columns == 0 || m.tile_rows == 0 || m.tile_columns > kMostTile || m.tile_rows > kMostTile)
    refuse("tiles of 1 to 256 rows and columns");
  const std::uint64_t swizzle = m.swizzle_bytes;
  if (swizzle == 16 ? m.tile_columns % 8 != 0
                    : (swizzle != 32 && swizzle != 64 && swizzle != 128) || 2 * m.tile_columns != swizzle)
    refuse("rows of a tile as long as the swizzle, or without one a multiple of 16 bytes");
}

#if AVID_HAVE_CUDA
namespace cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);  // named only: the program is not linked to the driver

Encode find_encode(const char* op) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  constexpr const char* kName = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion(kName, &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(kName, &function, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess || function == nullptr) {
    cudaGetLastError();
    throw GpuError(
        std::string(op) + ": tensor copies: the driver has no cuTensorMapEncodeTiled (" + cudaGetErrorName(error) +
        ") | AVID_TMA=off copies without them, or install a driver for CUDA 12 or newer");
  }
  return reinterpret_cast<Encode>(function);
}

CUtensorMapSwizzle swizzle_of(std::uint64_t bytes) {
  return bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
         : bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
         : bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                       : CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

TensorMap tensor_map(const char* op, const char* name, const MatrixTiles& m) {
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap) && alignof(TensorMap) >= alignof(CUtensorMap));
  check_matrix_tiles(op, name, m);
  static const Encode encode = find_encode(op);  // tried again after a failure
  TensorMap map{};
  const cuuint64_t sizes[2] = {m.columns, m.rows}, strides[1] = {m.row_bytes};
  const cuuint32_t tile[2] = {static_cast<cuuint32_t>(m.tile_columns), static_cast<cuuint32_t>(m.tile_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result = encode(
      reinterpret_cast<CUtensorMap*>(&map), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(m.data), sizes,
      strides, tile, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(m.swizzle_bytes),
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw GpuError(
        std::string(op) + ": " + name + ": tensor copies: cuTensorMapEncodeTiled: error " +
        std::to_string(static_cast<int>(result)) + " for " + text_of(m) + " | AVID_TMA=off copies without them");
  return map;
}

}  // namespace cuda
#endif

}  // namespace avid::kernels
