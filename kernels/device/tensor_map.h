// kernels/device/tensor_map.h -- a matrix in global memory of which tensor copies (TMA) fetch tiles
//
// Plain C++. On a GPU the host turns it into the driver's opaque tensor map (warpgroup_cuda.h); in the simulator it is
// the tensor map.
#pragma once

#include <cstdint>

namespace avid::kernels {

/// Rows of two-byte elements, and the tile that one copy takes, rows behind each other in shared memory. What of a tile
/// lies outside of the matrix arrives as zeros. No padding: launches are compared by the bytes of their arguments.
struct MatrixTiles {
  const void* data = nullptr;  ///< a multiple of 16
  std::uint64_t columns = 0, rows = 0;
  std::uint64_t row_bytes = 0;  ///< from a row to the next, a multiple of 16
  std::uint64_t tile_columns = 0, tile_rows = 0;
  /// 32, 64 or 128: rows of a tile have so many bytes, and their chunks of 16 bytes are exchanged as descriptors of
  /// wgmma with that swizzle expect it. 16: they are not.
  std::uint64_t swizzle_bytes = 128;

  constexpr std::uint64_t tile_bytes() const { return 2 * tile_columns * tile_rows; }
};

/// Throws GpuError, "op: name: ...", for what a device cannot copy from or to.
void check_matrix_tiles(const char* op, const char* name, const MatrixTiles& m);

}  // namespace avid::kernels
