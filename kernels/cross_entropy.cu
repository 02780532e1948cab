// kernels/cross_entropy.cu -- mean negative log-probability of the right class, on a device
//
// Math       log softmax with the row's maximum taken out
// Parallel   a warp owns a row of logits, lanes step through the classes; one block adds the rows' losses
// Numerics   f32 within a row, lanes in a tree; f64 over the rows, order fixed by shape: the same bits in every run
// Limits     meant for a few hundred rows of tens of classes
// Measured   never run on a GPU yet
// Predicted  two launches forward, one backward: 3 us each
// Oracle     kernels/cross_entropy_cpu.cpp in f64, compared in tests/sim/cross_entropy_test.cpp
#include "kernels/cross_entropy.h"

#include "kernels/device/pointwise.h"

namespace avid::kernels {
namespace AVID_GPU {
namespace {

/// log sum exp of a row, in all lanes of the warp that calls it.
template <class Elem>
AVID_DEVICE float warp_log_sum_exp(const Elem* logits, std::int64_t A) {
  const int lane = threadIdx.x % 32;
  float largest = -__uint_as_float(0x7f800000u);
  for (std::int64_t a = lane; a < A; a += 32) largest = fmaxf(largest, to_float(logits[a]));
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, o));
  float sum = 0;
  for (std::int64_t a = lane; a < A; a += 32) sum += expf(to_float(logits[a]) - largest);
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
  return largest + logf(sum);
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) row_losses_kernel(
    Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A, float* losses) {
  const std::int64_t row = grid_index() / 32;
  if (row >= num_rows) return;  // a whole warp leaves
  const float normaliser = warp_log_sum_exp(logits.row(row), A);
  if (threadIdx.x % 32 != 0) return;
  const std::int64_t id = ids[row];
  losses[row] = id >= 0 && id < A ? normaliser - to_float(logits.row(row)[id]) : nanf("");
}

/// One block: loss = mean of the rows' losses.
__global__ void __launch_bounds__(kPointwiseBlock)
    mean_loss_kernel(const float* losses, std::int64_t num_rows, float* loss) {
  AVID_SHARED(double, scratch, [kPointwiseBlock / 32]);
  double sum = 0;
  for (std::int64_t r = threadIdx.x; r < num_rows; r += kPointwiseBlock) sum += static_cast<double>(losses[r]);
  sum = block_sum_to_first(sum, scratch);
  if (threadIdx.x == 0) *loss = static_cast<float>(sum / static_cast<double>(num_rows));
}

template <class Elem>
__global__ void __launch_bounds__(kPointwiseBlock) cross_entropy_bwd_kernel(
    Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A, const float* d_loss,
    Rows<Elem> d_logits) {
  const std::int64_t row = grid_index() / 32;
  if (row >= num_rows) return;
  const float normaliser = warp_log_sum_exp(logits.row(row), A);
  const std::int64_t id = ids[row];
  const float factor = id >= 0 && id < A ? *d_loss / static_cast<float>(num_rows) : nanf("");
  for (std::int64_t a = threadIdx.x % 32; a < A; a += 32) {
    const float probability = expf(to_float(logits.row(row)[a]) - normaliser);
    d_logits.row(row)[a] = to_elem<Elem>(factor * (probability - (a == id ? 1.0f : 0.0f)));
  }
}

}  // namespace
}  // namespace AVID_GPU

template <class Backend, class Elem>
void cross_entropy_fwd(
    const Stream& stream, Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A,
    float* loss, float* workspace) {
  AVID_GPU::launch_items(AVID_GPU::row_losses_kernel<Elem>, 32 * num_rows, stream, logits, ids, num_rows, A, workspace);
  AVID_GPU::launch(
      AVID_GPU::mean_loss_kernel, dim3(1), dim3(AVID_GPU::kPointwiseBlock), 0, stream, workspace, num_rows, loss);
}

template <class Backend, class Elem>
void cross_entropy_bwd(
    const Stream& stream, Rows<const Elem> logits, const std::int64_t* ids, std::int64_t num_rows, std::int64_t A,
    const float* d_loss, Rows<Elem> d_logits) {
  AVID_GPU::launch_items(
      AVID_GPU::cross_entropy_bwd_kernel<Elem>, 32 * num_rows, stream, logits, ids, num_rows, A, d_loss, d_logits);
}

#define AVID_INSTANTIATE(Elem)                                                                           \
  template void cross_entropy_fwd<Gpu, Elem>(                                                            \
      const Stream&, Rows<const Elem>, const std::int64_t*, std::int64_t, std::int64_t, float*, float*); \
  template void cross_entropy_bwd<Gpu, Elem>(                                                            \
      const Stream&, Rows<const Elem>, const std::int64_t*, std::int64_t, std::int64_t, const float*, Rows<Elem>);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
