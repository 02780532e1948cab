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
#define __grid_constant__
#define __shared__ AVID_ERROR_use_AVID_SHARED  // as nothing it would silently be one array per thread
#define AVID_DEVICE inline __attribute__((always_inline))
#if defined(__SANITIZE_THREAD__)
#define AVID_SIM_QUIET __attribute__((no_sanitize("thread")))  // the simulator's own accesses: not for the race hooks
#define AVID_SIM_ARGUMENTS(call) (__builtin_clear_padding(&call), &call)  // compared by their bytes: launch_counter.h
#else
#define AVID_SIM_QUIET
#define AVID_SIM_ARGUMENTS(call) &call
#endif
#define AVID_SITE ::avid::kernels::simulator::Site site = ::avid::kernels::simulator::Site::current()
#define AVID_SHARED(T, name, ...)                                                \
  using name##_avid_type = T __VA_ARGS__;                                        \
  static constexpr ::avid::kernels::simulator::SharedKey name##_avid_key{#name}; \
  auto& name = *static_cast<name##_avid_type*>(                                  \
      ::avid::kernels::simulator::shared_static(name##_avid_key, sizeof(name##_avid_type), alignof(name##_avid_type)))
#include "kernels/sim/intrinsics.h"

namespace avid::kernels::sim {

using ::avid::bf16;

// Fibers never move between OS threads, so that these are plain loads relative to the thread's base.
#define AVID_SIM_TLS inline constinit thread_local __attribute__((tls_model("initial-exec")))
AVID_SIM_TLS uint3 threadIdx{}, blockIdx{};
AVID_SIM_TLS dim3 blockDim{}, gridDim{};
#undef AVID_SIM_TLS
inline constexpr int warpSize = 32;

inline unsigned lane_of_thread() { return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31u; }

// ---- barriers, shuffles, votes ----

inline void __syncthreads(AVID_SITE) { simulator::sync_block(site); }
inline int __syncthreads_count(int p, AVID_SITE) {
  return simulator::sync_block_reduce(simulator::Reduce::count, p, site);
}
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
    simulator::fail(
        simulator::ErrorKind::dead_lane, "shuffle reads lane " + std::to_string(source) + ", which takes no part in it",
        site);
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
struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};

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
  return detail::shuffle(
      mask, v, (lane & (width - 1)) + static_cast<int>(delta) >= width ? lane : lane + static_cast<int>(delta), site);
}
template <class T>
AVID_SIM_QUIET T __shfl_up_sync(std::uint32_t mask, T v, unsigned delta, int width = 32, AVID_SITE) {
  const int lane = static_cast<int>(lane_of_thread());
  return detail::shuffle(
      mask, v, (lane & (width - 1)) < static_cast<int>(delta) ? lane : lane - static_cast<int>(delta), site);
}
AVID_SIM_QUIET inline std::uint32_t __ballot_sync(std::uint32_t mask, int predicate, AVID_SITE) {
  detail::Vote argument{predicate != 0 ? 1u : 0u, 0};
  simulator::warp_collective(detail::kVote, mask, &argument, site);
  return argument.out;
}
inline int __any_sync(std::uint32_t mask, int predicate, AVID_SITE) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(std::uint32_t mask, int predicate, AVID_SITE) {
  return __ballot_sync(mask, !predicate, site) == 0;
}
inline std::uint32_t __reduce_add_sync(std::uint32_t mask, std::uint32_t v, AVID_SITE) {
  return detail::lane_reduce<detail::Add>(mask, v, site);
}
inline int __reduce_add_sync(std::uint32_t mask, int v, AVID_SITE) {
  return detail::lane_reduce<detail::Add>(mask, v, site);
}
inline std::uint32_t __reduce_min_sync(std::uint32_t mask, std::uint32_t v, AVID_SITE) {
  return detail::lane_reduce<detail::Min>(mask, v, site);
}
inline int __reduce_min_sync(std::uint32_t mask, int v, AVID_SITE) {
  return detail::lane_reduce<detail::Min>(mask, v, site);
}
inline std::uint32_t __reduce_max_sync(std::uint32_t mask, std::uint32_t v, AVID_SITE) {
  return detail::lane_reduce<detail::Max>(mask, v, site);
}
inline int __reduce_max_sync(std::uint32_t mask, int v, AVID_SITE) {
  return detail::lane_reduce<detail::Max>(mask, v, site);
}

// ---- shared memory ----

/// Carves arrays out of the launch's dynamic shared memory, in the order of the calls. All threads take the same.
class SharedArena {
 public:
  /// n elements, 16-byte aligned, filled with NaN bits. Throws when the launch gave too little.
  template <class T>
  T* take(std::size_t n, const char* name = "") {
    return take_aligned<T>(n, 16, name);
  }
  /// The same, aligned to `align` bytes (a power of two, 16 or more). Counts as n elements and align - 16 bytes.
  template <class T>
  T* take_aligned(std::size_t n, std::size_t align, const char* name = "") {
    return static_cast<T*>(simulator::shared_take(n * sizeof(T), align, name, &cursor_, &used_));
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

// ---- two-byte floats ----

AVID_DEVICE float to_float(bf16 v) { return std::bit_cast<float>(std::uint32_t{v.bits} << 16); }
AVID_DEVICE float to_float(float v) { return v; }
/// Nearest even; NaN stays NaN.
AVID_DEVICE bf16 to_bf16(float v) { return bf16(v); }
/// Two values in one register, the first in the low half.
AVID_DEVICE std::uint32_t pack_bf16x2(bf16 low, bf16 high) {
  return std::uint32_t{low.bits} | std::uint32_t{high.bits} << 16;
}
AVID_DEVICE std::uint32_t pack_bf16x2(float low, float high) { return pack_bf16x2(to_bf16(low), to_bf16(high)); }
AVID_DEVICE float2 unpack_bf16x2(std::uint32_t v) {
  return {std::bit_cast<float>(v << 16), std::bit_cast<float>(v & 0xffff0000u)};
}

// ---- tensor cores: D = A B + C on one warp (register layouts: docs/simulator.md) ----

inline void mma_bf16_16x8x16(
    float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const float (&c)[4], AVID_SITE) {
  simulator::MmaOperands x{d, a, b, c};
  simulator::warp_collective(simulator::mma_bf16_k16, ~0u, &x, site);
}
inline void mma_bf16_16x8x8(
    float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[1], const float (&c)[4], AVID_SITE) {
  simulator::MmaOperands x{d, a, b, c};
  simulator::warp_collective(simulator::mma_bf16_k8, ~0u, &x, site);
}
inline void mma_tf32_16x8x8(
    float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const float (&c)[4], AVID_SITE) {
  simulator::MmaOperands x{d, a, b, c};
  simulator::warp_collective(simulator::mma_tf32_k8, ~0u, &x, site);
}
/// Rounds to the 19-bit format of the tensor cores, ties away from zero.
AVID_DEVICE std::uint32_t to_tf32(float v) {
  std::uint32_t u = std::bit_cast<std::uint32_t>(v);
  if ((u & 0x7f800000u) != 0x7f800000u) u += 0x1000u;
  return u & 0xffffe000u;
}

// ---- 8x8 blocks of 16-bit elements ----

#define AVID_SIM_LDMATRIX(suffix, count)                                                   \
  inline void ldmatrix_##suffix(std::uint32_t(&r)[count], const void* row, AVID_SITE) {    \
    simulator::MatrixLoad x{r, row, site};                                                 \
    simulator::warp_collective(simulator::load_##suffix, ~0u, &x, site);                   \
  }                                                                                        \
  inline void ldmatrix_##suffix(std::uint32_t(&r)[count], shared_address row, AVID_SITE) { \
    ldmatrix_##suffix(r, simulator::shared_pointer(row.bytes), site);                      \
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

// ---- asynchronous copies ----

/// Starts a copy of 16 bytes, or of 16 zeros when !valid (src is not read then, but must be a pointer).
inline void cp_async_16(void* dst, const void* src, bool valid = true, AVID_SITE) {
  simulator::cp_async(dst, src, 16, valid, site);
}
inline void cp_async_8(void* dst, const void* src, bool valid = true, AVID_SITE) {
  simulator::cp_async(dst, src, 8, valid, site);
}
inline void cp_async_4(void* dst, const void* src, bool valid = true, AVID_SITE) {
  simulator::cp_async(dst, src, 4, valid, site);
}
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
void cp_async_wait(AVID_SITE) {
  simulator::cp_async_wait(N, site);
}

// ---- launch ----

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
      AVID_SIM_ARGUMENTS(call), sizeof call);
}

}  // namespace avid::kernels::sim

// Host code of a .cu names these unqualified, as in CUDA.
namespace avid::kernels {
using sim::dim3, sim::float2, sim::float4, sim::int2, sim::int4, sim::uint2, sim::uint3, sim::uint4;
}
