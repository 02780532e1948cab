// tests/sim/layouts_kernels.cpp -- see layouts.h
#include "tests/sim/layouts.h"

#include "kernels/device/gpu.h"

namespace avid::kernels {
namespace AVID_GPU {

__global__ void mma_kernel(test::MmaShape shape, test::MmaRegisters* r) {
  const unsigned lane = threadIdx.x;
  float d[4];
  if (shape == test::MmaShape::bf16_k16) {
    mma_bf16_16x8x16(d, r->a[lane], r->b[lane], r->c[lane]);
  } else if (shape == test::MmaShape::bf16_k8) {
    const std::uint32_t a[2] = {r->a[lane][0], r->a[lane][1]}, b[1] = {r->b[lane][0]};
    mma_bf16_16x8x8(d, a, b, r->c[lane]);
  } else {
    mma_tf32_16x8x8(d, r->a[lane], r->b[lane], r->c[lane]);
  }
  for (int i = 0; i < 4; ++i) r->d[lane][i] = d[i];
}

template <int kCount, bool kTransposed>
__global__ void ldmatrix_kernel(std::uint32_t (*registers)[4]) {
  AVID_SHARED(std::uint16_t, s, [32][8]);
  for (unsigned i = 0; i < 8; ++i) s[threadIdx.x][i] = static_cast<std::uint16_t>(threadIdx.x * 8 + i);
  __syncthreads();
  // Lanes behind the last row still pass an address; it is not used, and it may be anything.
  const void* row = threadIdx.x < 8 * kCount ? &s[threadIdx.x][0] : nullptr;
  std::uint32_t r[kCount];
  if constexpr (kCount == 1 && !kTransposed) ldmatrix_x1(r, row);
  if constexpr (kCount == 1 && kTransposed) ldmatrix_x1_trans(r, row);
  if constexpr (kCount == 2 && !kTransposed) ldmatrix_x2(r, row);
  if constexpr (kCount == 2 && kTransposed) ldmatrix_x2_trans(r, row);
  if constexpr (kCount == 4 && !kTransposed) ldmatrix_x4(r, shared_address(row));
  if constexpr (kCount == 4 && kTransposed) ldmatrix_x4_trans(r, shared_address(&s[0][0]) + threadIdx.x * 16);
  for (int i = 0; i < kCount; ++i) registers[threadIdx.x][i] = r[i];
}

__global__ void movmatrix_kernel(std::uint32_t* registers) {
  registers[threadIdx.x] = movmatrix(registers[threadIdx.x]);
}
__global__ void to_tf32_kernel(float v, std::uint32_t* out) { *out = to_tf32(v); }

}  // namespace AVID_GPU
}  // namespace avid::kernels

namespace avid::test {

using namespace kernels;

void run_mma(MmaShape shape, MmaRegisters& r) { AVID_GPU::launch(AVID_GPU::mma_kernel, 1, 32, 0, Stream{}, shape, &r); }

void run_ldmatrix(int count, bool transposed, std::uint32_t (&registers)[32][4]) {
  const auto run = [&](auto kernel) { AVID_GPU::launch(kernel, 1, 32, 0, Stream{}, registers); };
  if (count == 1) run(transposed ? AVID_GPU::ldmatrix_kernel<1, true> : AVID_GPU::ldmatrix_kernel<1, false>);
  if (count == 2) run(transposed ? AVID_GPU::ldmatrix_kernel<2, true> : AVID_GPU::ldmatrix_kernel<2, false>);
  if (count == 4) run(transposed ? AVID_GPU::ldmatrix_kernel<4, true> : AVID_GPU::ldmatrix_kernel<4, false>);
}

void run_movmatrix(std::uint32_t (&registers)[32]) {
  AVID_GPU::launch(AVID_GPU::movmatrix_kernel, 1, 32, 0, Stream{}, &registers[0]);
}

std::uint32_t run_to_tf32(float v) {
  std::uint32_t out = 0;
  AVID_GPU::launch(AVID_GPU::to_tf32_kernel, 1, 1, 0, Stream{}, v, &out);
  return out;
}

}  // namespace avid::test
