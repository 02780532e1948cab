// kernels/device/warpgroup_sim.h -- warpgroup.h in the simulator
#pragma once

#include "kernels/device/gpu_sim.h"
#include "kernels/sim/warpgroup.h"

namespace avid::kernels::sim {

inline constexpr bool kHaveSm90a = true;
inline int device_arch() { return simulator::options().arch; }

inline void mbarrier_init(shared_address at, std::uint32_t arrivals, AVID_SITE) {
  simulator::mbarrier_init(at.bytes, arrivals, site);
}
inline void mbarrier_arrive(shared_address at, AVID_SITE) { simulator::mbarrier_arrive(at.bytes, 0, site); }
/// An arrival that announces `bytes` which tensor copies begun after it will bring: the phase waits for them too.
inline void mbarrier_arrive_and_expect(shared_address at, std::uint32_t bytes, AVID_SITE) {
  simulator::mbarrier_arrive(at.bytes, bytes, site);
}
/// Until the phase of this parity is complete (the first phase has parity 0).
inline void mbarrier_wait(shared_address at, std::uint32_t parity, AVID_SITE) {
  simulator::mbarrier_wait(at.bytes, parity, site);
}
inline void fence_proxy_async(AVID_SITE) { simulator::fence_proxy_async(site); }

using TensorMap = MatrixTiles;
inline TensorMap tensor_map(const char* op, const char* name, const MatrixTiles& m) {
  check_matrix_tiles(op, name, m);
  return m;
}
/// Begins to copy the tile whose first element is (column, row) to shared memory at `to`, a multiple of 1024 with a
/// swizzle of 128 bytes; zeros where it lies outside of the matrix. Its bytes count at the mbarrier `at`.
inline void copy_tile(shared_address to, const TensorMap& map, int column, int row, shared_address at, AVID_SITE) {
  simulator::copy_tile(to.bytes, map, column, row, at.bytes, site);
}

/// Begins d += a b^T on the warpgroup. The registers d are taken away until a wait covers this product.
template <int N>
void wgmma_bf16(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, AVID_SITE) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  simulator::WgmmaOperands x{d, a, b, N, true, false, site};
  simulator::warp_collective(simulator::wgmma_issue, ~0u, &x, site);
}
/// Begins d = a b^T on the warpgroup, likewise: the first product of a sum.
template <int N>
void wgmma_bf16_first(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, AVID_SITE) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  simulator::WgmmaOperands x{d, a, b, N, false, false, site};
  simulator::warp_collective(simulator::wgmma_issue, ~0u, &x, site);
}
/// Begins d += a^T b on the warpgroup, likewise.
template <int N>
void wgmma_bf16_transposed(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, AVID_SITE) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  simulator::WgmmaOperands x{d, a, b, N, true, true, site};
  simulator::warp_collective(simulator::wgmma_issue, ~0u, &x, site);
}
/// Begins d += a b on the warpgroup, likewise, with a in registers, as mma has it, and a transposed tile. The registers
/// a, too, are not to be touched until a wait covers this product, and a fence comes behind what wrote them.
template <int N>
void wgmma_bf16_fragment(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t b, AVID_SITE) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256);
  simulator::WgmmaOperands x{d, 0, b, N, true, true, site, a};
  simulator::warp_collective(simulator::wgmma_issue, ~0u, &x, site);
}
/// Before the first product, and after the program used registers that the next products accumulate in.
inline void wgmma_fence(AVID_SITE) { simulator::warp_collective(simulator::wgmma_fence, ~0u, nullptr, site); }
/// Closes the group of products begun since the last commit.
inline void wgmma_commit(AVID_SITE) { simulator::warp_collective(simulator::wgmma_commit, ~0u, nullptr, site); }
/// Waits until at most K of the warpgroup's groups are under way.
template <int K>
void wgmma_wait(AVID_SITE) {
  simulator::WgmmaWait x{K, site};
  simulator::warp_collective(simulator::wgmma_wait, ~0u, &x, site);
}
/// Behind the wait: keeps the compiler from using the results before it.
template <int R>
AVID_DEVICE void wgmma_settle(float (&)[R]) {}
template <int R>
AVID_DEVICE void wgmma_settle(std::uint32_t (&)[R]) {}

/// Registers are not counted here.
template <int N>
AVID_DEVICE void fewer_registers() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256);
}
template <int N>
AVID_DEVICE void more_registers() {
  static_assert(N % 8 == 0 && N >= 24 && N <= 256);
}

}  // namespace avid::kernels::sim
