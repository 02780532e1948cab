// kernels/philox.cu -- arrays of random numbers on a device
//
// Math       kernels/philox.h: number e of an array is word e % 4 of Philox block e / 4, whatever the array's cut
// Parallel   a thread makes one block, four numbers, and puts those inside the array where they belong
// Traffic    writes the output once; about 100 integer and 40 float operations per number
// Numerics   integers as on the CPU; f32 normal numbers by the same steps as on the CPU (kernels/device/normal.h)
// Limits     fewer than 2^41 numbers; gaps stay as they are
// Measured   never run on a GPU yet
// Predicted  64 clips of 8x64x64, C = 3, f32: 34 MB and 0.9 Gop: 0.04 ms on an A100
// Open       noising inside this kernel (x_t would be the only thing written)
// Oracle     kernels/philox_cpu.cpp, compared in tests/sim/philox_test.cpp
#include "kernels/philox.h"

#include <cmath>

#include "kernels/device/normal.h"
#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

/// Writes number 4 * block + i of the stream where it lies in the array; `first` is the number at element 0.
template <class Elem>
AVID_DEVICE void put_block(
    const float (&numbers)[4], std::uint64_t block, std::uint64_t first, std::int64_t rows, std::int64_t cols,
    std::int64_t pitch, Elem* out) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto element = static_cast<std::int64_t>(4 * block + i - first);  // negative before the array
    if (element >= 0 && element < rows * cols) out[element / cols * pitch + element % cols] = to_elem<Elem>(numbers[i]);
  }
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) normal_fill_kernel(
    Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, PhiloxStream stream, std::uint64_t first) {
  const std::uint64_t block = first / 4 + static_cast<std::uint64_t>(grid_index());
  float numbers[4];
  normal_block(stream, block, numbers);
  put_block(numbers, block, first, rows, cols, pitch, out);
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) uniform_fill_kernel(
    Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch, PhiloxStream stream, std::uint64_t first,
    double low, double span, float limit, float below) {
  const std::uint64_t block = first / 4 + static_cast<std::uint64_t>(grid_index());
  const uint4 w = philox_block(stream, block);
  const std::uint32_t words[4] = {w.x, w.y, w.z, w.w};
  float numbers[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto v = static_cast<float>(fma(span, static_cast<double>(words[i] >> 8), low));
    numbers[i] = v < limit ? v : below;
  }
  put_block(numbers, block, first, rows, cols, pitch, out);
}

/// Philox blocks that overlap numbers first .. first + count - 1.
std::int64_t blocks_over(std::uint64_t first, std::int64_t count) {
  if (count == 0) return 0;
  return static_cast<std::int64_t>((first + static_cast<std::uint64_t>(count) - 1) / 4 - first / 4) + 1;
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void normal_fill(
    const Stream& stream, Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch,
    const PhiloxStream& numbers, std::uint64_t first) {
  AVID_GPU::launch_items(
      AVID_GPU::normal_fill_kernel<Elem>, AVID_GPU::blocks_over(first, rows * cols), stream, out, rows, cols, pitch,
      numbers, first);
}

template <class Backend, class Elem>
void uniform_fill(
    const Stream& stream, Elem* out, std::int64_t rows, std::int64_t cols, std::int64_t pitch,
    const PhiloxStream& numbers, std::uint64_t first, double low, double high) {
  const auto limit = static_cast<float>(high);
  const float below = std::nextafter(limit, static_cast<float>(low));
  AVID_GPU::launch_items(
      AVID_GPU::uniform_fill_kernel<Elem>, AVID_GPU::blocks_over(first, rows * cols), stream, out, rows, cols, pitch,
      numbers, first, low, (high - low) * 0x1p-24, limit, below);
}

#define AVID_INSTANTIATE(Elem)                                                                                    \
  template void normal_fill<Gpu, Elem>(                                                                           \
      const Stream&, Elem*, std::int64_t, std::int64_t, std::int64_t, const PhiloxStream&, std::uint64_t);        \
  template void uniform_fill<Gpu, Elem>(                                                                          \
      const Stream&, Elem*, std::int64_t, std::int64_t, std::int64_t, const PhiloxStream&, std::uint64_t, double, \
      double);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
