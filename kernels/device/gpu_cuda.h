// kernels/device/gpu_cuda.h -- the device language on a GPU (see gpu.h); compiled by nvcc only
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <utility>

#include "kernels/device/launch_context.h"

#define AVID_DEVICE __device__ __forceinline__
#define AVID_SHARED(T, name, ...) __shared__ __align__(16) T name __VA_ARGS__

namespace avid::kernels::cuda {

using ::avid::bf16;

// ---- shared memory ----

AVID_DEVICE unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char avid_dynamic_shared[];
  return avid_dynamic_shared;
}

/// Carves arrays out of the launch's dynamic shared memory, in the order of the calls. All threads take the same.
class SharedArena {
 public:
  AVID_DEVICE SharedArena() : next_(dynamic_shared()) {}
  /// n elements, 16-byte aligned, uninitialised. The name is for the simulator's reports.
  template <class T>
  AVID_DEVICE T* take(std::size_t n, const char* = "") {
    T* array = reinterpret_cast<T*>(next_);
    next_ += (n * sizeof(T) + 15) & ~std::size_t{15};
    return array;
  }
  /// The same, aligned to `align` bytes (a power of two, 16 or more). Counts as n elements and align - 16 bytes.
  template <class T>
  AVID_DEVICE T* take_aligned(std::size_t n, std::uint32_t align, const char* name = "") {
    next_ += -static_cast<std::uint32_t>(__cvta_generic_to_shared(next_)) & (align - 1);
    return take<T>(n, name);
  }

 private:
  unsigned char* next_;
};

/// A byte address in shared memory: a plain 32-bit integer here, a checked one in the simulator.
struct shared_address {
  std::uint32_t bytes;
  AVID_DEVICE explicit shared_address(const void* p) : bytes(static_cast<std::uint32_t>(__cvta_generic_to_shared(p))) {}
  AVID_DEVICE shared_address operator+(std::uint32_t offset_bytes) const {
    return shared_address(bytes + offset_bytes, 0);
  }

 private:
  AVID_DEVICE shared_address(std::uint32_t b, int) : bytes(b) {}
};

// ---- two-byte floats ----

AVID_DEVICE float to_float(bf16 v) { return __uint_as_float(std::uint32_t{v.bits} << 16); }
AVID_DEVICE float to_float(float v) { return v; }
/// Nearest even; NaN stays NaN.
AVID_DEVICE bf16 to_bf16(float v) {
  bf16 r;
  r.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
  return r;
}
/// Two values in one register, the first in the low half.
AVID_DEVICE std::uint32_t pack_bf16x2(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
AVID_DEVICE std::uint32_t pack_bf16x2(bf16 low, bf16 high) {
  return std::uint32_t{low.bits} | std::uint32_t{high.bits} << 16;
}
AVID_DEVICE float2 unpack_bf16x2(std::uint32_t v) {
  return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u));
}

// ---- tensor cores: D = A B + C on one warp (register layouts: docs/simulator.md) ----
// volatile: the whole warp takes part, so that the compiler must not move one into a branch that uses its result.

AVID_DEVICE void mma_bf16_16x8x16(
    float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
AVID_DEVICE void mma_bf16_16x8x8(
    float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[1], const float (&c)[4]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%7,%8,%9,%10};"
               : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
AVID_DEVICE void mma_tf32_16x8x8(
    float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
/// Rounds to the 19-bit format of the tensor cores, ties away from zero.
AVID_DEVICE std::uint32_t to_tf32(float v) {
  std::uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
  return r;
}

// ---- 8x8 blocks of 16-bit elements ----

AVID_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], shared_address row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.bytes)
               : "memory");
}
AVID_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], shared_address row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.bytes)
               : "memory");
}
AVID_DEVICE void ldmatrix_x2(std::uint32_t (&r)[2], shared_address row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row.bytes)
               : "memory");
}
AVID_DEVICE void ldmatrix_x2_trans(std::uint32_t (&r)[2], shared_address row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row.bytes)
               : "memory");
}
AVID_DEVICE void ldmatrix_x1(std::uint32_t (&r)[1], shared_address row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0},[%1];" : "=r"(r[0]) : "r"(row.bytes) : "memory");
}
AVID_DEVICE void ldmatrix_x1_trans(std::uint32_t (&r)[1], shared_address row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0},[%1];" : "=r"(r[0]) : "r"(row.bytes) : "memory");
}
AVID_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) { ldmatrix_x4(r, shared_address(row)); }
AVID_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
  ldmatrix_x4_trans(r, shared_address(row));
}
AVID_DEVICE void ldmatrix_x2(std::uint32_t (&r)[2], const void* row) { ldmatrix_x2(r, shared_address(row)); }
AVID_DEVICE void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row) {
  ldmatrix_x2_trans(r, shared_address(row));
}
AVID_DEVICE void ldmatrix_x1(std::uint32_t (&r)[1], const void* row) { ldmatrix_x1(r, shared_address(row)); }
AVID_DEVICE void ldmatrix_x1_trans(std::uint32_t (&r)[1], const void* row) {
  ldmatrix_x1_trans(r, shared_address(row));
}
/// Transposes an 8x8 block held one register per lane.
AVID_DEVICE std::uint32_t movmatrix(std::uint32_t v) {
  std::uint32_t r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
  return r;
}

// ---- asynchronous copies ----

/// Starts a copy of 16 bytes, or of 16 zeros when !valid (src is not read then, but must be a pointer).
AVID_DEVICE void cp_async_16(shared_address dst, const void* src, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(dst.bytes), "l"(src), "r"(valid ? 16 : 0) : "memory");
}
AVID_DEVICE void cp_async_8(shared_address dst, const void* src, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],8,%2;" ::"r"(dst.bytes), "l"(src), "r"(valid ? 8 : 0) : "memory");
}
AVID_DEVICE void cp_async_4(shared_address dst, const void* src, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(dst.bytes), "l"(src), "r"(valid ? 4 : 0) : "memory");
}
AVID_DEVICE void cp_async_16(void* dst, const void* src, bool valid = true) {
  cp_async_16(shared_address(dst), src, valid);
}
AVID_DEVICE void cp_async_8(void* dst, const void* src, bool valid = true) {
  cp_async_8(shared_address(dst), src, valid);
}
AVID_DEVICE void cp_async_4(void* dst, const void* src, bool valid = true) {
  cp_async_4(shared_address(dst), src, valid);
}
/// Closes the group of copies started since the last commit.
AVID_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most N of this thread's groups are under way. Other threads' copies need a barrier as well.
template <int N>
AVID_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- launch ----

/// Lets launches of the kernel on the current device take so much dynamic shared memory from here on; more than 48 KiB
/// with its static arrays must be asked for. What was allowed once stays: recorded work and other threads may launch
/// the kernel with more (runtime_cuda.cpp).
cudaError_t allow_shared_memory(const void* kernel, std::size_t bytes);

/// Throws GpuError: op, kernel, CUDA's text, grid, block, shared bytes, the op's tensors (runtime_cuda.cpp).
[[noreturn]] void fail_launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, cudaError_t error);

/// Queues a kernel. Throws GpuError (fail_launch) when the launch is refused. An empty grid is refused: callers skip
/// empty work.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, const Stream& stream, A&&... args) {
  const void* function = reinterpret_cast<const void*>(kernel);
  cudaError_t error = shared_bytes > 0 ? allow_shared_memory(function, shared_bytes) : cudaSuccess;
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream.handle);
    error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(std::forward<A>(args))...);
  }
  if (error != cudaSuccess) {
    cudaGetLastError();  // not sticky: the next launch starts clean
    fail_launch(function, grid, block, shared_bytes, error);
  }
  note_launch();
}

}  // namespace avid::kernels::cuda
