// kernels/clip_mix.cu -- weighted sum of two videos with factors per clip, on a device
//
// Math       out[b,..] = (of_x[b] x[b,..] + of_y[b] y[b,..]) / divisor[b];  a factor is value * table[t_b], or value
// Layout     flat buffers of equal pitch, whole 16-byte packs
// Parallel   blockIdx.y is the clip, a thread owns one pack; it reads its clip's t and factors itself (from the cache)
// Traffic    reads two, writes one number per element
// Numerics   f32, one fused multiply-add, a true division; one rounding at the store
// Limits     B <= 65535
// Measured   never run on a GPU yet
// Predicted  64 clips of 8x64x64, C = 3: 101 MB; 0.07 ms at an A100's 1.38 TB/s
// Open       a sampling step is four of these and a clamp; one kernel could do it in a third of the traffic
// Oracle     kernels/clip_mix_cpu.cpp, compared in tests/sim/clip_mix_test.cpp
#include "kernels/clip_mix.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

AVID_DEVICE float factor_of(const ClipFactorDevice& f, std::int64_t time, std::int64_t num_times) {
  if (f.table == nullptr) return f.value;
  return time >= 0 && time < num_times ? f.value * f.table[time] : nanf("");
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) clip_mix_kernel(ClipMixDeviceArgs<Elem> p) {
  const std::int64_t begin = grid_index() * kPack<Elem>, elements = p.size.rows_per_clip * p.out.pitch;
  if (begin >= elements) return;
  const std::int64_t time = p.t == nullptr ? 0 : p.t[blockIdx.y];
  const float a = factor_of(p.of_x, time, p.num_times), b = factor_of(p.of_y, time, p.num_times);
  const float divisor = factor_of(p.divisor, time, p.num_times);
  const std::int64_t offset = blockIdx.y * elements + begin, column = begin % p.out.pitch;
  float x[kPack<Elem>], y[kPack<Elem>], out[kPack<Elem>];
  load_pack(p.x.data + offset, x);
  load_pack(p.y.data + offset, y);
#pragma unroll
  for (int k = 0; k < kPack<Elem>; ++k)  // gaps not computed: 0 times a factor that is NaN would be NaN
    out[k] = column + k < p.size.C ? (a * x[k] + b * y[k]) / divisor : 0.0f;
  store_pack(p.out.data + offset, out);
}

__global__ void __launch_bounds__(kPointwiseBlock)
    clip_lookup_kernel(const float* table, std::int64_t num_times, const std::int64_t* t, std::int64_t B, float* out) {
  const std::int64_t b = grid_index();
  if (b < B) out[b] = factor_of({table, 1.0f}, t[b], num_times);
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void clip_mix_fwd(const Stream& stream, const ClipMixDeviceArgs<Elem>& p) {
  const std::int64_t packs = p.size.rows_per_clip * p.out.pitch / AVID_GPU::kPack<Elem>;
  if (packs == 0 || p.size.B == 0) return;
  AVID_GPU::launch(
      AVID_GPU::clip_mix_kernel<Elem>,
      dim3(static_cast<unsigned>(AVID_GPU::blocks_for(packs)), static_cast<unsigned>(p.size.B)),
      dim3(AVID_GPU::kPointwiseBlock), 0, stream, p);
}

template <class Backend>
void clip_lookup(
    const Stream& stream, const float* table, std::int64_t num_times, const std::int64_t* t, std::int64_t B,
    float* out) {
  AVID_GPU::launch_items(AVID_GPU::clip_lookup_kernel, B, stream, table, num_times, t, B, out);
}

template void clip_mix_fwd<Gpu, float>(const Stream&, const ClipMixDeviceArgs<float>&);
template void clip_mix_fwd<Gpu, BFloat16>(const Stream&, const ClipMixDeviceArgs<BFloat16>&);
template void clip_lookup<Gpu>(const Stream&, const float*, std::int64_t, const std::int64_t*, std::int64_t, float*);

}  // namespace avid::kernels
