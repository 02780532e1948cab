// tests/sim/planted_copies_kernels.cpp -- bugs with asynchronous copies
#include "tests/sim/planted_launch.h"

namespace avid::kernels {
namespace AVID_GPU {

__global__ void copy_not_waited_for(const float* in, float* out) {
  AVID_SHARED(float, s, [256]);
  cp_async_16(&s[threadIdx.x * 4], in + threadIdx.x * 4);
  cp_async_commit();
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
  cp_async_wait<0>();
}
/// Copies of one half while the other is summed. In the last round the newest group is the one needed.
template <bool kWaitsForTheLast>
AVID_DEVICE void sum_from_two_buffers(const float* in, float* out) {
  AVID_SHARED(float, s, [512]);
  const auto load = [&](int i) {
    cp_async_16(&s[(i & 1) * 256 + threadIdx.x * 4], in + threadIdx.x * 4);
    cp_async_commit();
  };
  float sum = 0.0f;
  load(0);
  for (int i = 0; i < 4; ++i) {
    if (i < 3) load(i + 1);
    if (kWaitsForTheLast && i == 3) {
      cp_async_wait<0>();
    } else {
      cp_async_wait<1>();
    }
    __syncthreads();
    sum += s[(i & 1) * 256 + threadIdx.x];
    __syncthreads();
  }
  cp_async_wait<0>();
  out[threadIdx.x] = sum;
}
__global__ void copy_waits_for_one_too_few(const float* in, float* out) { sum_from_two_buffers<false>(in, out); }
__global__ void double_buffer(const float* in, float* out) { sum_from_two_buffers<true>(in, out); }
__global__ void copy_without_barrier(const float* in, float* out) {
  AVID_SHARED(float, s, [256]);
  cp_async_16(&s[threadIdx.x * 4], in + threadIdx.x * 4);
  cp_async_commit();
  cp_async_wait<0>();  // only this thread's copies
  out[threadIdx.x] = s[(threadIdx.x + 128) & 255];
}
__global__ void copy_into_buffer_in_use(const float* in, float* out) {
  AVID_SHARED(float, s, [256]);
  float wrong = 0.0f;
  for (int i = 0; i < 3; ++i) {
    cp_async_16(&s[threadIdx.x * 4], in + threadIdx.x * 4, i != 1);  // ones, zeros, ones
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    wrong += fabsf(s[(threadIdx.x * 4 + 128) & 255] - (i != 1 ? 1.0f : 0.0f));
  }
  out[threadIdx.x] = wrong == 0.0f ? 1.0f : __uint_as_float(0x7fc00000u);
}
__global__ void copy_never_finished(const float* in, float* out) {
  AVID_SHARED(float, s, [256]);
  cp_async_16(&s[threadIdx.x * 4], in + threadIdx.x * 4);
  cp_async_commit();
  out[threadIdx.x] = 1.0f;
}
__global__ void copy_from_past_end(const float* in, float* out) {
  AVID_SHARED(float, s, [256]);
  cp_async_16(&s[threadIdx.x * 4], in + threadIdx.x * 4 + 4);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}
__global__ void copy_to_misaligned(const float* in, float* out) {
  AVID_SHARED(float, s, [260]);
  cp_async_16(&s[threadIdx.x * 4 + 1], in + threadIdx.x * 4);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = s[threadIdx.x];
}
template <bool kValid>
AVID_DEVICE void copy_from_odd_place(const float* in, float* out) {
  AVID_SHARED(float, s, [256]);
  cp_async_16(&s[threadIdx.x * 4], in + (threadIdx.x * 4 + 2) % 252, kValid);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}
__global__ void copy_from_misaligned(const float* in, float* out) { copy_from_odd_place<true>(in, out); }
__global__ void copy_of_zeros_from_misaligned(const float* in, float* out) { copy_from_odd_place<false>(in, out); }
}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {

const std::vector<Planted> planted_copies = {
    {ONE(copy_not_waited_for, 64), "nan", "asan use-after-poison", "cp_async"},
    {ONE(copy_waits_for_one_too_few, 64), "nan", "asan use-after-poison", "cp_async"},
    {ONE(copy_without_barrier, 64), "nan", "nan", "race or uninitialised"},
    {ONE(copy_into_buffer_in_use, 64), "nan", "nan", "race or cp_async"},
    {ONE(copy_never_finished, 64), "cp_async", "cp_async", "cp_async"},
    {ONE(copy_from_past_end, 64), "unnoticed", "asan heap-buffer-overflow", "unnoticed"},
    {ONE(copy_to_misaligned, 64), "misaligned", "misaligned", "misaligned"},
    {ONE(copy_from_misaligned, 64), "misaligned", "misaligned", "misaligned"},
    {ONE(copy_of_zeros_from_misaligned, 64), "misaligned", "misaligned", "misaligned"},
};

const std::vector<Planted> innocent_copies = {
    {ONE(double_buffer, 64), "", "", ""},
};

}  // namespace avid::test
