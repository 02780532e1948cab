// kernels/sim/block_work.h -- what a block asks of a device, counted while the simulator runs it
//
// Only in builds with race hooks; without them accesses of plain loads and stores are not seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace avid::kernels::simulator {

struct BlockWork {
  /// Multiply-adds of tensor-core instructions as issued, padding included: of a warp, bf16; of a warp, TF32; of a
  /// warpgroup.
  std::uint64_t mma = 0, tf32 = 0, wgmma = 0;
  std::uint64_t mma_instructions = 0;  ///< of warps
  std::uint64_t passes = 0;            ///< through the banks of shared memory, 128 bytes each at most
  std::uint64_t loads = 0;             ///< of warps, from global memory into registers
  std::uint64_t copies = 0;            ///< cp.async of warps
  std::uint64_t accesses = 0;          ///< of threads, to both memories: how long the simulator took
  std::uint64_t static_shared_bytes = 0;

  /// Addresses at which pieces of device memory begin, ascending, or null: a workspace holds many.
  const std::vector<std::uintptr_t>* pieces = nullptr;

  /// Sectors of 32 bytes that go to the second-level cache, by the block of device memory that they lie in, or the
  /// piece of it. Loads that the first level would answer are not in it, nor other memory than the device's: tables
  /// that the compiler laid out, which are constant memory on a GPU.
  struct Sectors {
    std::uint64_t bytes_of_block = 0, read = 0, written = 0;
    std::uint64_t num_blocks = 0;  ///< of the launch, that touched it
  };
  std::map<const std::byte*, Sectors> memory;
};

}  // namespace avid::kernels::simulator
