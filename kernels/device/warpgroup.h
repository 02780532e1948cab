// kernels/device/warpgroup.h -- what sm_90a adds to the device language: products of four warps, and mbarriers
//
// Beside gpu.h, for kernels of devices of compute capability 9.0. A product (wgmma) reads its operands from
// shared memory, the left one from registers if asked to, and runs behind the program; docs/simulator.md tells the
// order of fences and waits. In a build for another architecture these functions stop the kernel: hosts must ask
// device_arch() and kHaveSm90a first.
//
//   device_arch()                                 host: 80, 90 ...: compute capability of the current device
//   kHaveSm90a                                    was this file compiled for sm_90a (always true in the simulator)
//   mbarrier; mbarrier_init(at, arrivals), _arrive(at), _wait(at, parity)      `at` is a shared_address
//   mbarrier_arrive_and_expect(at, bytes)         an arrival, and so many bytes of tensor copies begun after it
//   TensorMap; tensor_map(op, name, tiles)        host: a matrix and its tiles, an argument `const __grid_constant__`
//   copy_tile(to, map, column, row, at)           one thread: begins a tensor copy (TMA), whose bytes count at `at`
//   fence_proxy_async()                           this thread's writes to shared memory, and mbarriers that it
//                                                 initialised, come before what wgmma and tensor copies do
//   swizzled_chunk(row, chunk), swizzled_tile(at) a tile of rows of 128 bytes as wgmma wants it, and its descriptor
//   plain_tile(at, group_bytes)                   the descriptor of a tile of 16-byte chunks, 8 rows after 8 rows
//   wgmma_bf16<N>(d, a, b)                        d[64][N] += a[64][16] b[N][16]^T, begun; d is N/2 registers
//   wgmma_bf16_first<N>(d, a, b)                  d[64][N] = a[64][16] b[N][16]^T, begun, whatever d held
//   transposed_plain_tile(at, bytes)              the descriptor of a tile whose 16-byte chunks run across the rows
//   wgmma_bf16_transposed<N>(d, a, b)             d[64][N] += a[16][64]^T b[16][N], begun
//   wgmma_bf16_fragment<N>(d, a, b)               d[64][N] += a[64][16] b[16][N], begun; a is a fragment as of mma, of
//                                                 each warp's 16 rows, b a transposed tile. Before each: wgmma_fence()
//   wgmma_fence(), wgmma_commit(), wgmma_wait<K>(), wgmma_settle(d), wgmma_settle(a)
//   fewer_registers<N>(), more_registers<N>()     a warpgroup gives registers back, or takes them
#pragma once

#include "kernels/device/gpu.h"

#if defined(__CUDACC__)
#include "kernels/device/warpgroup_cuda.h"
#else
#include "kernels/device/warpgroup_sim.h"
#endif

namespace avid::kernels::AVID_GPU {

/// A barrier in shared memory; opaque. Its address must be a multiple of 8.
struct alignas(8) mbarrier {
  std::uint64_t state;
};

inline constexpr int kTileRowBytes = 128;    // of a tile: 64 bf16
inline constexpr int kTileAlignment = 1024;  // 8 rows: the pattern repeats, and follows the bits of the address

/// Byte of 16-byte chunk c (0..7) of row r in a tile: eight rows' equal chunks fall into all 32 banks.
AVID_DEVICE constexpr int swizzled_chunk(int r, int c) { return r * kTileRowBytes + ((c ^ (r & 7)) << 4); }

/// The matrix descriptor of a tile (K runs along its rows): swizzle of 128 bytes, 1024 bytes from 8 rows to the next.
/// Adding kDescriptorStep takes the next 16 columns; adding b/16 moves it by b bytes.
AVID_DEVICE std::uint64_t swizzled_tile(shared_address at) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62, kStride = std::uint64_t{kTileAlignment / 16} << 32;
  return (at.bytes & 0x3ffff) >> 4 | kStride | kSwizzle128;
}
inline constexpr int kDescriptorStep = 2;

/// The descriptor of a tile without swizzle: 8 rows of one 16-byte chunk lie in 128 bytes, the next 8 rows begin
/// `group_bytes` behind them. To be added: the distance from a chunk to the next, in 16 bytes, << kLeadingShift; and
/// b/16 to move it by b bytes.
AVID_DEVICE std::uint64_t plain_tile(shared_address at, int group_bytes) {
  return (at.bytes & 0x3ffff) >> 4 | static_cast<std::uint64_t>(group_bytes / 16) << 32;
}
inline constexpr int kLeadingShift = 16;

/// The descriptor of a tile that holds the transposed operand, without swizzle: planes of one chunk of eight rows each,
/// `plane_bytes` apart; in a plane the inner dimension runs in steps of 16 bytes, so that a product reads 16 of them in
/// a row. Adding i takes the inner dimension from step i on; adding b/16 moves the tile by b bytes.
AVID_DEVICE std::uint64_t transposed_plain_tile(shared_address at, int plane_bytes) {
  constexpr std::uint64_t kEightSteps = std::uint64_t{128 / 16} << kLeadingShift;
  return (at.bytes & 0x3ffff) >> 4 | kEightSteps | static_cast<std::uint64_t>(plane_bytes / 16) << 32;
}

}  // namespace avid::kernels::AVID_GPU
