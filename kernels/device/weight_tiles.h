// kernels/device/weight_tiles.h -- weights of a gathered product by tensor copies (TMA), where they are plain tiles
//
// A step of the kernels on wgmma takes 64 elements of the inner dimension, for BN rows of weights. Where the inner
// dimension, in the order in which the kernel walks it, lies in one run in every row of the weights, such a step is a
// tile of a matrix of num_weight_rows rows: one thread asks for it, and what lies past the rows or columns is zero.
#pragma once

#include "kernels/device/warpgroup.h"
#include "kernels/device/weight_runs.h"
#include "kernels/device/wgmma_switch.h"

namespace avid::kernels::AVID_GPU {

/// Argument of a kernel, as `const __grid_constant__ WeightTiles`.
struct WeightTiles {
  TensorMap map;
  std::uint64_t used;  ///< 0: there is no map, the threads copy the weights
};

/// Steps of the weights of p, tiles of kTileRowBytes by BN rows, if they are in a run and tensor copies are allowed.
/// Throws GpuError where the driver refuses them.
inline WeightTiles weight_tiles(const GatherGemm<BFloat16>& p, bool in_a_run, int BN) {
  if (!in_a_run || !tma_allowed() || p.num_weight_rows == 0 || inner_chunks_of(p) == 0) return {};
  MatrixTiles m;
  m.data = p.weights + std::int64_t{p.weight_source[0]} * kChunk<BFloat16>;
  m.columns = static_cast<std::uint64_t>(inner_chunks_of(p)) * kChunk<BFloat16>;
  m.rows = static_cast<std::uint64_t>(p.num_weight_rows);
  m.row_bytes = std::uint64_t{p.weight_row} * 16;
  m.tile_columns = kTileRowBytes / sizeof(BFloat16);
  m.tile_rows = static_cast<std::uint64_t>(BN);
  m.swizzle_bytes = kTileRowBytes;
  return {tensor_map("gather_gemm", "weights", m), 1};
}

}  // namespace avid::kernels::AVID_GPU
