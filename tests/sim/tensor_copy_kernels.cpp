// tests/sim/tensor_copy_kernels.cpp -- kernels of tensor_copy_test.cpp
#include "kernels/device/warpgroup.h"
#include "tests/sim/tensor_copy.h"

namespace avid::kernels {
namespace AVID_GPU {

struct TensorCopyTest {
  const test::TileAt* tiles;
  std::uint8_t* out;
  int num_tiles, stages, tile_bytes, stage_bytes;
};

// Thread 0 begins the copies, all take the tiles out. A place is used again once all said that they are done with it.
__global__ void tensor_copy_test_kernel(TensorCopyTest p, const __grid_constant__ TensorMap map) {
  SharedArena arena;
  unsigned char* stages =
      arena.take_aligned<unsigned char>(static_cast<std::size_t>(p.stages * p.stage_bytes), kTileAlignment, "stages");
  mbarrier* memory = arena.take<mbarrier>(static_cast<std::size_t>(2 * p.stages), "barriers");
  const shared_address full(memory), empty(memory + p.stages);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  if (thread == 0) {
    for (int s = 0; s < p.stages; ++s) {
      mbarrier_init(full + s * sizeof(mbarrier), 1);
      mbarrier_init(empty + s * sizeof(mbarrier), static_cast<std::uint32_t>(threads));
    }
    fence_proxy_async();
  }
  __syncthreads();
  const auto begin = [&](int i) {
    const int s = i % p.stages;
    if (i >= p.num_tiles || thread != 0) return;
    if (i >= p.stages) mbarrier_wait(empty + s * sizeof(mbarrier), static_cast<std::uint32_t>(i / p.stages - 1) & 1);
    mbarrier_arrive_and_expect(full + s * sizeof(mbarrier), static_cast<std::uint32_t>(p.tile_bytes));
    copy_tile(
        shared_address(stages + s * p.stage_bytes), map, p.tiles[i].column, p.tiles[i].row,
        full + s * sizeof(mbarrier));
  };
  for (int i = 0; i < p.stages - 1; ++i) begin(i);
  for (int i = 0; i < p.num_tiles; ++i) {
    begin(i + p.stages - 1);
    const int s = i % p.stages;
    mbarrier_wait(full + s * sizeof(mbarrier), static_cast<std::uint32_t>(i / p.stages) & 1);
    for (int at = thread; at < p.tile_bytes; at += threads)
      p.out[i * p.tile_bytes + at] = stages[s * p.stage_bytes + at];
    mbarrier_arrive(empty + s * sizeof(mbarrier));
  }
}

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {

std::vector<std::uint8_t> fetch_tiles(const kernels::MatrixTiles& m, int stages, const std::vector<TileAt>& tiles) {
  using namespace kernels;
  const int tile_bytes = static_cast<int>(m.tile_bytes()), stage_bytes = (tile_bytes + 1023) / 1024 * 1024;
  std::vector<std::uint8_t> out(tiles.size() * m.tile_bytes());
  const AVID_GPU::TensorCopyTest p{tiles.data(), out.data(), static_cast<int>(tiles.size()),
                                   stages,       tile_bytes, stage_bytes};
  const auto bytes = static_cast<std::size_t>(stages * stage_bytes) + 1024 + static_cast<std::size_t>(stages) * 16;
  AVID_GPU::launch(
      AVID_GPU::tensor_copy_test_kernel, 1, 64, bytes, Stream{}, p, AVID_GPU::tensor_map("test", "matrix", m));
  return out;
}

}  // namespace avid::test
