// kernels/mask_mix.cu -- blend of a frozen prediction with its adapter's, on a device
//
// The smallest complete example of a kernel file here: forward, backward, a sum over everything that is the same in
// every run, rows with gaps. docs/kernels/mask_mix.md walks through it.
//
// Math       m = sigmoid(w * logit + b);  out = m * base + (1 - m) * colour
//            d_m = sum_c d_out * (base - colour);  d_s = d_m * m * (1 - m)
//            d_logit = w * d_s;  d_w = sum d_s * logit;  d_b = sum d_s;  d_colour = (1 - m) * d_out;
//            d_base = m * d_out
// Layout     base, out, d_out, d_base [P,C] and adapter, d_adapter [P,C+1] in rows of whole 16-byte packs: with C = 3 a
//            pixel is one pack of every tensor, in f32 (4 of 4 elements) as in bf16 (3 or 4 of 8). mask [P] in f32,
//            also one pack per pixel
// Parallel   a thread owns a pixel: neighbouring threads touch neighbouring 16 bytes. Forward: one thread per pixel.
//            Backward: at most 1024 blocks of 256 threads step through the pixels together, so that the sums for d_w
//            and d_b leave few partial results; sum_partials_kernel, one block, adds those
// Traffic    C = 3, bytes per pixel, f32 and bf16 alike: forward reads 32 and writes 32, backward reads 64 and writes
//            16 (32 with d_base). About a third (f32) to two thirds (bf16) of it are gaps
// Numerics   f32 arithmetic, one rounding at the store. Two products, not colour + m (base - colour): only that is
//            exact at m = 0 and m = 1. d_w, d_b: pixels in the order of a thread's steps, lanes in a tree, warps in
//            order, blocks in order: cut by P alone, no atomics, the same bits in every run and on every device
// Limits     P < 2^39 (grid.x); any C; element offsets are 64-bit
// Measured   never run on a GPU yet
// Predicted  64 clips of 8x64x64, C = 3: 134 MB forward, 168 MB backward; 0.10 and 0.12 ms at an A100's 1.38 TB/s
// Open       - backward could compute m again from the logit instead of reading it: 16 of 80 bytes per pixel for one
//              exponential
//            - in training, target, loss and this backward pass fit into one kernel (the loss is a sum of squares): out
//              and d_out would never be written
// Oracle     kernels/mask_mix_cpu.cpp in f64, compared in tests/sim/mask_mix_test.cpp
#include "kernels/mask_mix.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) mask_mix_fwd_kernel(MaskMixDeviceArgs<Elem> p) {
  const std::int64_t pixel = grid_index();
  if (pixel >= p.P) return;
  const Elem *base = p.base.row(pixel), *adapter = p.adapter.row(pixel);
  const float m = sigmoid(*p.w * to_float(adapter[p.C]) + *p.b);
  const float mask_row[4] = {m, 0, 0, 0};
  store_pack(p.mask.row(pixel), mask_row);
  for (std::int64_t first = 0; first < p.C; first += kPack<Elem>) {
    float x[kPack<Elem>], a[kPack<Elem>], out[kPack<Elem>];
    load_pack(base + first, x);
    load_pack(adapter + first, a);
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) {
      // Behind the last colour lie the logit (adapter) and the gap (base); out has a gap there, which must be zero.
      out[k] = first + k < p.C ? m * x[k] + (1 - m) * a[k] : 0.0f;
    }
    store_pack(p.out.row(pixel) + first, out);
  }
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock)
    mask_mix_bwd_kernel(MaskMixDeviceArgs<Elem> p, MaskMixDeviceGrads<Elem> g) {
  AVID_SHARED(float, scratch, [2][kPointwiseBlock / 32]);
  const float w = *p.w;
  float sum_w = 0, sum_b = 0;
  for (std::int64_t pixel = grid_index(); pixel < p.P; pixel += grid_threads()) {
    const Elem *base = p.base.row(pixel), *adapter = p.adapter.row(pixel), *d_out = g.d_out.row(pixel);
    const float m = p.mask.row(pixel)[0], logit = to_float(adapter[p.C]);
    float d_m = 0;
    for (std::int64_t first = 0; first < p.C; first += kPack<Elem>) {
      float x[kPack<Elem>], a[kPack<Elem>], d[kPack<Elem>], d_x[kPack<Elem>], d_a[kPack<Elem>];
      load_pack(base + first, x);
      load_pack(adapter + first, a);
      load_pack(d_out + first, d);
#pragma unroll
      for (int k = 0; k < kPack<Elem>; ++k) {
        const bool colour = first + k < p.C;
        d_m += colour ? d[k] * (x[k] - a[k]) : 0.0f;
        d_x[k] = colour ? m * d[k] : 0.0f;
        d_a[k] = colour ? (1 - m) * d[k] : 0.0f;
      }
      if (g.d_base) store_pack(g.d_base.row(pixel) + first, d_x);
      if (g.d_adapter) store_pack(g.d_adapter.row(pixel) + first, d_a);
    }
    const float d_s = d_m * m * (1 - m);
    sum_w += d_s * logit;
    sum_b += d_s;
    // The logit's gradient needs the whole pixel, so it follows the colours: into the gap of their last pack, or, when
    // the colours fill their packs, as the first of one more.
    if (g.d_adapter) {
      Elem* d_adapter = g.d_adapter.row(pixel);
      if (p.C % kPack<Elem> == 0) {
        const float zeros[kPack<Elem>] = {};
        store_pack(d_adapter + p.C, zeros);
      }
      d_adapter[p.C] = to_elem<Elem>(w * d_s);
    }
  }
  if (g.workspace == nullptr) return;  // the same for all threads
  sum_w = block_sum_to_first(sum_w, scratch[0]);
  sum_b = block_sum_to_first(sum_b, scratch[1]);
  if (threadIdx.x != 0) return;
  g.workspace[2 * blockIdx.x] = sum_w;
  g.workspace[2 * blockIdx.x + 1] = sum_b;
}

/// d_w and d_b from the partial sums of num_blocks blocks. One block; f64, as neighbouring partial sums may cancel.
__global__ void __launch_bounds__(kPointwiseBlock)
    sum_partials_kernel(const float* partials, int num_blocks, float* d_w, float* d_b) {
  AVID_SHARED(double, scratch, [2][kPointwiseBlock / 32]);
  double sum_w = 0, sum_b = 0;
  for (int i = threadIdx.x; i < num_blocks; i += kPointwiseBlock) {
    sum_w += partials[2 * i];
    sum_b += partials[2 * i + 1];
  }
  sum_w = block_sum_to_first(sum_w, scratch[0]);
  sum_b = block_sum_to_first(sum_b, scratch[1]);
  if (threadIdx.x != 0) return;
  if (d_w != nullptr) *d_w = static_cast<float>(sum_w);
  if (d_b != nullptr) *d_b = static_cast<float>(sum_b);
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void mask_mix_fwd(const Stream& stream, const MaskMixDeviceArgs<Elem>& p) {
  AVID_GPU::launch_items(AVID_GPU::mask_mix_fwd_kernel<Elem>, p.P, stream, p);
}

template <class Backend, class Elem>
void mask_mix_bwd(const Stream& stream, const MaskMixDeviceArgs<Elem>& p, const MaskMixDeviceGrads<Elem>& any_g) {
  MaskMixDeviceGrads<Elem> g = any_g;
  const bool sums = g.d_w != nullptr || g.d_b != nullptr;
  if (!sums) g.workspace = nullptr;
  const auto num_blocks = static_cast<int>(mask_mix_bwd_workspace(p.P) / 2);
  if (num_blocks > 0)
    AVID_GPU::launch(
        AVID_GPU::mask_mix_bwd_kernel<Elem>, dim3(static_cast<unsigned>(num_blocks)), dim3(AVID_GPU::kPointwiseBlock),
        0, stream, p, g);
  if (sums)
    AVID_GPU::launch(
        AVID_GPU::sum_partials_kernel, dim3(1), dim3(AVID_GPU::kPointwiseBlock), 0, stream, g.workspace, num_blocks,
        g.d_w, g.d_b);
}

#define AVID_INSTANTIATE(Elem)                                                          \
  template void mask_mix_fwd<Gpu, Elem>(const Stream&, const MaskMixDeviceArgs<Elem>&); \
  template void mask_mix_bwd<Gpu, Elem>(const Stream&, const MaskMixDeviceArgs<Elem>&, const MaskMixDeviceGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
