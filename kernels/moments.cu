// kernels/moments.cu -- sum, sum of squares, least and largest element of rows, on a device
//
// Math       sum (x - shift), sum (x - shift)^2, min x, max x
// Layout     rows [P,C]; gaps are not looked at
// Parallel   at most 256 blocks of 256 threads step through the elements; the caller adds the blocks' results in order
// Traffic    4 bytes per element (a mask of one channel: 16, its rows are padded)
// Numerics   f64 sums: thread by thread in steps, lanes in a tree, warps in order
// Measured   never run on a GPU yet
// Open       a mask's statistics could be partial results of mask_mix itself, which has the mask in registers
// Oracle     host loops, in tests/sim/moments_test.cpp
#include "kernels/moments.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {

__global__ void __launch_bounds__(kPointwiseBlock) moments_kernel(MomentsArgs p) {
  AVID_SHARED(double, scratch, [4][kPointwiseBlock / 32]);
  double sum = 0, squares = 0;
  float least = INFINITY, largest = -INFINITY;
  for (std::int64_t i = grid_index(); i < p.P * p.C; i += grid_threads()) {
    const float x = p.x.row(i / p.C)[i % p.C];
    const double d = x - p.shift;
    sum += d;
    squares += d * d;
    least = x < least ? x : least;
    largest = x > largest ? x : largest;
  }
  sum = block_sum_to_first(sum, scratch[0]);
  squares = block_sum_to_first(squares, scratch[1]);
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    least = fminf(least, __shfl_down_sync(0xffffffffu, least, o));
    largest = fmaxf(largest, __shfl_down_sync(0xffffffffu, largest, o));
  }
  if (threadIdx.x % 32 == 0) {
    scratch[2][threadIdx.x / 32] = least;
    scratch[3][threadIdx.x / 32] = largest;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double* out = p.partials + 4 * std::int64_t{blockIdx.x};
  out[0] = sum;
  out[1] = squares;
  out[2] = scratch[2][0];
  out[3] = scratch[3][0];
  for (int w = 1; w < kPointwiseBlock / 32; ++w) {
    out[2] = scratch[2][w] < out[2] ? scratch[2][w] : out[2];
    out[3] = scratch[3][w] > out[3] ? scratch[3][w] : out[3];
  }
}

}  // namespace AVID_GPU

template <class Backend>
void moments(const Stream& stream, const MomentsArgs& p) {
  const std::int64_t blocks = moments_blocks(p.P * p.C);
  if (blocks > 0)
    AVID_GPU::launch(
        AVID_GPU::moments_kernel, dim3(static_cast<unsigned>(blocks)), dim3(AVID_GPU::kPointwiseBlock), 0, stream, p);
}

template void moments<Gpu>(const Stream&, const MomentsArgs&);

}  // namespace avid::kernels
