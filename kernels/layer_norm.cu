// kernels/layer_norm.cu -- LayerNorm over channels (contract: layer_norm.h); also the attention blocks' pre-norm
//
// Math       xh = (x - mean) rstd, rstd = 1 / sqrt(var + eps), var biased;  out = xh gamma + beta
//            q = d_out gamma;  d_x = rstd (q - mean(q) - xh mean(q xh)) + d_residual
//            d_gamma = sum_rows d_out xh;  d_beta = sum_rows d_out
// Layout     rows of channels, 16-byte pitched; chunks of 8 channels (device/row_lanes.h)
// Parallel   C <= 1024: 8 to 32 lanes a row, the row in registers, a block walks rows with a stride of the grid (at
//            most 512 blocks in the backward pass, so that few partial sums remain). Wider: a block per row.
// Traffic    forward 2C, backward 3C (4C with d_residual) elements per row, each once; wider rows up to three times
// Numerics   two-pass variance from registers, f32, one rounding at the store; column sums lanes, warps, blocks in a
//            fixed order: same bits every run
// Limits     rows < 2^31 * 8
// Measured   never run on a GPU yet
// Predicted  bound by DRAM: 85 to 92 % of copy bandwidth (docs/kernels/norm.md)
// Elsewhere  linear_layer_norm.cu: the backward pass at the end of the product that makes d_out
// Oracle     layer_norm_cpu.cpp in f64, tests/sim/layer_norm_test.cpp
#include "kernels/layer_norm.h"

#include "kernels/device/row_lanes.h"

namespace avid::kernels {
namespace AVID_GPU {

template <class Elem, int L, int K>
__global__ void __launch_bounds__(kRowBlock, 1) layer_norm_fwd_kernel(LayerNormDeviceArgs<Elem> p) {
  AVID_SHARED(float4, gamma_table, [2 * L * K]);
  AVID_SHARED(float4, beta_table, [2 * L * K]);
  const int C = static_cast<int>(p.C), lane = threadIdx.x % L;
  for (int c = threadIdx.x; c < L * K * 8; c += kRowBlock) {
    put_coefficient<L * K>(gamma_table, c, c < C ? p.gamma[c] : 0.0f);
    put_coefficient<L * K>(beta_table, c, c < C && p.beta != nullptr ? p.beta[c] : 0.0f);
  }
  __syncthreads();
  // Whole warps go round together: the shuffles need all lanes.
  std::int64_t first = (std::int64_t{blockIdx.x} * (kRowBlock / 32) + threadIdx.x / 32) * (32 / L);
  for (; first < p.num_rows; first += std::int64_t{gridDim.x} * (kRowBlock / L)) {
    const std::int64_t row = first + threadIdx.x % 32 / L;
    const bool active = row < p.num_rows;
    Chunk8<Elem> x[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int c = (lane + j * L) * 8;
      x[j] = load_chunk(p.x.data + row * p.x.pitch + c, active ? C - c : 0);
    }
    const RowMoments m = row_moments<L, K, Elem>(x, lane, C, p.eps);
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = lane + j * L;
      float v[8], gamma[8], beta[8];
      unpack(x[j], v);
      get_coefficients<L * K>(gamma_table, chunk, gamma);
      get_coefficients<L * K>(beta_table, chunk, beta);
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] = fmaf((v[e] - m.mean) * m.rstd, gamma[e], beta[e]);
      store_chunk(p.out.data + row * p.out.pitch + chunk * 8, v, active ? C - chunk * 8 : 0);
    }
  }
}

/// `partial` [gridDim.x,2,W]: sums of d_out xh and of d_out over the block's rows; null when nobody wants them.
template <class Elem, int L, int K>
__global__ void __launch_bounds__(kRowBlock, 1)
    layer_norm_bwd_kernel(LayerNormDeviceArgs<Elem> p, LayerNormDeviceGrads<Elem> g, float* partial) {
  AVID_SHARED(float4, gamma_table, [2 * L * K]);
  AVID_SHARED(float, scratch, [kRowBlock / 32 * L * K * 8]);
  const int C = static_cast<int>(p.C), lane = threadIdx.x % L;
  for (int c = threadIdx.x; c < L * K * 8; c += kRowBlock)
    put_coefficient<L * K>(gamma_table, c, c < C ? p.gamma[c] : 0.0f);
  __syncthreads();
  float sum_gamma[K][8] = {}, sum_beta[K][8] = {};
  std::int64_t first = (std::int64_t{blockIdx.x} * (kRowBlock / 32) + threadIdx.x / 32) * (32 / L);
  for (; first < p.num_rows; first += std::int64_t{gridDim.x} * (kRowBlock / L)) {
    const std::int64_t row = first + threadIdx.x % 32 / L;
    const bool active = row < p.num_rows;
    Chunk8<Elem> x[K], d[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int c = (lane + j * L) * 8, valid = active ? C - c : 0;
      x[j] = load_chunk(p.x.data + row * p.x.pitch + c, valid);
      d[j] = load_chunk(g.d_out.data + row * g.d_out.pitch + c, valid);
    }
    const RowMoments m = row_moments<L, K, Elem>(x, lane, C, p.eps);
    float sum_q = 0, sum_q_xh = 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      float v[8], q[8], gamma[8];
      unpack(x[j], v);
      unpack(d[j], q);
      get_coefficients<L * K>(gamma_table, lane + j * L, gamma);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float xh = (v[e] - m.mean) * m.rstd;  // behind the last channel d and gamma are zero
        sum_gamma[j][e] = fmaf(q[e], xh, sum_gamma[j][e]);
        sum_beta[j][e] += q[e];
        q[e] *= gamma[e];
        sum_q += q[e];
        sum_q_xh = fmaf(q[e], xh, sum_q_xh);
      }
    }
    const float mean_q = lane_sum<L>(sum_q) / static_cast<float>(C);
    const float mean_q_xh = lane_sum<L>(sum_q_xh) / static_cast<float>(C);
    if (g.d_x.data == nullptr) continue;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int c = (lane + j * L) * 8, valid = active ? C - c : 0;
      float v[8], q[8], gamma[8], past[8];
      unpack(x[j], v);
      unpack(d[j], q);
      get_coefficients<L * K>(gamma_table, lane + j * L, gamma);
      Chunk8<Elem> residual{};
      if (g.d_residual.data != nullptr) residual = load_chunk(g.d_residual.data + row * g.d_residual.pitch + c, valid);
      unpack(residual, past);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float xh = (v[e] - m.mean) * m.rstd;
        v[e] = fmaf(m.rstd, fmaf(q[e], gamma[e], -mean_q) - xh * mean_q_xh, past[e]);
      }
      store_chunk(g.d_x.data + row * g.d_x.pitch + c, v, valid);
    }
  }
  if (partial == nullptr) return;
  const int chunks = (C + 7) / 8;
  partial += std::int64_t{blockIdx.x} * 2 * chunks * 8;
  store_column_sums<L, K>(sum_gamma, scratch, partial, chunks);
  store_column_sums<L, K>(sum_beta, scratch, partial + chunks * 8, chunks);
}

// ---- rows of any width: a block per row ----

template <class Elem>
AVID_DEVICE RowMoments wide_moments(const Elem* x, int C, float eps, float* scratch) {
  float sum = 0, squares = 0;
  for (int c = threadIdx.x; c < C; c += kRowBlock) sum += to_float(x[c]);
  const float mean = block_sum(sum, scratch) / static_cast<float>(C);
  for (int c = threadIdx.x; c < C; c += kRowBlock) {
    const float centred = to_float(x[c]) - mean;
    squares = fmaf(centred, centred, squares);
  }
  return {mean, rsqrtf(block_sum(squares, scratch) / static_cast<float>(C) + eps)};
}

template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 1) layer_norm_fwd_wide_kernel(LayerNormDeviceArgs<Elem> p) {
  AVID_SHARED(float, scratch, [kRowBlock / 32]);
  const std::int64_t row = blockIdx.x;
  const int C = static_cast<int>(p.C);
  const Elem* x = p.x.data + row * p.x.pitch;
  const RowMoments m = wide_moments(x, C, p.eps, scratch);
  for (int c = threadIdx.x; c < p.out.pitch; c += kRowBlock) {
    const float beta = c < C && p.beta != nullptr ? p.beta[c] : 0.0f;
    store_elem(
        p.out.data + row * p.out.pitch + c, c < C ? fmaf((to_float(x[c]) - m.mean) * m.rstd, p.gamma[c], beta) : 0.0f);
  }
}

/// Leaves mean and rstd of every row in `moments` [rows,2].
template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 1)
    layer_norm_bwd_wide_kernel(LayerNormDeviceArgs<Elem> p, LayerNormDeviceGrads<Elem> g, float* moments) {
  AVID_SHARED(float, scratch, [kRowBlock / 32]);
  const std::int64_t row = blockIdx.x;
  const int C = static_cast<int>(p.C);
  const Elem *x = p.x.data + row * p.x.pitch, *d = g.d_out.data + row * g.d_out.pitch;
  const RowMoments m = wide_moments(x, C, p.eps, scratch);
  if (threadIdx.x == 0) {
    moments[2 * row] = m.mean;
    moments[2 * row + 1] = m.rstd;
  }
  if (g.d_x.data == nullptr) return;
  float sum_q = 0, sum_q_xh = 0;
  for (int c = threadIdx.x; c < C; c += kRowBlock) {
    const float q = to_float(d[c]) * p.gamma[c];
    sum_q += q;
    sum_q_xh = fmaf(q, (to_float(x[c]) - m.mean) * m.rstd, sum_q_xh);
  }
  const float mean_q = block_sum(sum_q, scratch) / static_cast<float>(C);
  const float mean_q_xh = block_sum(sum_q_xh, scratch) / static_cast<float>(C);
  for (int c = threadIdx.x; c < g.d_x.pitch; c += kRowBlock) {
    float out = 0;
    if (c < C) {
      const float xh = (to_float(x[c]) - m.mean) * m.rstd;
      out = m.rstd * (fmaf(to_float(d[c]), p.gamma[c], -mean_q) - xh * mean_q_xh);
      if (g.d_residual.data != nullptr) out += to_float(g.d_residual.data[row * g.d_residual.pitch + c]);
    }
    store_elem(g.d_x.data + row * g.d_x.pitch + c, out);
  }
}

/// The partial sums of wide rows: a thread per channel; block x takes every gridDim.x-th row. grid (partials,
/// columns).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 1) layer_norm_sums_wide_kernel(
    LayerNormDeviceArgs<Elem> p, Rows<const Elem> d_out, const float* moments, float* partial) {
  const int C = static_cast<int>(p.C), W = (C + 7) / 8 * 8;
  const int c = static_cast<int>(blockIdx.y) * kRowBlock + threadIdx.x;
  if (c >= C) return;
  float sum_gamma = 0, sum_beta = 0;
  for (std::int64_t row = blockIdx.x; row < p.num_rows; row += gridDim.x) {
    const float d = to_float(d_out.data[row * d_out.pitch + c]);
    const float xh = (to_float(p.x.data[row * p.x.pitch + c]) - moments[2 * row]) * moments[2 * row + 1];
    sum_gamma = fmaf(d, xh, sum_gamma);
    sum_beta += d;
  }
  partial += std::int64_t{blockIdx.x} * 2 * W;
  partial[c] = sum_gamma;
  partial[W + c] = sum_beta;
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void layer_norm_fwd(const Stream& stream, const LayerNormDeviceArgs<Elem>& p) {
  using namespace AVID_GPU;
  if (p.num_rows == 0) return;
  if (p.C > kMaxLaneChannels) {
    launch(layer_norm_fwd_wide_kernel<Elem>, dim3(static_cast<unsigned>(p.num_rows)), dim3(kRowBlock), 0, stream, p);
    return;
  }
  with_row_lanes<Elem>(p.C, [&]<int L, int K>() {
    constexpr std::int64_t kPassRows = kRowBlock / L, kPasses = 8;  // rows of a block, to fill its tables seldom
    const std::int64_t blocks = (p.num_rows + kPassRows * kPasses - 1) / (kPassRows * kPasses);
    launch(layer_norm_fwd_kernel<Elem, L, K>, dim3(static_cast<unsigned>(blocks)), dim3(kRowBlock), 0, stream, p);
  });
}

template <class Backend, class Elem>
void layer_norm_bwd(const Stream& stream, const LayerNormDeviceArgs<Elem>& p, const LayerNormDeviceGrads<Elem>& g) {
  using namespace AVID_GPU;
  const bool sums = g.d_gamma != nullptr || g.d_beta != nullptr;
  const std::int64_t W = (p.C + 7) / 8 * 8;
  // Workspace: partial [blocks,2,W], and for wide rows mean and rstd [rows,2].
  float* partial = sums ? g.workspace : nullptr;
  std::int64_t blocks = p.num_rows < kMaxLayerNormBlocks ? p.num_rows : kMaxLayerNormBlocks;
  if (p.num_rows > 0 && p.C <= kMaxLaneChannels) {
    with_row_lanes<Elem>(p.C, [&]<int L, int K>() {
      constexpr std::int64_t kPassRows = kRowBlock / L;
      const std::int64_t passes = (p.num_rows + kPassRows - 1) / kPassRows;
      blocks = passes < kMaxLayerNormBlocks ? passes : kMaxLayerNormBlocks;
      launch(
          layer_norm_bwd_kernel<Elem, L, K>, dim3(static_cast<unsigned>(blocks)), dim3(kRowBlock), 0, stream, p, g,
          partial);
    });
  } else if (p.num_rows > 0) {
    float* moments = g.workspace + kMaxLayerNormBlocks * 2 * W;
    launch(
        layer_norm_bwd_wide_kernel<Elem>, dim3(static_cast<unsigned>(p.num_rows)), dim3(kRowBlock), 0, stream, p, g,
        moments);
    if (sums)
      launch(
          layer_norm_sums_wide_kernel<Elem>,
          dim3(static_cast<unsigned>(blocks), static_cast<unsigned>((p.C + kRowBlock - 1) / kRowBlock)),
          dim3(kRowBlock), 0, stream, p, g.d_out, static_cast<const float*>(moments), partial);
  }
  if (g.d_gamma != nullptr) sum_rows(stream, partial, blocks, 2 * W, p.C, g.d_gamma);
  if (g.d_beta != nullptr) sum_rows(stream, partial + W, blocks, 2 * W, p.C, g.d_beta);
}

#define AVID_INSTANTIATE(Elem)                                                              \
  template void layer_norm_fwd<Gpu, Elem>(const Stream&, const LayerNormDeviceArgs<Elem>&); \
  template void layer_norm_bwd<Gpu, Elem>(                                                  \
      const Stream&, const LayerNormDeviceArgs<Elem>&, const LayerNormDeviceGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
