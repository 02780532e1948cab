// kernels/sim/intrinsics.h -- CUDA's atomics, bit tricks and arithmetic, as host functions
//
// Included by kernels/device/gpu_sim.h only, which defines AVID_DEVICE and AVID_SITE. Fast intrinsics are as exact as
// the host's functions.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/sim/simulator.h"

namespace avid::kernels::sim {

// ---- atomics and memory ----

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return std::atomic_ref<T>(*p).fetch_add(v, std::memory_order_relaxed);
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return std::atomic_ref<T>(*p).exchange(v, std::memory_order_relaxed);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, v);
  return expected;
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  std::atomic_ref<T> r(*p);
  T old = r.load();
  while (old < v && !r.compare_exchange_weak(old, v)) {
  }
  return old;
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  std::atomic_ref<T> r(*p);
  T old = r.load();
  while (v < old && !r.compare_exchange_weak(old, v)) {
  }
  return old;
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> v) {
  return std::atomic_ref<T>(*p).fetch_or(v, std::memory_order_relaxed);
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { std::atomic_thread_fence(std::memory_order_seq_cst); }
// Cache hints change nothing here.
template <class T>
AVID_DEVICE T __ldg(const T* p) {
  return *p;
}
template <class T>
AVID_DEVICE T __ldcs(const T* p) {
  return *p;
}
template <class T>
AVID_DEVICE T __ldcg(const T* p) {
  return *p;
}
template <class T>
AVID_DEVICE void __stcs(T* p, T v) {
  *p = v;
}
template <class T>
AVID_DEVICE void __stcg(T* p, T v) {
  *p = v;
}

// ---- arithmetic ----

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
  for (int i = 0; i < 4; ++i)
    r |= static_cast<unsigned>((bytes >> (8 * (selector >> (4 * i) & 7u))) & 0xffu) << (8 * i);
  return r;
}
// CUDA's min and max take mixed argument types; the usual arithmetic conversions decide.
template <class A, class B>
AVID_DEVICE auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
AVID_DEVICE auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) < T(b) ? T(b) : T(a);
}
[[noreturn]] inline void __trap(AVID_SITE) { simulator::fail(simulator::ErrorKind::bad_operand, "__trap", site); }

}  // namespace avid::kernels::sim
