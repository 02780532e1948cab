// kernels/device/warpgroup_cuda.h -- warpgroup.h on a GPU; compiled by nvcc only
#pragma once

#include <string>

#include "kernels/device/gpu_cuda.h"
#include "kernels/device/tensor_map_cuda.h"

namespace avid::kernels::cuda {

/// The build says so to the host's half of the compiler, which cannot know.
#if defined(AVID_SM90A)
inline constexpr bool kHaveSm90a = true;
#else
inline constexpr bool kHaveSm90a = false;
#endif

/// Compute capability of the current device: 80, 90 ... Throws GpuError when it does not answer.
inline int device_arch() {
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    throw GpuError(std::string("cuda: the device does not answer: ") + cudaGetErrorString(cudaGetLastError()));
  return 10 * major + minor;
}

// Elsewhere than on sm_90a nothing of this exists, and no host launches it.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define AVID_SM90A_ONLY(...) asm volatile(__VA_ARGS__)
#else
#define AVID_SM90A_ONLY(...) __trap()
#endif

AVID_DEVICE void mbarrier_init(shared_address at, std::uint32_t arrivals) {
  AVID_SM90A_ONLY("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at.bytes), "r"(arrivals) : "memory");
}
AVID_DEVICE void mbarrier_arrive(shared_address at) {
  AVID_SM90A_ONLY("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at.bytes) : "memory");
}
/// An arrival that announces `bytes` which tensor copies begun after it will bring: the phase waits for them too.
AVID_DEVICE void mbarrier_arrive_and_expect(shared_address at, std::uint32_t bytes) {
  AVID_SM90A_ONLY("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at.bytes), "r"(bytes) : "memory");
}
/// Until the phase of this parity is complete (the first phase has parity 0). After three seconds, which no load or
/// product takes, the kernel stops with a trap: a pipeline that waits for itself is an error and not a GPU that hangs.
/// Only after many looks at the barrier, so that a device that was stopped for as long (a debugger) goes on.
AVID_DEVICE void mbarrier_wait(shared_address at, std::uint32_t parity) {
  AVID_SM90A_ONLY(
      "{\n.reg .pred complete, late;\n.reg .u32 begun, now, looks;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1;\n@complete bra done;\n"
      "mov.u32 begun, %%globaltimer_lo;\nmov.u32 looks, 0;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1;\n@complete bra done;\n"
      "add.u32 looks, looks, 1;\nmov.u32 now, %%globaltimer_lo;\nsub.u32 now, now, begun;\n"
      "setp.gt.u32 late, now, 3000000000;\nsetp.gt.and.u32 late, looks, 64, late;\n"
      "@!late bra again;\ntrap;\ndone:\n}" ::"r"(at.bytes),
      "r"(parity)
      : "memory");
}
/// Begins to copy the tile whose first element is (column, row) to shared memory at `to`, a multiple of 1024 with a
/// swizzle of 128 bytes; zeros where it lies outside of the matrix. Its bytes count at the mbarrier `at`.
AVID_DEVICE void copy_tile(shared_address to, const TensorMap& map, int column, int row, shared_address at) {
  AVID_SM90A_ONLY(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(to.bytes),
      "l"(&map), "r"(at.bytes), "r"(column), "r"(row)
      : "memory");
}
AVID_DEVICE void fence_proxy_async() { AVID_SM90A_ONLY("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Before the first product, and after the program used registers that the next products accumulate in.
AVID_DEVICE void wgmma_fence() { AVID_SM90A_ONLY("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Closes the group of products begun since the last commit.
AVID_DEVICE void wgmma_commit() { AVID_SM90A_ONLY("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most K of the warpgroup's groups are under way.
template <int K>
AVID_DEVICE void wgmma_wait() {
  AVID_SM90A_ONLY("wgmma.wait_group.sync.aligned %0;" ::"n"(K) : "memory");
}
/// Behind the wait: keeps the compiler from using the results before it.
template <int R>
AVID_DEVICE void wgmma_settle(float (&d)[R]) {
#pragma unroll
  for (int i = 0; i < R; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
/// Behind the wait: until then a product's fragment stays where it is.
template <int R>
AVID_DEVICE void wgmma_settle(std::uint32_t (&a)[R]) {
#pragma unroll
  for (int i = 0; i < R; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

template <int N>
AVID_DEVICE void fewer_registers() {
  AVID_SM90A_ONLY("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
AVID_DEVICE void more_registers() {
  AVID_SM90A_ONLY("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// ---- wgmma: one instruction names all its accumulator registers ----

// AVID_NAMES_k: the places of the first 4 k registers in the instruction's text. AVID_SUMS_k: the registers.
#define AVID_SUMS_AT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define AVID_NAMES_1 "%0,%1,%2,%3"
#define AVID_NAMES_2 AVID_NAMES_1 ",%4,%5,%6,%7"
#define AVID_NAMES_3 AVID_NAMES_2 ",%8,%9,%10,%11"
#define AVID_NAMES_4 AVID_NAMES_3 ",%12,%13,%14,%15"
#define AVID_NAMES_5 AVID_NAMES_4 ",%16,%17,%18,%19"
#define AVID_NAMES_6 AVID_NAMES_5 ",%20,%21,%22,%23"
#define AVID_NAMES_7 AVID_NAMES_6 ",%24,%25,%26,%27"
#define AVID_NAMES_8 AVID_NAMES_7 ",%28,%29,%30,%31"
#define AVID_NAMES_9 AVID_NAMES_8 ",%32,%33,%34,%35"
#define AVID_NAMES_10 AVID_NAMES_9 ",%36,%37,%38,%39"
#define AVID_NAMES_11 AVID_NAMES_10 ",%40,%41,%42,%43"
#define AVID_NAMES_12 AVID_NAMES_11 ",%44,%45,%46,%47"
#define AVID_NAMES_13 AVID_NAMES_12 ",%48,%49,%50,%51"
#define AVID_NAMES_14 AVID_NAMES_13 ",%52,%53,%54,%55"
#define AVID_NAMES_15 AVID_NAMES_14 ",%56,%57,%58,%59"
#define AVID_NAMES_16 AVID_NAMES_15 ",%60,%61,%62,%63"
#define AVID_NAMES_17 AVID_NAMES_16 ",%64,%65,%66,%67"
#define AVID_NAMES_18 AVID_NAMES_17 ",%68,%69,%70,%71"
#define AVID_NAMES_19 AVID_NAMES_18 ",%72,%73,%74,%75"
#define AVID_NAMES_20 AVID_NAMES_19 ",%76,%77,%78,%79"
#define AVID_NAMES_21 AVID_NAMES_20 ",%80,%81,%82,%83"
#define AVID_NAMES_22 AVID_NAMES_21 ",%84,%85,%86,%87"
#define AVID_NAMES_23 AVID_NAMES_22 ",%88,%89,%90,%91"
#define AVID_NAMES_24 AVID_NAMES_23 ",%92,%93,%94,%95"
#define AVID_NAMES_25 AVID_NAMES_24 ",%96,%97,%98,%99"
#define AVID_NAMES_26 AVID_NAMES_25 ",%100,%101,%102,%103"
#define AVID_SUMS_1 AVID_SUMS_AT(0)
#define AVID_SUMS_2 AVID_SUMS_1, AVID_SUMS_AT(4)
#define AVID_SUMS_3 AVID_SUMS_2, AVID_SUMS_AT(8)
#define AVID_SUMS_4 AVID_SUMS_3, AVID_SUMS_AT(12)
#define AVID_SUMS_5 AVID_SUMS_4, AVID_SUMS_AT(16)
#define AVID_SUMS_6 AVID_SUMS_5, AVID_SUMS_AT(20)
#define AVID_SUMS_7 AVID_SUMS_6, AVID_SUMS_AT(24)
#define AVID_SUMS_8 AVID_SUMS_7, AVID_SUMS_AT(28)
#define AVID_SUMS_9 AVID_SUMS_8, AVID_SUMS_AT(32)
#define AVID_SUMS_10 AVID_SUMS_9, AVID_SUMS_AT(36)
#define AVID_SUMS_11 AVID_SUMS_10, AVID_SUMS_AT(40)
#define AVID_SUMS_12 AVID_SUMS_11, AVID_SUMS_AT(44)
#define AVID_SUMS_13 AVID_SUMS_12, AVID_SUMS_AT(48)
#define AVID_SUMS_14 AVID_SUMS_13, AVID_SUMS_AT(52)
#define AVID_SUMS_15 AVID_SUMS_14, AVID_SUMS_AT(56)
#define AVID_SUMS_16 AVID_SUMS_15, AVID_SUMS_AT(60)
#define AVID_SUMS_17 AVID_SUMS_16, AVID_SUMS_AT(64)
#define AVID_SUMS_18 AVID_SUMS_17, AVID_SUMS_AT(68)
#define AVID_SUMS_19 AVID_SUMS_18, AVID_SUMS_AT(72)
#define AVID_SUMS_20 AVID_SUMS_19, AVID_SUMS_AT(76)
#define AVID_SUMS_21 AVID_SUMS_20, AVID_SUMS_AT(80)
#define AVID_SUMS_22 AVID_SUMS_21, AVID_SUMS_AT(84)
#define AVID_SUMS_23 AVID_SUMS_22, AVID_SUMS_AT(88)
#define AVID_SUMS_24 AVID_SUMS_23, AVID_SUMS_AT(92)
#define AVID_SUMS_25 AVID_SUMS_24, AVID_SUMS_AT(96)
#define AVID_SUMS_26 AVID_SUMS_25, AVID_SUMS_AT(100)

/// n columns, k = n/8; a and b are the places of the descriptors, behind the registers; add = 0: what the registers
/// held does not count; t = 1: transposed operands.
#define AVID_WGMMA(n, k, a, b, add, t)                                                        \
  if constexpr (N == n)                                                                       \
  AVID_SM90A_ONLY("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" AVID_NAMES_##k \
                  "}, %" #a ", %" #b ", " #add ", 1, 1, " #t ", " #t ";"                      \
                  : AVID_SUMS_##k                                                             \
                  : "l"(desc_a), "l"(desc_b))

/// With A in registers, whose places a0 to a3 are; b: transposed.
#define AVID_WGMMA_FRAGMENT(n, k, a0, a1, a2, a3, b)                                          \
  if constexpr (N == n)                                                                       \
  AVID_SM90A_ONLY("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" AVID_NAMES_##k \
                  "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b ", 1, 1, 1, 1;"         \
                  : AVID_SUMS_##k                                                             \
                  : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc_b))

/// Begins d += a b^T on the warpgroup, of the columns that some tile has. The registers d are not to be touched until a
/// wait covers this product.
template <int N>
AVID_DEVICE void wgmma_bf16(float (&d)[N / 2], std::uint64_t desc_a, std::uint64_t desc_b) {
  static_assert(
      N == 8 || N == 32 || N == 56 || N == 64 || N == 96 || N == 104 || N == 112 || N == 128 || N == 160 || N == 184 ||
          N == 200,
      "add a line below");
  AVID_WGMMA(8, 1, 4, 5, 1, 0);
  AVID_WGMMA(32, 4, 16, 17, 1, 0);
  AVID_WGMMA(56, 7, 28, 29, 1, 0);
  AVID_WGMMA(64, 8, 32, 33, 1, 0);
  AVID_WGMMA(96, 12, 48, 49, 1, 0);
  AVID_WGMMA(104, 13, 52, 53, 1, 0);
  AVID_WGMMA(112, 14, 56, 57, 1, 0);
  AVID_WGMMA(128, 16, 64, 65, 1, 0);
  AVID_WGMMA(160, 20, 80, 81, 1, 0);
  AVID_WGMMA(184, 23, 92, 93, 1, 0);
  AVID_WGMMA(200, 25, 100, 101, 1, 0);
}

/// Begins d = a b^T on the warpgroup, likewise: the first product of a sum. To the compiler it reads d all the same: so
/// one sum after another stays in the same registers, where it would else move what is left of the one before.
template <int N>
AVID_DEVICE void wgmma_bf16_first(float (&d)[N / 2], std::uint64_t desc_a, std::uint64_t desc_b) {
  static_assert(
      N == 8 || N == 32 || N == 56 || N == 64 || N == 96 || N == 104 || N == 112 || N == 128, "add a line below");
  AVID_WGMMA(8, 1, 4, 5, 0, 0);
  AVID_WGMMA(32, 4, 16, 17, 0, 0);
  AVID_WGMMA(56, 7, 28, 29, 0, 0);
  AVID_WGMMA(64, 8, 32, 33, 0, 0);
  AVID_WGMMA(96, 12, 48, 49, 0, 0);
  AVID_WGMMA(104, 13, 52, 53, 0, 0);
  AVID_WGMMA(112, 14, 56, 57, 0, 0);
  AVID_WGMMA(128, 16, 64, 65, 0, 0);
}

/// Begins d += a^T b on the warpgroup, likewise.
template <int N>
AVID_DEVICE void wgmma_bf16_transposed(float (&d)[N / 2], std::uint64_t desc_a, std::uint64_t desc_b) {
  static_assert(
      N == 56 || N == 96 || N == 104 || N == 128 || N == 160 || N == 184 || N == 200 || N == 208, "add a line below");
  AVID_WGMMA(56, 7, 28, 29, 1, 1);
  AVID_WGMMA(96, 12, 48, 49, 1, 1);
  AVID_WGMMA(104, 13, 52, 53, 1, 1);
  AVID_WGMMA(128, 16, 64, 65, 1, 1);
  AVID_WGMMA(160, 20, 80, 81, 1, 1);
  AVID_WGMMA(184, 23, 92, 93, 1, 1);
  AVID_WGMMA(200, 25, 100, 101, 1, 1);
  AVID_WGMMA(208, 26, 104, 105, 1, 1);
}

/// Begins d += a b on the warpgroup, likewise, with a in registers, as mma has it, and a transposed tile. The registers
/// a, too, are not to be touched until a wait covers this product, and a fence comes behind what wrote them.
template <int N>
AVID_DEVICE void wgmma_bf16_fragment(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t desc_b) {
  static_assert(N == 8 || N == 32 || N == 56 || N == 96 || N == 104 || N == 184 || N == 200, "add a line below");
  AVID_WGMMA_FRAGMENT(8, 1, 4, 5, 6, 7, 8);
  AVID_WGMMA_FRAGMENT(32, 4, 16, 17, 18, 19, 20);
  AVID_WGMMA_FRAGMENT(56, 7, 28, 29, 30, 31, 32);
  AVID_WGMMA_FRAGMENT(96, 12, 48, 49, 50, 51, 52);
  AVID_WGMMA_FRAGMENT(104, 13, 52, 53, 54, 55, 56);
  AVID_WGMMA_FRAGMENT(184, 23, 92, 93, 94, 95, 96);
  AVID_WGMMA_FRAGMENT(200, 25, 100, 101, 102, 103, 104);
}

}  // namespace avid::kernels::cuda
