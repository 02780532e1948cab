// kernels/unet_input.cu -- conditioning frames as channels, then the noisy video, then the base's output; on a device
//
// Layout     rows of pixels in whole 16-byte packs
// Parallel   a thread owns a pixel: it gathers the channels one by one (its neighbours want the neighbouring pixels, so
//            that the loads of a warp share cache lines) and stores whole packs
// Traffic    K = 2, C = 3, with base: reads 64 bytes per pixel (the conditioning frames from the cache for all but the
//            first generated frame), writes 48 (f32) or 32 (bf16)
// Numerics   copies
// Limits     B*T*S < 2^39
// Measured   never run on a GPU yet
// Predicted  64 clips of 8x64x64 bf16: 0.14 GB; 0.10 ms at an A100's 1.38 TB/s
// Open       noise, u8 decoding and this assembly in one kernel (the video would be written once)
// Oracle     kernels/unet_input_cpu.cpp, compared in tests/sim/unet_input_test.cpp
#include "kernels/unet_input.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) unet_input_fwd_kernel(
    UnetInputSizes size, Rows<const Elem> cond, Rows<const Elem> x_t, Rows<const Elem> base, Rows<Elem> out) {
  const std::int64_t row = grid_index();
  if (row >= size.B * size.T * size.S) return;
  const std::int64_t pixel = row % size.S, clip = row / size.S / size.T;
  const int C = static_cast<int>(size.C), K = static_cast<int>(size.K);
  const int channels = C * K + C + (base ? C : 0);
  const auto channel = [&](int c) {
    if (c < C * K) return to_float(cond.row((clip * K + c % K) * size.S + pixel)[c / K]);
    c -= C * K;
    return to_float(c < C ? x_t.row(row)[c] : base.row(row)[c - C]);
  };
  for (int first = 0; first < channels; first += kPack<Elem>) {
    float v[kPack<Elem>];
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) v[k] = first + k < channels ? channel(first + k) : 0.0f;
    store_pack(out.row(row) + first, v);
  }
}

/// The C channels of a row from `begin` on, into a row of their own.
template <class Elem>
AVID_DEVICE void copy_channels(const Elem* from, std::int64_t begin, std::int64_t C, Elem* to) {
  for (std::int64_t first = 0; first < C; first += kPack<Elem>) {
    float v[kPack<Elem>];
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) v[k] = first + k < C ? to_float(from[begin + first + k]) : 0.0f;
    store_pack(to + first, v);
  }
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock)
    unet_input_bwd_kernel(UnetInputSizes size, Rows<const Elem> d_out, Rows<Elem> d_x_t, Rows<Elem> d_base) {
  const std::int64_t row = grid_index(), first = size.C * size.K;
  if (row >= size.B * size.T * size.S) return;
  if (d_x_t) copy_channels(d_out.row(row), first, size.C, d_x_t.row(row));
  if (d_base) copy_channels(d_out.row(row), first + size.C, size.C, d_base.row(row));
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void unet_input_fwd(
    const Stream& stream, const UnetInputSizes& size, Rows<const Elem> cond, Rows<const Elem> x_t,
    Rows<const Elem> base, Rows<Elem> out) {
  AVID_GPU::launch_items(
      AVID_GPU::unet_input_fwd_kernel<Elem>, size.B * size.T * size.S, stream, size, cond, x_t, base, out);
}

template <class Backend, class Elem>
void unet_input_bwd(
    const Stream& stream, const UnetInputSizes& size, Rows<const Elem> d_out, Rows<Elem> d_x_t, Rows<Elem> d_base) {
  AVID_GPU::launch_items(
      AVID_GPU::unet_input_bwd_kernel<Elem>, size.B * size.T * size.S, stream, size, d_out, d_x_t, d_base);
}

#define AVID_INSTANTIATE(Elem)                                                                                 \
  template void unet_input_fwd<Gpu, Elem>(                                                                     \
      const Stream&, const UnetInputSizes&, Rows<const Elem>, Rows<const Elem>, Rows<const Elem>, Rows<Elem>); \
  template void unet_input_bwd<Gpu, Elem>(                                                                     \
      const Stream&, const UnetInputSizes&, Rows<const Elem>, Rows<Elem>, Rows<Elem>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
