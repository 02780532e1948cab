// kernels/weighted_mse.cu -- squared error with a weight per clip, on a device
//
// Math       loss = (1/B) sum_b weight[b] (1/n) sum_i (p - t)^2,  n = elements per clip;
//            d_p = d_loss weight[b] 2 (p - t) / (B n)
// Layout     rows of pixels in whole 16-byte packs, or the B elements of a vector
// Parallel   forward: blockIdx.y is the clip; a block sums 2048 rows, 8 per thread, into one partial number; one block
//            weighs and adds those. Backward: a thread owns a row
// Traffic    forward reads both tensors, backward reads both and writes one: 32 and 48 bytes per pixel of 3 colours
// Numerics   a thread's 8 rows in f32, everything after in f64, order fixed by shape: the same bits in every run
// Limits     B <= 65535
// Measured   never run on a GPU yet
// Predicted  64 clips of 8x64x64, C = 3: 67 and 101 MB; 0.05 and 0.08 ms at an A100's 1.38 TB/s
// Oracle     kernels/weighted_mse_cpu.cpp in f64, compared in tests/sim/weighted_mse_test.cpp
#include "kernels/weighted_mse.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

constexpr std::int64_t kRowsPerBlock = 2048;  // as in weighted_mse_workspace()

template <class Elem>
AVID_DEVICE float squared_distance(const Elem* p, const Elem* t, std::int64_t C, bool packed) {
  if (!packed) return (to_float(*p) - to_float(*t)) * (to_float(*p) - to_float(*t));  // C = 1
  float sum = 0;
  for (std::int64_t first = 0; first < C; first += kPack<Elem>) {
    float v[kPack<Elem>], w[kPack<Elem>];
    load_pack(p + first, v);
    load_pack(t + first, w);
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) sum += (v[k] - w[k]) * (v[k] - w[k]);  // gaps add zero
  }
  return sum;
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock)
    weighted_mse_fwd_kernel(WeightedMseDeviceArgs<Elem> p, bool packed, double* partial) {
  AVID_SHARED(double, scratch, [kPointwiseBlock / 32]);
  const std::int64_t clip = std::int64_t{blockIdx.y} * p.size.rows_per_clip, begin = blockIdx.x * kRowsPerBlock;
  float sum = 0;
  for (std::int64_t r = begin + threadIdx.x; r < begin + kRowsPerBlock && r < p.size.rows_per_clip;
       r += kPointwiseBlock)
    sum += squared_distance(p.prediction.row(clip + r), p.target.row(clip + r), p.size.C, packed);
  const double total = block_sum_to_first(static_cast<double>(sum), scratch);
  if (threadIdx.x == 0) partial[std::int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = total;
}

/// One block: loss = scale * sum_b weight[b] sum_k partial[b,k]
__global__ void __launch_bounds__(kPointwiseBlock) weigh_partials_kernel(
    const double* partial, const float* weight, std::int64_t B, std::int64_t per_clip, double scale, float* loss) {
  AVID_SHARED(double, scratch, [kPointwiseBlock / 32]);
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < B * per_clip; i += kPointwiseBlock)
    sum += static_cast<double>(weight[i / per_clip]) * partial[i];
  sum = block_sum_to_first(sum, scratch);
  if (threadIdx.x == 0) *loss = static_cast<float>(scale * sum);
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) weighted_mse_bwd_kernel(
    WeightedMseDeviceArgs<Elem> p, bool packed, float scale, const float* d_loss, Rows<Elem> d_prediction) {
  const std::int64_t r = grid_index();
  if (r >= p.size.rows_per_clip) return;
  const std::int64_t row = std::int64_t{blockIdx.y} * p.size.rows_per_clip + r;
  const float factor = *d_loss * p.weight[blockIdx.y] * scale;
  const Elem *prediction = p.prediction.row(row), *target = p.target.row(row);
  if (!packed) {
    *d_prediction.row(row) = to_elem<Elem>(factor * (to_float(*prediction) - to_float(*target)));
    return;
  }
  for (std::int64_t first = 0; first < p.size.C; first += kPack<Elem>) {
    float v[kPack<Elem>], w[kPack<Elem>];
    load_pack(prediction + first, v);
    load_pack(target + first, w);
#pragma unroll
    for (int k = 0; k < kPack<Elem>; ++k) v[k] = first + k < p.size.C ? factor * (v[k] - w[k]) : 0.0f;
    store_pack(d_prediction.row(row) + first, v);
  }
}

template <class Elem>
bool is_packed(const WeightedMseDeviceArgs<Elem>& p) {
  return p.prediction.pitch % kPack<Elem> == 0;
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void weighted_mse_fwd(const Stream& stream, const WeightedMseDeviceArgs<Elem>& p, float* loss, double* workspace) {
  const std::int64_t per_clip = weighted_mse_workspace(p.size) / p.size.B;
  AVID_GPU::launch(
      AVID_GPU::weighted_mse_fwd_kernel<Elem>, dim3(static_cast<unsigned>(per_clip), static_cast<unsigned>(p.size.B)),
      dim3(AVID_GPU::kPointwiseBlock), 0, stream, p, AVID_GPU::is_packed(p), workspace);
  const double scale = 1 / static_cast<double>(p.size.B * p.size.rows_per_clip * p.size.C);
  AVID_GPU::launch(
      AVID_GPU::weigh_partials_kernel, dim3(1), dim3(AVID_GPU::kPointwiseBlock), 0, stream, workspace, p.weight,
      p.size.B, per_clip, scale, loss);
}

template <class Backend, class Elem>
void weighted_mse_bwd(
    const Stream& stream, const WeightedMseDeviceArgs<Elem>& p, const float* d_loss, Rows<Elem> d_prediction) {
  const double numel = static_cast<double>(p.size.B * p.size.rows_per_clip * p.size.C);
  AVID_GPU::launch(
      AVID_GPU::weighted_mse_bwd_kernel<Elem>,
      dim3(static_cast<unsigned>(AVID_GPU::blocks_for(p.size.rows_per_clip)), static_cast<unsigned>(p.size.B)),
      dim3(AVID_GPU::kPointwiseBlock), 0, stream, p, AVID_GPU::is_packed(p), static_cast<float>(2 / numel), d_loss,
      d_prediction);
}

#define AVID_INSTANTIATE(Elem)                                                                                   \
  template void weighted_mse_fwd<Gpu, Elem>(const Stream&, const WeightedMseDeviceArgs<Elem>&, float*, double*); \
  template void weighted_mse_bwd<Gpu, Elem>(                                                                     \
      const Stream&, const WeightedMseDeviceArgs<Elem>&, const float*, Rows<Elem>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
