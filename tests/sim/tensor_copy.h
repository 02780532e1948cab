// tests/sim/tensor_copy.h -- a block that fetches tiles of a matrix by tensor copies
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device/tensor_map.h"

namespace avid::test {

/// Where a tile begins.
struct TileAt {
  int column, row;
};

/// Fetches one tile after the other into `stages` places of shared memory in turn, as many under way at a time, and
/// returns what lay there, tile_bytes() each, as shared memory had it.
std::vector<std::uint8_t> fetch_tiles(const kernels::MatrixTiles& m, int stages, const std::vector<TileAt>& tiles);

}  // namespace avid::test
