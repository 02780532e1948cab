// kernels/group_norm_silu.cu -- GroupNorm and SiLU (contract: group_norm_silu.h)
//
// Math       group_norm_silu_cpu.cpp
// Layout     rows of channels, 16-byte pitched; a thread takes chunks of 8 channels (device/row_lanes.h)
// Parallel   a block owns 256 rows of one item and 64 channels: 8 chunks side by side (one 128-byte line of bf16), 32
//            rows at a time. Statistics leave a block per channel and slab; a warp per (item, group) combines them.
//            So an image of any size fills the device, and groups that straddle chunks (10 channels) need no special
//            case.
// Traffic    forward: x twice, out once; backward: x three times, d_out twice, d_x once
// Numerics   f32. Per slab and channel sums of x - x[first row] and of its square (the shift keeps what cancels
//            small), as mean and centred square; slabs and channels are combined by Chan's formula, never E[x^2] -
//            E[x]^2. Fixed order: same bits every run
// Limits     items * slabs < 2^31, C / 64 < 65536
// Measured   never run on a GPU yet
// Open       partial sums from the epilogue of the convolution before it save the first read
// Oracle     group_norm_silu_cpu.cpp in f64, tests/sim/group_norm_silu_test.cpp
#include "kernels/group_norm_silu.h"

#include "kernels/device/row_lanes.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kChunkLanes = 8, kRowLanes = 32;  ///< of a block of 256 threads

template <class Elem>
struct GroupNorm {
  std::int64_t I;
  int R, C, G, slabs, W;  ///< W: C rounded up to 8
  float eps;
  bool silu;
  Rows<const Elem> x;
  const float *gamma, *beta;
  float* partial;  ///< [I,slabs,2,W]: mean and centred square; backward: sums of d_z xh and of d_z
  float* items;    ///< [I,2,W]: sums of items, backward
  float* moments;  ///< [I,G,4]: mean, rstd; backward also mean(q), mean(q xh)
};

/// What a thread works on: item, slab, first channel and how many of its eight exist.
struct GroupNormPlace {
  std::int64_t item;
  int slab, begin, end, lane, c0, valid;
  AVID_DEVICE GroupNormPlace(int slabs, int R, int C)
      : item(blockIdx.x / slabs),
        slab(static_cast<int>(blockIdx.x % slabs)),
        begin(slab * static_cast<int>(kGroupNormSlab)),
        end(min(R, begin + static_cast<int>(kGroupNormSlab))),
        lane(threadIdx.x / kChunkLanes),
        c0((static_cast<int>(blockIdx.y) * kChunkLanes + static_cast<int>(threadIdx.x % kChunkLanes)) * 8),
        valid(C - c0) {}
};

/// Adds eight sums per thread over the row lanes, in order; the result is in lane 0. Two barriers.
AVID_DEVICE void add_row_lanes(float (&v)[8], float* scratch) {
  const int chunk = threadIdx.x % kChunkLanes, lane = threadIdx.x / kChunkLanes;
  __syncthreads();
#pragma unroll
  for (int e = 0; e < 8; ++e) scratch[(lane * kChunkLanes + chunk) * 9 + e] = v[e];
  __syncthreads();
  if (lane != 0) return;
  for (int l = 1; l < kRowLanes; ++l)
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] += scratch[(l * kChunkLanes + chunk) * 9 + e];
}

/// Mean and centred square of every channel of a slab. Grid (I * slabs, C / 64).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 2) group_norm_statistics_kernel(GroupNorm<Elem> p) {
  AVID_SHARED(float, scratch, [kRowBlock * 9]);
  const GroupNormPlace at(p.slabs, p.R, p.C);
  const Elem* x = p.x.data + at.item * p.R * p.x.pitch + at.c0;
  float shift[8], sum[8] = {}, squares[8] = {};
  unpack(load_chunk(x + std::int64_t{at.begin} * p.x.pitch, at.valid), shift);
  for (int r = at.begin + at.lane; r < at.end; r += kRowLanes) {
    float v[8];
    unpack(load_chunk(x + std::int64_t{r} * p.x.pitch, at.valid), v);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const float centred = v[e] - shift[e];
      sum[e] += centred;
      squares[e] = fmaf(centred, centred, squares[e]);
    }
  }
  add_row_lanes(sum, scratch);
  add_row_lanes(squares, scratch);
  if (at.lane != 0 || at.valid <= 0) return;
  float* out = p.partial + (at.item * p.slabs + at.slab) * 2 * p.W + at.c0;
  const float count = static_cast<float>(at.end - at.begin);
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const float mean = sum[e] / count;
    out[e] = shift[e] + mean;
    out[p.W + e] = fmaxf(squares[e] - sum[e] * mean, 0.0f);
  }
}

struct Spread {
  float count, mean, squares;
};
/// Chan's combination of two disjoint sets.
AVID_DEVICE Spread combine(const Spread& a, const Spread& b) {
  const float count = a.count + b.count;
  if (count == 0.0f) return a;
  const float delta = b.mean - a.mean, share = b.count / count;
  return {count, fmaf(delta, share, a.mean), a.squares + b.squares + delta * delta * a.count * share};
}

/// moments of a group from its slabs and channels. Grid (I, G), one warp.
template <class Elem>
__global__ void __launch_bounds__(32, 16) group_norm_moments_kernel(GroupNorm<Elem> p) {
  const std::int64_t item = blockIdx.x;
  const int per_group = p.C / p.G, first = static_cast<int>(blockIdx.y) * per_group, lane = threadIdx.x;
  Spread all{0, 0, 0};
  for (int i = lane; i < p.slabs * per_group; i += 32) {
    const int slab = i / per_group, c = first + i % per_group;
    const float* from = p.partial + (item * p.slabs + slab) * 2 * p.W;
    const int rows = min(p.R - slab * static_cast<int>(kGroupNormSlab), static_cast<int>(kGroupNormSlab));
    all = combine(all, {static_cast<float>(rows), from[c], from[p.W + c]});
  }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    const Spread other{
        __shfl_down_sync(0xffffffffu, all.count, o), __shfl_down_sync(0xffffffffu, all.mean, o),
        __shfl_down_sync(0xffffffffu, all.squares, o)};
    all = combine(all, other);
  }
  if (lane != 0) return;
  float* out = p.moments + (item * p.G + blockIdx.y) * 4;
  out[0] = all.mean;
  out[1] = 1.0f / sqrtf(all.squares / all.count + p.eps);
}

template <class Elem>
AVID_DEVICE float sigmoid_of(float z) {
  if constexpr (sizeof(Elem) == 2) return __fdividef(1.0f, 1.0f + __expf(-z));
  return 1.0f / (1.0f + expf(-z));
}

/// Eight channels' group and parameters in registers.
struct ChannelNorms {
  float mean[8], rstd[8], gamma[8], beta[8];
  template <class Elem>
  AVID_DEVICE ChannelNorms(const GroupNorm<Elem>& p, const GroupNormPlace& at) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int c = at.c0 + e;
      const bool exists = e < at.valid;
      const float* m = p.moments + (at.item * p.G + (exists ? c / (p.C / p.G) : 0)) * 4;
      mean[e] = m[0], rstd[e] = m[1];
      gamma[e] = exists ? p.gamma[c] : 0.0f;
      beta[e] = exists ? p.beta[c] : 0.0f;
    }
  }
};

/// Grid (I * slabs, C / 64).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 2) group_norm_apply_kernel(GroupNorm<Elem> p, Rows<Elem> out) {
  const GroupNormPlace at(p.slabs, p.R, p.C);
  if (at.valid <= 0) return;
  const ChannelNorms norms(p, at);
  for (int r = at.begin + at.lane; r < at.end; r += kRowLanes) {
    const std::int64_t row = at.item * p.R + r;
    float v[8];
    unpack(load_chunk(p.x.data + row * p.x.pitch + at.c0, at.valid), v);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const float z = fmaf((v[e] - norms.mean[e]) * norms.rstd[e], norms.gamma[e], norms.beta[e]);
      v[e] = p.silu ? z * sigmoid_of<Elem>(z) : z;
    }
    store_chunk(out.data + row * out.pitch + at.c0, v, at.valid);
  }
}

/// d_z and xh of one element.
template <class Elem>
AVID_DEVICE float2 group_norm_d_z(const ChannelNorms& norms, int e, float x, float d_out, bool silu) {
  const float xh = (x - norms.mean[e]) * norms.rstd[e];
  if (!silu) return make_float2(d_out, xh);
  const float z = fmaf(xh, norms.gamma[e], norms.beta[e]), s = sigmoid_of<Elem>(z);
  return make_float2(d_out * s * fmaf(z, 1.0f - s, 1.0f), xh);
}

/// partial = sums of d_z xh and of d_z over a slab. Grid (I * slabs, C / 64).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 2) group_norm_sums_kernel(GroupNorm<Elem> p, Rows<const Elem> d_out) {
  AVID_SHARED(float, scratch, [kRowBlock * 9]);
  const GroupNormPlace at(p.slabs, p.R, p.C);
  const ChannelNorms norms(p, at);
  float sum_zx[8] = {}, sum_z[8] = {};
  for (int r = at.begin + at.lane; r < at.end; r += kRowLanes) {
    const std::int64_t row = at.item * p.R + r;
    float v[8], d[8];
    unpack(load_chunk(p.x.data + row * p.x.pitch + at.c0, at.valid), v);
    unpack(load_chunk(d_out.data + row * d_out.pitch + at.c0, at.valid), d);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const float2 zx = group_norm_d_z<Elem>(norms, e, v[e], d[e], p.silu);
      sum_zx[e] = fmaf(zx.x, zx.y, sum_zx[e]);
      sum_z[e] += zx.x;
    }
  }
  add_row_lanes(sum_zx, scratch);
  add_row_lanes(sum_z, scratch);
  if (at.lane != 0 || at.valid <= 0) return;
  float* out = p.partial + (at.item * p.slabs + at.slab) * 2 * p.W + at.c0;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    out[e] = sum_zx[e];
    out[p.W + e] = sum_z[e];
  }
}

/// Adds the slabs of an item in order. Grid (I, 2 W / 256).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 2) group_norm_items_kernel(GroupNorm<Elem> p) {
  const std::int64_t item = blockIdx.x;
  const int i = static_cast<int>(blockIdx.y) * kRowBlock + threadIdx.x;
  if (i >= 2 * p.W) return;
  float sum = 0;
  for (int slab = 0; slab < p.slabs; ++slab) sum += p.partial[(item * p.slabs + slab) * 2 * p.W + i];
  p.items[item * 2 * p.W + i] = sum;
}

/// moments[2..3] = means of q and of q xh over a group. A thread per (item, group).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 2) group_norm_means_kernel(GroupNorm<Elem> p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kRowBlock + threadIdx.x;
  if (i >= p.I * p.G) return;
  const int per_group = p.C / p.G, first = static_cast<int>(i % p.G) * per_group;
  const float* sums = p.items + i / p.G * 2 * p.W;
  float q = 0, q_xh = 0;
  for (int c = first; c < first + per_group; ++c) {
    q = fmaf(p.gamma[c], sums[p.W + c], q);
    q_xh = fmaf(p.gamma[c], sums[c], q_xh);
  }
  const float count = static_cast<float>(p.R) * static_cast<float>(per_group);
  p.moments[i * 4 + 2] = q / count;
  p.moments[i * 4 + 3] = q_xh / count;
}

/// Grid (I * slabs, C / 64).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock, 2)
    group_norm_d_x_kernel(GroupNorm<Elem> p, Rows<const Elem> d_out, Rows<Elem> d_x) {
  const GroupNormPlace at(p.slabs, p.R, p.C);
  if (at.valid <= 0) return;
  const ChannelNorms norms(p, at);
  float mean_q[8], mean_q_xh[8];
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const float* m = p.moments + (at.item * p.G + (e < at.valid ? (at.c0 + e) / (p.C / p.G) : 0)) * 4;
    mean_q[e] = m[2], mean_q_xh[e] = m[3];
  }
  for (int r = at.begin + at.lane; r < at.end; r += kRowLanes) {
    const std::int64_t row = at.item * p.R + r;
    float v[8], d[8];
    unpack(load_chunk(p.x.data + row * p.x.pitch + at.c0, at.valid), v);
    unpack(load_chunk(d_out.data + row * d_out.pitch + at.c0, at.valid), d);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const float2 zx = group_norm_d_z<Elem>(norms, e, v[e], d[e], p.silu);
      v[e] = norms.rstd[e] * (fmaf(zx.x, norms.gamma[e], -mean_q[e]) - zx.y * mean_q_xh[e]);
    }
    store_chunk(d_x.data + row * d_x.pitch + at.c0, v, at.valid);
  }
}

template <class Elem>
GroupNorm<Elem> group_norm_of(const GroupNormSiluDeviceArgs<Elem>& a) {
  const GroupNormSize& s = a.size;
  GroupNorm<Elem> p;
  p.I = s.I;
  p.R = static_cast<int>(s.R), p.C = static_cast<int>(s.C), p.G = static_cast<int>(s.G);
  p.slabs = static_cast<int>((s.R + kGroupNormSlab - 1) / kGroupNormSlab);
  p.W = (p.C + 7) / 8 * 8;
  p.eps = static_cast<float>(s.eps);
  p.silu = s.silu;
  p.x = a.x, p.gamma = a.gamma, p.beta = a.beta;
  p.partial = a.workspace;
  p.items = p.partial + s.I * p.slabs * 2 * p.W;
  p.moments = p.items + s.I * 2 * p.W;
  return p;
}

template <class Elem>
dim3 slab_grid(const GroupNorm<Elem>& p) {
  return dim3(static_cast<unsigned>(p.I * p.slabs), static_cast<unsigned>((p.C + 63) / 64));
}

template <class Elem>
void group_moments(const Stream& stream, const GroupNorm<Elem>& p) {
  launch(group_norm_statistics_kernel<Elem>, slab_grid(p), dim3(kRowBlock), 0, stream, p);
  launch(
      group_norm_moments_kernel<Elem>, dim3(static_cast<unsigned>(p.I), static_cast<unsigned>(p.G)), dim3(32), 0,
      stream, p);
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void group_norm_silu_fwd(const Stream& stream, const GroupNormSiluDeviceArgs<Elem>& a) {
  using namespace AVID_GPU;
  if (a.size.I * a.size.R == 0) return;
  const GroupNorm<Elem> p = group_norm_of(a);
  group_moments(stream, p);
  launch(group_norm_apply_kernel<Elem>, slab_grid(p), dim3(kRowBlock), 0, stream, p, a.out);
}

template <class Backend, class Elem>
void group_norm_silu_bwd(
    const Stream& stream, const GroupNormSiluDeviceArgs<Elem>& a, const GroupNormSiluDeviceGrads<Elem>& g) {
  using namespace AVID_GPU;
  const GroupNorm<Elem> p = group_norm_of(a);
  const bool rows = p.I * p.R > 0;
  if (rows) {
    group_moments(stream, p);
    launch(group_norm_sums_kernel<Elem>, slab_grid(p), dim3(kRowBlock), 0, stream, p, g.d_out);
    launch(
        group_norm_items_kernel<Elem>,
        dim3(static_cast<unsigned>(p.I), static_cast<unsigned>((2 * p.W + kRowBlock - 1) / kRowBlock)), dim3(kRowBlock),
        0, stream, p);
  }
  if (rows && g.d_x) {
    launch(
        group_norm_means_kernel<Elem>, dim3(static_cast<unsigned>((p.I * p.G + kRowBlock - 1) / kRowBlock)),
        dim3(kRowBlock), 0, stream, p);
    launch(group_norm_d_x_kernel<Elem>, slab_grid(p), dim3(kRowBlock), 0, stream, p, g.d_out, g.d_x);
  }
  const std::int64_t items = rows ? p.I : 0;
  if (g.d_gamma != nullptr) sum_rows(stream, p.items, items, 2 * p.W, p.C, g.d_gamma);
  if (g.d_beta != nullptr) sum_rows(stream, p.items + p.W, items, 2 * p.W, p.C, g.d_beta);
}

#define AVID_INSTANTIATE(Elem)                                                                       \
  template void group_norm_silu_fwd<Gpu, Elem>(const Stream&, const GroupNormSiluDeviceArgs<Elem>&); \
  template void group_norm_silu_bwd<Gpu, Elem>(                                                      \
      const Stream&, const GroupNormSiluDeviceArgs<Elem>&, const GroupNormSiluDeviceGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
