// kernels/device/gpu_sim.h -- the device language in the simulator (see gpu.h); plain C++, no CUDA header
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>

#include "kernels/sim/simulator.h"
#include "kernels/sim/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __constant__ static
#define __shared__ AVID_ERROR_use_AVID_SHARED  // as nothing it would silently be one array per thread
#define AVID_DEVICE inline __attribute__((always_inline))
#if defined(__SANITIZE_THREAD__)
#define AVID_SIM_QUIET __attribute__((no_sanitize("thread")))  // the simulator's own accesses are no business of the race hooks
#else
#define AVID_SIM_QUIET
#endif
#define AVID_SITE ::avid::kernels::simulator::Site site = ::avid::kernels::simulator::Site::current()
#define AVID_SHARED(T, name, ...)                                                            \
  using name##_avid_type = T __VA_ARGS__;                                                    \
  static constexpr ::avid::kernels::simulator::SharedKey name##_avid_key{#name};             \
  auto& name = *static_cast<name##_avid_type*>(::avid::kernels::simulator::shared_static(    \
      name##_avid_key, sizeof(name##_avid_type), alignof(name##_avid_type)))

namespace avid::kernels::sim {

using ::avid::bf16;

// Fibers never move between OS threads, so that these are plain loads relative to the thread's base.
#define AVID_SIM_TLS inline constinit thread_local __attribute__((tls_model("initial-exec")))
AVID_SIM_TLS uint3 threadIdx{}, blockIdx{};
AVID_SIM_TLS dim3 blockDim{}, gridDim{};
#undef AVID_SIM_TLS
inline constexpr int warpSize = 32;

inline unsigned lane_of_thread() {
  return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31u;
}

// ---- barriers, shuffles, votes ----------------------------------------------------------------------------------------

inline void __syncthreads(AVID_SITE) { simulator::sync_block(site); }
inline int __syncthreads_count(int p, AVID_SITE) { return simulator::sync_block_reduce(simulator::Reduce::count, p, site); }
inline int __syncthreads_and(int p, AVID_SITE) { return simulator::sync_block_reduce(simulator::Reduce::all, p, site); }
inline int __syncthreads_or(int p, AVID_SITE) { return simulator::sync_block_reduce(simulator::Reduce::any, p, site); }

namespace detail {

inline constexpr simulator::Collective kSyncWarp{"__syncwarp", [](void* const*, std::uint32_t) {}, false};

template <class T>
struct Shuffle {
  T in, out;
  int source;
  bool missing;
};
template <class T>
AVID_SIM_QUIET void run_shuffle(void* const* lane, std::uint32_t mask) {
  for (std::uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    auto* mine = static_cast<Shuffle<T>*>(lane[std::countr_zero(rest)]);
    if (mask >> mine->source & 1u) {
      mine->out = static_cast<Shuffle<T>*>(lane[mine->source])->in;
    } else {
      mine->missing = true;
    }
  }
}
template <class T>
inline constexpr simulator::Collective kShuffle{"shuffle", run_shuffle<T>, false};
template <class T>
AVID_SIM_QUIET T shuffle(std::uint32_t mask, T value, int source, simulator::Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 32 or 64 bits");
  Shuffle<T> argument{value, value, source, false};
  simulator::warp_collective(kShuffle<T>, mask, &argument, site);
  if (argument.missing)
    simulator::fail(simulator::ErrorKind::dead_lane,
                    "shuffle reads lane " + std::to_string(source) + ", which takes no part in it", site);
  return argument.out;
}

struct Vote {
  std::uint32_t predicate, out;
};
AVID_SIM_QUIET inline void run_vote(void* const* lane, std::uint32_t mask) {
  std::uint32_t bits = 0;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1u) bits |= static_cast<Vote*>(lane[i])->predicate << i;
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1u) static_cast<Vote*>(lane[i])->out = bits;
}
inline constexpr simulator::Collective kVote{"vote", run_vote, false};

template <class T>
struct LaneReduce {
  T in, out;
};
template <class T, class Op>
AVID_SIM_QUIET void run_lane_reduce(void* const* lane, std::uint32_t mask) {
  const int first = std::countr_zero(mask);
  T all = static_cast<LaneReduce<T>*>(lane[first])->in;
  for (int i = first + 1; i < 32; ++i)
    if (mask >> i & 1u) all = Op()(all, static_cast<LaneReduce<T>*>(lane[i])->in);
  for (int i = 0; i < 32; ++i)
    if (mask >> i & 1u) static_cast<LaneReduce<T>*>(lane[i])->out = all;
}
template <class T, class Op>
inline constexpr simulator::Collective kLaneReduce{"__reduce_sync", run_lane_reduce<T, Op>, false};
template <class Op, class T>
AVID_SIM_QUIET T lane_reduce(std::uint32_t mask, T value, simulator::Site site) {
  LaneReduce<T> argument{value, value};
  simulator::warp_collective(kLaneReduce<T, Op>, mask, &argument, site);
  return argument.out;
}
struct Add { template <class T> T operator()(T a, T b) const { return a + b; } };
struct Min { template <class T> T operator()(T a, T b) const { return b < a ? b : a; } };
struct Max { template <class T> T operator()(T a, T b) const { return a < b ? b : a; } };

}  // namespace detail

inline void __syncwarp(std::uint32_t mask = 0xffffffffu, AVID_SITE) {
  simulator::warp_collective(detail::kSyncWarp, mask, nullptr, site);
}
template <class T>
AVID_SIM_QUIET T __shfl_sync(std::uint32_t mask, T v, int source, int width = 32, AVID_SITE) {
  const int lane = static_cast<int>(lane_of_thread());
  return detail::shuffle(mask, v, (lane & ~(width - 1)) | (source & (width - 1)), site);
}
template <class T>
AVID_SIM_QUIET T __shfl_xor_sync(std::uint32_t mask, T v, int bits, int width = 32, AVID_SITE) {
  const int lane = static_cast<int>(lane_of_thread()), source = lane ^ bits;
  return detail::shuffle(mask, v, source >= (lane & ~(width - 1)) + width ? lane : source, site);
}
template <class T>
AVID_SIM_QUIET T __shfl_down_sync(std::uint32_t mask, T v, unsigned delta, int width = 32, AVID_SITE) {
  const int lane = static_cast<int>(lane_of_thread());
  return detail::shuffle(mask, v, (lane & (width - 1)) + static_cast<int>(delta) >= width ? lane : lane + static_cast<int>(delta), site);
}
template <class T>
AVID_SIM_QUIET T __shfl_up_sync(std::uint32_t mask, T v, unsigned delta, int width = 32, AVID_SITE) {
  const int lane = static_cast<int>(lane_of_thread());
  return detail::shuffle(mask, v, (lane & (width - 1)) < static_cast<int>(delta) ? lane : lane - static_cast<int>(delta), site);
}
AVID_SIM_QUIET inline std::uint32_t __ballot_sync(std::uint32_t mask, int predicate, AVID_SITE) {
  detail::Vote argument{predicate != 0 ? 1u : 0u, 0};
  simulator::warp_collective(detail::kVote, mask, &argument, site);
  return argument.out;
}
inline int __any_sync(std::uint32_t mask, int predicate, AVID_SITE) { return __ballot_sync(mask, predicate, site) != 0; }
inline int __all_sync(std::uint32_t mask, int predicate, AVID_SITE) { return __ballot_sync(mask, !predicate, site) == 0; }
inline std::uint32_t __reduce_add_sync(std::uint32_t mask, std::uint32_t v, AVID_SITE) { return detail::lane_reduce<detail::Add>(mask, v, site); }
inline int __reduce_add_sync(std::uint32_t mask, int v, AVID_SITE) { return detail::lane_reduce<detail::Add>(mask, v, site); }
inline std::uint32_t __reduce_min_sync(std::uint32_t mask, std::uint32_t v, AVID_SITE) { return detail::lane_reduce<detail::Min>(mask, v, site); }
inline int __reduce_min_sync(std::uint32_t mask, int v, AVID_SITE) { return detail::lane_reduce<detail::Min>(mask, v, site); }
inline std::uint32_t __reduce_max_sync(std::uint32_t mask, std::uint32_t v, AVID_SITE) { return detail::lane_reduce<detail::Max>(mask, v, site); }
inline int __reduce_max_sync(std::uint32_t mask, int v, AVID_SITE) { return detail::lane_reduce<detail::Max>(mask, v, site); }

// ---- atomics and memory -----------------------------------------------------------------------------------------------

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) { return std::atomic_ref<T>(*p).fetch_add(v, std::memory_order_relaxed); }
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) { return std::atomic_ref<T>(*p).exchange(v, std::memory_order_relaxed); }
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, v);
  return expected;
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  std::atomic_ref<T> r(*p);
  T old = r.load();
  while (old < v && !r.compare_exchange_weak(old, v)) {}
  return old;
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  std::atomic_ref<T> r(*p);
  T old = r.load();
  while (v < old && !r.compare_exchange_weak(old, v)) {}
  return old;
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> v) { return std::atomic_ref<T>(*p).fetch_or(v, std::memory_order_relaxed); }
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { std::atomic_thread_fence(std::memory_order_seq_cst); }
// Cache hints change nothing here.
template <class T> AVID_DEVICE T __ldg(const T* p) { return *p; }
template <class T> AVID_DEVICE T __ldcs(const T* p) { return *p; }
template <class T> AVID_DEVICE T __ldcg(const T* p) { return *p; }
template <class T> AVID_DEVICE void __stcs(T* p, T v) { *p = v; }
template <class T> AVID_DEVICE void __stcg(T* p, T v) { *p = v; }

// ---- arithmetic -------------------------------------------------------------------------------------------------------

AVID_DEVICE unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
AVID_DEVICE float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
AVID_DEVICE int __float_as_int(float v) { return std::bit_cast<int>(v); }
AVID_DEVICE float __int_as_float(int v) { return std::bit_cast<float>(v); }
AVID_DEVICE float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
AVID_DEVICE float __expf(float v) { return std::exp(v); }
AVID_DEVICE float __logf(float v) { return std::log(v); }
AVID_DEVICE float __sinf(float v) { return std::sin(v); }
AVID_DEVICE float __cosf(float v) { return std::cos(v); }
AVID_DEVICE float __powf(float a, float b) { return std::pow(a, b); }
AVID_DEVICE float __fdividef(float a, float b) { return a / b; }
AVID_DEVICE float __frcp_rn(float v) { return 1.0f / v; }
AVID_DEVICE float __frsqrt_rn(float v) { return 1.0f / std::sqrt(v); }
AVID_DEVICE float __fsqrt_rn(float v) { return std::sqrt(v); }
AVID_DEVICE float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }
AVID_DEVICE float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
AVID_DEVICE float __fdiv_rn(float a, float b) { return a / b; }
// The build forbids contraction, so that these stay separate operations.
AVID_DEVICE float __fmul_rn(float a, float b) { return a * b; }
AVID_DEVICE float __fadd_rn(float a, float b) { return a + b; }
AVID_DEVICE float __fsub_rn(float a, float b) { return a - b; }
AVID_DEVICE int __float2int_rn(float v) { return static_cast<int>(std::nearbyint(v)); }
AVID_DEVICE int __float2int_rz(float v) { return static_cast<int>(v); }
AVID_DEVICE int __float2int_rd(float v) { return static_cast<int>(std::floor(v)); }
AVID_DEVICE unsigned __float2uint_rn(float v) { return static_cast<unsigned>(std::nearbyint(v)); }
AVID_DEVICE int __popc(unsigned v) { return std::popcount(v); }
AVID_DEVICE int __popcll(unsigned long long v) { return std::popcount(v); }
AVID_DEVICE int __clz(int v) { return std::countl_zero(static_cast<unsigned>(v)); }
AVID_DEVICE int __ffs(int v) { return v == 0 ? 0 : std::countr_zero(static_cast<unsigned>(v)) + 1; }
AVID_DEVICE unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((std::uint64_t{a} * b) >> 32); }
AVID_DEVICE int __mulhi(int a, int b) { return static_cast<int>((std::int64_t{a} * b) >> 32); }
AVID_DEVICE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
AVID_DEVICE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((((std::uint64_t{high} << 32) | low) << (shift & 31)) >> 32);
}
AVID_DEVICE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((std::uint64_t{high} << 32) | low) >> (shift & 31));
}
AVID_DEVICE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t bytes = (std::uint64_t{b} << 32) | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) r |= static_cast<unsigned>((bytes >> (8 * (selector >> (4 * i) & 7u))) & 0xffu) << (8 * i);
  return r;
}
// CUDA's min and max take mixed argument types; the usual arithmetic conversions decide.
template <class A, class B> AVID_DEVICE auto min(A a, B b) { using T = std::common_type_t<A, B>; return T(b) < T(a) ? T(b) : T(a); }
template <class A, class B> AVID_DEVICE auto max(A a, B b) { using T = std::common_type_t<A, B>; return T(a) < T(b) ? T(b) : T(a); }
[[noreturn]] inline void __trap(AVID_SITE) { simulator::fail(simulator::ErrorKind::bad_operand, "__trap", site); }

// ---- shared memory ----------------------------------------------------------------------------------------------------

/// Carves arrays out of the launch's dynamic shared memory, in the order of the calls. All threads take the same.
class SharedArena {
 public:
  /// n elements, 16-byte aligned, filled with NaN bits. Throws when the launch gave too little.
  template <class T>
  T* take(std::size_t n, const char* name = "") {
    return static_cast<T*>(simulator::shared_take(n * sizeof(T), name, &cursor_, &used_));
  }

 private:
  std::size_t cursor_ = 0, used_ = 0;
};

/// A byte address in shared memory: an offset that every use checks.
struct shared_address {
  std::uint32_t bytes;
  explicit shared_address(const void* p, AVID_SITE) : bytes(simulator::shared_offset(p, site)) {}
  AVID_DEVICE shared_address operator+(std::uint32_t offset_bytes) const {
    shared_address r = *this;
    r.bytes += offset_bytes;
    return r;
  }
};

// ---- two-byte floats --------------------------------------------------------------------------------------------------

AVID_DEVICE float to_float(bf16 v) { return std::bit_cast<float>(std::uint32_t{v.bits} << 16); }
AVID_DEVICE float to_float(float v) { return v; }
/// Nearest even; NaN stays NaN.
AVID_DEVICE bf16 to_bf16(float v) { return bf16(v); }
/// Two values in one register, the first in the low half.
AVID_DEVICE std::uint32_t pack_bf16x2(bf16 low, bf16 high) { return std::uint32_t{low.bits} | std::uint32_t{high.bits} << 16; }
AVID_DEVICE std::uint32_t pack_bf16x2(float low, float high) { return pack_bf16x2(to_bf16(low), to_bf16(high)); }
AVID_DEVICE float2 unpack_bf16x2(std::uint32_t v) {
  return {std::bit_cast<float>(v << 16), std::bit_cast<float>(v & 0xffff0000u)};
}

// ---- tensor cores: D = A B + C on one warp (register layouts: docs/simulator.md) -----------------------------------------

inline void mma_bf16_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const float (&c)[4], AVID_SITE) {
  simulator::MmaOperands x{d, a, b, c};
  simulator::warp_collective(simulator::mma_bf16_k16, ~0u, &x, site);
}
inline void mma_bf16_16x8x8(float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[1], const float (&c)[4], AVID_SITE) {
  simulator::MmaOperands x{d, a, b, c};
  simulator::warp_collective(simulator::mma_bf16_k8, ~0u, &x, site);
}
inline void mma_tf32_16x8x8(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const float (&c)[4], AVID_SITE) {
  simulator::MmaOperands x{d, a, b, c};
  simulator::warp_collective(simulator::mma_tf32_k8, ~0u, &x, site);
}
/// Rounds to the 19-bit format of the tensor cores, ties away from zero.
AVID_DEVICE std::uint32_t to_tf32(float v) {
  std::uint32_t u = std::bit_cast<std::uint32_t>(v);
  if ((u & 0x7f800000u) != 0x7f800000u) u += 0x1000u;
  return u & 0xffffe000u;
}

// ---- 8x8 blocks of 16-bit elements ------------------------------------------------------------------------------------

#define AVID_SIM_LDMATRIX(suffix, count)                                                                   \
  inline void ldmatrix_##suffix(std::uint32_t (&r)[count], const void* row, AVID_SITE) {                   \
    simulator::MatrixLoad x{r, row, site};                                                                 \
    simulator::warp_collective(simulator::load_##suffix, ~0u, &x, site);                                   \
  }                                                                                                        \
  inline void ldmatrix_##suffix(std::uint32_t (&r)[count], shared_address row, AVID_SITE) {                \
    ldmatrix_##suffix(r, simulator::shared_pointer(row.bytes), site);                                      \
  }
AVID_SIM_LDMATRIX(x1, 1)
AVID_SIM_LDMATRIX(x1_trans, 1)
AVID_SIM_LDMATRIX(x2, 2)
AVID_SIM_LDMATRIX(x2_trans, 2)
AVID_SIM_LDMATRIX(x4, 4)
AVID_SIM_LDMATRIX(x4_trans, 4)
#undef AVID_SIM_LDMATRIX
/// Transposes an 8x8 block held one register per lane.
inline std::uint32_t movmatrix(std::uint32_t v, AVID_SITE) {
  std::uint32_t r = v;
  simulator::warp_collective(simulator::move_matrix, ~0u, &r, site);
  return r;
}

// ---- asynchronous copies ----------------------------------------------------------------------------------------------

/// Starts a copy of 16 bytes, or of 16 zeros when !valid (src is not read then, but must be a pointer).
inline void cp_async_16(void* dst, const void* src, bool valid = true, AVID_SITE) { simulator::cp_async(dst, src, 16, valid, site); }
inline void cp_async_8(void* dst, const void* src, bool valid = true, AVID_SITE) { simulator::cp_async(dst, src, 8, valid, site); }
inline void cp_async_4(void* dst, const void* src, bool valid = true, AVID_SITE) { simulator::cp_async(dst, src, 4, valid, site); }
inline void cp_async_16(shared_address dst, const void* src, bool valid = true, AVID_SITE) {
  simulator::cp_async(simulator::shared_pointer(dst.bytes), src, 16, valid, site);
}
inline void cp_async_8(shared_address dst, const void* src, bool valid = true, AVID_SITE) {
  simulator::cp_async(simulator::shared_pointer(dst.bytes), src, 8, valid, site);
}
inline void cp_async_4(shared_address dst, const void* src, bool valid = true, AVID_SITE) {
  simulator::cp_async(simulator::shared_pointer(dst.bytes), src, 4, valid, site);
}
/// Closes the group of copies started since the last commit.
inline void cp_async_commit() { simulator::cp_async_commit(); }
/// Waits until at most N of this thread's groups are under way. Other threads' copies need a barrier as well.
template <int N>
void cp_async_wait(AVID_SITE) { simulator::cp_async_wait(N, site); }

// ---- launch -----------------------------------------------------------------------------------------------------------

/// Runs a kernel to its end. Throws SimError, a GpuError, when the launch or the kernel does what no GPU allows.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, const Stream&, A&&... args) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> args;
  } call{kernel, {static_cast<P>(std::forward<A>(args))...}};
  simulator::run_grid(
      reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
      [](void* p) {
        auto* c = static_cast<Call*>(p);
        std::apply(c->kernel, c->args);
      },
      &call);
}

}  // namespace avid::kernels::sim

// Host code of a .cu names these unqualified, as in CUDA.
namespace avid::kernels {
using sim::dim3, sim::float2, sim::float4, sim::int2, sim::int4, sim::uint2, sim::uint3, sim::uint4;
}
