// kernels/frames.cu -- between bytes and [-1,1], on a device
//
// Math       f = u / 255 * 2 - 1;  u = trunc(clamp((x + 1) / 2 * 255, 0, 255))
// Parallel   a thread owns a pixel
// Traffic    3 bytes and one 16-byte pack per pixel of 3 colours
// Numerics   true division, no reciprocal: the reciprocal changes which bytes survive the round trip (pixel.md 1.1). A
//            product with a power of two is exact, so that a fused multiply-add changes nothing: the CPU's bits in f32
// Measured   never run on a GPU yet
// Predicted  64 clips of 8x64x64: 40 MB; 0.03 ms at an A100's 1.38 TB/s
// Oracle     kernels/frames_cpu.cpp, compared bit by bit in tests/sim/frames_test.cpp
#include "kernels/frames.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock)
    frames_from_u8_kernel(Rows<const std::uint8_t> u, std::int64_t num_rows, std::int64_t C, Rows<Elem> out) {
  const std::int64_t row = grid_index();
  if (row >= num_rows) return;
  for (std::int64_t first = 0; first < C; first += kPack<Elem>) {
    float v[kPack<Elem>];
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k)
      v[k] = first + k < C ? __fdiv_rn(static_cast<float>(u.row(row)[first + k]), 255.0f) * 2.0f - 1.0f : 0.0f;
    store_pack(out.row(row) + first, v);
  }
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock)
    frames_to_u8_kernel(Rows<const Elem> x, std::int64_t num_rows, std::int64_t C, Rows<std::uint8_t> out) {
  const std::int64_t row = grid_index();
  if (row >= num_rows) return;
  for (std::int64_t c = 0; c < C; ++c) {
    const float level = (to_float(x.row(row)[c]) + 1.0f) * 0.5f * 255.0f;
    out.row(row)[c] = static_cast<std::uint8_t>(fminf(fmaxf(level, 0.0f), 255.0f));  // NaN becomes 0
  }
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void frames_from_u8(
    const Stream& stream, Rows<const std::uint8_t> u, std::int64_t num_rows, std::int64_t C, Rows<Elem> out) {
  AVID_GPU::launch_items(AVID_GPU::frames_from_u8_kernel<Elem>, num_rows, stream, u, num_rows, C, out);
}
template <class Backend, class Elem>
void frames_to_u8(
    const Stream& stream, Rows<const Elem> x, std::int64_t num_rows, std::int64_t C, Rows<std::uint8_t> out) {
  AVID_GPU::launch_items(AVID_GPU::frames_to_u8_kernel<Elem>, num_rows, stream, x, num_rows, C, out);
}

#define AVID_INSTANTIATE(Elem)                                                          \
  template void frames_from_u8<Gpu, Elem>(                                              \
      const Stream&, Rows<const std::uint8_t>, std::int64_t, std::int64_t, Rows<Elem>); \
  template void frames_to_u8<Gpu, Elem>(                                                \
      const Stream&, Rows<const Elem>, std::int64_t, std::int64_t, Rows<std::uint8_t>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
