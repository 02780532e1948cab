// tests/sim/planted_kernels.cpp -- the bugs themselves, each as small as it can be
#include "tests/sim/planted_launch.h"

namespace avid::kernels {
namespace AVID_GPU {

// ---- shared memory: bounds, initialisation --------------------------------------------------------------------------

__global__ void shared_read_past_end(float* out) {
  AVID_SHARED(float, s, [64]);
  const float* p = s;
  s[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = p[threadIdx.x + 1];  // thread 63 reads s[64]
}
__global__ void shared_write_past_end(float* out) {
  AVID_SHARED(float, s, [64]);
  float* p = s;
  p[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = p[threadIdx.x ? threadIdx.x : 1];
}
__global__ void shared_write_before_start(float* out) {
  AVID_SHARED(float, s, [64]);
  float* p = s;
  p[static_cast<int>(threadIdx.x) - 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = p[threadIdx.x < 63 ? threadIdx.x : 62];
}
__global__ void dynamic_write_past_end(float* out) {
  SharedArena arena;
  float* s = arena.take<float>(64, "s");
  s[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x ? threadIdx.x : 1];
}
__global__ void arena_write_into_neighbour(float* out) {
  SharedArena arena;
  float* a = arena.take<float>(64, "a");
  float* b = arena.take<float>(64, "b");
  a[threadIdx.x] = 1.0f;
  b[threadIdx.x] = 2.0f;
  __syncthreads();
  a[threadIdx.x + 1] = 3.0f;  // b[0] where arrays touch
  __syncthreads();
  out[threadIdx.x] = a[threadIdx.x] + b[threadIdx.x];
}
__global__ void arena_larger_than_launched(float* out) {
  SharedArena arena;
  float* a = arena.take<float>(64, "a");
  float* b = arena.take<float>(64, "b");
  a[threadIdx.x] = b[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = a[0];
}
__global__ void arena_of_two_minds(float* out) {
  SharedArena arena;
  float* a = arena.take<float>(threadIdx.x < 32 ? 32 : 64, "a");
  a[threadIdx.x & 31] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = a[0];
}
__global__ void uninitialised_shared(float* out) {
  AVID_SHARED(float, s, [64]);
  if (threadIdx.x < 32) s[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}

// ---- global and local memory ----------------------------------------------------------------------------------------

__global__ void global_write_past_end(float* out) { out[threadIdx.x + 1] = 1.0f; }
__global__ void global_read_past_end(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x * 4 + 4]; }
__global__ void local_past_end(float* out, int n) {
  float v[4] = {0.0f, 1.0f, 2.0f, 3.0f};
  out[threadIdx.x] = v[n + (threadIdx.x == 17)];
}
__global__ void misaligned_vector(const float* in, float* out) {
  const float4 v = *reinterpret_cast<const float4*>(in + 1 + threadIdx.x);
  out[threadIdx.x] = v.x + v.w;
}
__attribute__((noinline)) int descend(int n) {
  volatile char frame[512];
  frame[n & 511] = static_cast<char>(n);
  return n > 0 ? descend(n - 1) + frame[n & 511] : 0;
}
__global__ void endless_stack(float* out, int n) { out[threadIdx.x] = static_cast<float>(descend(n)); }

// ---- blocks ---------------------------------------------------------------------------------------------------------

__global__ void block_reads_what_another_writes(float* out) {
  const unsigned i = blockIdx.x * 32 + threadIdx.x;
  out[i] = out[i ^ 32] + 1.0f;
}
__global__ void blocks_write_the_same_place(float* out) { out[threadIdx.x] = static_cast<float>(blockIdx.x); }
__global__ void block_copies_what_another_writes(float* out) {
  AVID_SHARED(float, s, [32]);
  if (blockIdx.x == 0) out[threadIdx.x] = 1.0f;
  if (blockIdx.x == 1) cp_async_4(&s[threadIdx.x], out + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  if (blockIdx.x == 1) out[32 + threadIdx.x] = s[threadIdx.x];
}

// ---- barriers -------------------------------------------------------------------------------------------------------

__global__ void no_barrier(float* out) {
  AVID_SHARED(float, s, [64]);
  s[threadIdx.x] = 1.0f;
  out[threadIdx.x] = s[(threadIdx.x + 1) & 63];
}
__global__ void no_barrier_hidden_going_forward(float* out) {
  AVID_SHARED(float, s, [64]);
  s[threadIdx.x] = 1.0f;
  out[threadIdx.x] = s[threadIdx.x ? threadIdx.x - 1 : 0];
}
__global__ void no_barrier_before_reuse(float* out) {
  AVID_SHARED(float, s, [64]);
  float sum = 0.0f;
  for (int i = 0; i < 4; ++i) {
    s[threadIdx.x] = static_cast<float>(i);
    __syncthreads();
    sum += s[(threadIdx.x + 33) & 63] - static_cast<float>(i);
  }
  out[threadIdx.x] = sum == 0.0f ? 0.0f : __uint_as_float(0x7fc00000u);
}
__global__ void no_warp_barrier(float* out) {
  AVID_SHARED(float, s, [32]);
  s[threadIdx.x] = 1.0f;
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}
__global__ void half_warp_barrier(float* out) {
  AVID_SHARED(float, s, [32]);
  s[threadIdx.x] = 1.0f;
  __syncwarp(threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u);
  out[threadIdx.x] = s[threadIdx.x ^ 16];  // the other half
}
__global__ void early_exit(float* out, int n) {
  if (static_cast<int>(threadIdx.x) >= n) return;
  AVID_SHARED(float, s, [64]);
  s[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = s[0];
}
__global__ void divergent_barrier(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
    out[threadIdx.x] = 1.0f;
  } else {
    __syncthreads();
    out[threadIdx.x] = 2.0f;
  }
}
__global__ void uneven_loop(float* out) {
  for (unsigned i = 0; i < 1 + threadIdx.x / 32; ++i) __syncthreads();
  out[threadIdx.x] = 1.0f;
}

// ---- warps ----------------------------------------------------------------------------------------------------------

__global__ void divergent_shuffle(float* out) {
  float v = 1.0f;
  if (threadIdx.x & 1) {
    v = __shfl_xor_sync(0xffffffffu, v, 1);
  } else {
    v = __shfl_xor_sync(0xffffffffu, v, 2);
  }
  out[threadIdx.x] = v;
}
__global__ void shuffle_in_a_branch(float* out) {
  float v = 1.0f;
  if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
  out[threadIdx.x] = v;
}
__global__ void shuffle_against_barrier(float* out) {
  float v = 1.0f;
  if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
  __syncthreads();
  out[threadIdx.x] = v;
}
__global__ void shuffle_outside_its_mask(float* out) { out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1.0f, 1); }
__global__ void shuffle_reads_outside_its_mask(float* out) {
  float v = 1.0f;
  if (threadIdx.x < 16) v = __shfl_xor_sync(0x0000ffffu, v, 16);
  out[threadIdx.x] = v;
}
__global__ void tensor_core_in_half_a_warp(float* out) {
  float c[4] = {};
  std::uint32_t a[4] = {}, b[2] = {};
  mma_bf16_16x8x16(c, a, b, c);
  out[threadIdx.x] = c[0];
}
__global__ void tf32_not_rounded(float* out) {
  float c[4] = {};
  const std::uint32_t x = __float_as_uint(1.00001f);
  std::uint32_t a[4] = {x, x, x, x}, b[2] = {x, x};
  mma_tf32_16x8x8(c, a, b, c);
  out[threadIdx.x] = c[0];
}
/// 1 and 256 times 3/4 of its last place: f32 additions come within 8e-6; a tensor core that cuts every step adds
/// nothing.
template <bool kInSteps>
AVID_DEVICE void long_sum(float* out) {
  const std::uint32_t x = to_tf32(1.0f), y = to_tf32(0x1.8p-27f);  // eight products are 1.5 * 2^-24
  std::uint32_t a[4] = {x, x, x, x}, b[2] = {y, y};
  float sum[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  for (int i = 0; i < 256; ++i) {
    if (kInSteps) {
      float step[4] = {};
      mma_tf32_16x8x8(step, a, b, step);
      for (int e = 0; e < 4; ++e) sum[e] += step[e];
    } else {
      mma_tf32_16x8x8(sum, a, b, sum);
    }
  }
  const bool right = fabsf(sum[0] - (1.0f + 256 * 0x1.8p-24f)) < 1e-5f;
  out[threadIdx.x] = right ? 1.0f : __uint_as_float(0x7fc00000u);
}
__global__ void long_sum_in_the_accumulator(float* out) { long_sum<false>(out); }
__global__ void long_sum_in_steps(float* out) { long_sum<true>(out); }
__global__ void ldmatrix_misaligned(float* out) {
  AVID_SHARED(bf16, s, [32 * 20]);
  for (int i = static_cast<int>(threadIdx.x); i < 640; i += 32) s[i] = to_bf16(1.0f);
  __syncthreads();
  std::uint32_t r[4];
  ldmatrix_x4(r, s + threadIdx.x * 20);  // rows of 40 bytes
  out[threadIdx.x] = static_cast<float>(r[0]);
}
__global__ void ldmatrix_past_end(float* out) {
  AVID_SHARED(bf16, s, [24 * 8]);
  for (int i = static_cast<int>(threadIdx.x); i < 24 * 8; i += 32) s[i] = to_bf16(0.0f);
  __syncthreads();
  std::uint32_t r[4];
  ldmatrix_x4(r, shared_address(s) + threadIdx.x * 16);  // 32 rows of an array of 24
  out[threadIdx.x] = __uint_as_float(r[3]);
}

// ---- innocent -------------------------------------------------------------------------------------------------------

__global__ void with_warp_barrier(float* out) {
  AVID_SHARED(float, s, [32]);
  s[threadIdx.x] = 1.0f;
  __syncwarp();
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}
__global__ void with_half_warp_barriers(float* out) {
  AVID_SHARED(float, s, [32]);
  s[threadIdx.x] = 1.0f;
  __syncwarp(threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u);
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}
__global__ void blocks_apart(float* out) {
  const unsigned i = blockIdx.x * 32 + threadIdx.x;
  out[i] = out[i] + 1.0f;
}
__global__ void blocks_count_together(float* out) { atomicAdd(&out[threadIdx.x], 1.0f); }
__global__ void shared_atomic(float* out) {
  AVID_SHARED(int, s, [1]);
  if (threadIdx.x == 0) s[0] = 0;
  __syncthreads();
  atomicAdd(&s[0], 1);
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(s[0]);
}
__global__ void barrier_after_a_warp_left_a_loop(float* out) {
  float v = 1.0f;
  for (unsigned i = 0; i < 1 + threadIdx.x / 32; ++i) v = __shfl_xor_sync(0xffffffffu, v, 1);
  __syncthreads();
  out[threadIdx.x] = v;
}

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {

const std::vector<Planted> planted_bugs = {
    {ONE(shared_read_past_end, 64), "nan", "asan use-after-poison", "uninitialised"},
    {ONE(shared_write_past_end, 64), "overrun", "asan use-after-poison", "overrun"},
    {ONE(shared_write_before_start, 64), "overrun", "asan use-after-poison", "overrun"},
    {ONE(dynamic_write_past_end, 64, 256), "overrun", "asan use-after-poison", "overrun"},
    {ONE(arena_write_into_neighbour, 64, 512), "overrun", "asan use-after-poison", "race or overrun"},
    {ONE(arena_larger_than_launched, 64, 256), "shared_size", "shared_size", "shared_size"},
    {ONE(arena_of_two_minds, 64, 256), "shared_size", "shared_size", "shared_size"},
    {ONE(uninitialised_shared, 64), "nan", "nan", "uninitialised"},
    {ONE(global_write_past_end, 64), "unnoticed", "asan heap-buffer-overflow", "unnoticed"},
    {ONE(global_read_past_end, 64), "unnoticed", "asan heap-buffer-overflow", "unnoticed"},
    {WITH_N(local_past_end, 64, 3), "unnoticed", "asan index 4 out of bounds", "unnoticed"},
    {ONE(misaligned_vector, 32), "unnoticed", "asan misaligned address", "unnoticed"},
    {WITH_N(endless_stack, 1, 100000), "signal", "signal", "signal"},
    {TWO_BLOCKS(block_reads_what_another_writes), "unnoticed", "unnoticed", "race"},
    {TWO_BLOCKS(blocks_write_the_same_place), "unnoticed", "unnoticed", "race"},
    {TWO_BLOCKS(block_copies_what_another_writes), "unnoticed", "unnoticed", "race"},
    {ONE(no_barrier, 64), "nan", "nan", "race or uninitialised"},
    {ONE(no_barrier_hidden_going_forward, 64), "nan", "nan", "race or uninitialised"},
    {ONE(no_barrier_before_reuse, 64), "nan", "nan", "race"},
    {ONE(no_warp_barrier, 32), "nan", "nan", "race or uninitialised"},
    {ONE(half_warp_barrier, 32), "nan", "nan", "race or uninitialised"},
    {WITH_N(early_exit, 64, 40), "early_exit", "early_exit", "early_exit"},
    {ONE(divergent_barrier, 64), "divergent_barrier", "divergent_barrier", "divergent_barrier"},
    {ONE(uneven_loop, 64), "early_exit", "early_exit", "early_exit"},
    {ONE(divergent_shuffle, 32), "divergent_warp", "divergent_warp", "divergent_warp"},
    {ONE(shuffle_in_a_branch, 32), "divergent_warp or dead_lane", "divergent_warp or dead_lane",
     "divergent_warp or dead_lane"},
    {ONE(shuffle_against_barrier, 32), "deadlock", "deadlock", "deadlock"},
    {ONE(shuffle_outside_its_mask, 32), "divergent_warp", "divergent_warp", "divergent_warp"},
    {ONE(shuffle_reads_outside_its_mask, 32), "dead_lane", "dead_lane", "dead_lane"},
    {ONE(tensor_core_in_half_a_warp, 48), "dead_lane", "dead_lane", "dead_lane"},
    {ONE(tf32_not_rounded, 32), "bad_operand", "bad_operand", "bad_operand"},
    {ONE(long_sum_in_the_accumulator, 32), "nan", "nan", "nan"},
    {ONE(ldmatrix_misaligned, 32), "misaligned", "misaligned", "misaligned"},
    {ONE(ldmatrix_past_end, 32), "nan", "asan use-after-poison", "uninitialised"},
};

const std::vector<Planted> innocent_kernels = {
    {ONE(with_warp_barrier, 32), "", "", ""},
    {ONE(with_half_warp_barriers, 32), "", "", ""},
    {TWO_BLOCKS(blocks_apart), "", "", ""},
    {TWO_BLOCKS(blocks_count_together), "", "", ""},
    {ONE(shared_atomic, 64), "", "", ""},
    {ONE(long_sum_in_steps, 32), "", "", ""},
    {ONE(barrier_after_a_warp_left_a_loop, 64), "", "", ""},
};

}  // namespace avid::test
