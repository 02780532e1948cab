// kernels/rms_norm_film_silu.cu -- RMSNorm, FiLM, SiLU and residual in one pass (contract: rms_norm_film_silu.h)
//
// Math       n = max(||x||, 1e-12);  z = x/n a + shift with a = sqrt(C) gamma (1 + scale);  out = silu(z) + residual
//            d_z = d_out silu'(z);  q = d_z a;  d_x = (q - x sum_c(q x) / n^2) / n, without the second term at the
//            floor
//            Per frame only two column sums: G = sum d_z sqrt(C) x/n, H = sum d_z. Then d_scale = gamma G,
//            d_shift = H, d_gamma = sum over frames of (1 + scale) G
// Layout     rows of channels, 16-byte pitched; chunks of 8 channels (device/row_lanes.h)
// Parallel   C <= 1024: a block owns up to 256 rows of one frame, forward of few frames fewer, 8 to 32 lanes a row, the
//            row in registers; a and shift of the frame in shared memory. Wider: a block per row, the row read twice.
// Traffic    forward 2C (3C with residual) elements per row, backward 3C, each once; wider rows up to 6C
// Numerics   f32 from load to store, one rounding. f32 tensors use expf and a true division, bf16 tensors the fast
//            ones (2 ULP of f32, far below the rounding). Column sums: lanes, warps, blocks, frames in a fixed order:
//            same bits every run
// Limits     S < 2^31, F * slabs < 2^31
// Measured   never run on a GPU yet
// Predicted  bound by DRAM: 85 to 92 % of copy bandwidth (docs/kernels/norm.md)
// Elsewhere  device/gather_norm.h: the forward pass in the epilogue of the convolution before it;
//            device/gather_norm_grad.h: the backward pass in that of the data gradient of the convolution behind it
// Open       column sum of d_x for the bias of the convolution before it
// Oracle     rms_norm_film_silu_cpu.cpp in f64, tests/sim/rms_norm_film_silu_test.cpp
#include "kernels/rms_norm_film_silu.h"

#include "kernels/device/rms_norm_steps.h"
#include "kernels/device/row_lanes.h"
#include "kernels/slabs.h"

namespace avid::kernels {
namespace AVID_GPU {

/// Fills the tables of a and shift for a frame: 2 * kChunks float4 each.
template <int kChunks, class Elem>
AVID_DEVICE void fill_tables(const RmsNormFilmSiluDeviceArgs<Elem>& p, std::int64_t frame, float4* a, float4* shift) {
  const float root_c = sqrtf(static_cast<float>(p.C));
  for (int c = threadIdx.x; c < kChunks * 8; c += kRowBlock) {
    const float2 value = film_coefficients(p, frame, c, root_c);
    put_coefficient<kChunks>(a, c, value.x);
    put_coefficient<kChunks>(shift, c, value.y);
  }
  __syncthreads();
}

template <class Elem, int L, int K>
__global__ void __launch_bounds__(kRowBlock)
    rms_norm_film_silu_fwd_kernel(RmsNormFilmSiluDeviceArgs<Elem> p, int slabs, int slab_rows) {
  AVID_SHARED(float4, a_table, [2 * L * K]);
  AVID_SHARED(float4, shift_table, [2 * L * K]);
  const std::int64_t frame = blockIdx.x / slabs;
  const int C = static_cast<int>(p.C), S = static_cast<int>(p.S);
  const int begin = static_cast<int>(blockIdx.x % slabs) * slab_rows, end = min(S, begin + slab_rows);
  fill_tables<L * K>(p, frame, a_table, shift_table);
  const int lane = threadIdx.x % L;
  // Whole warps go round together: the shuffles need all lanes.
  for (int first = begin + static_cast<int>(threadIdx.x / 32) * (32 / L); first < end; first += kRowBlock / L) {
    const int r = first + static_cast<int>(threadIdx.x % 32) / L;
    const bool active = r < end;
    const std::int64_t row = frame * S + r;
    Chunk8<Elem> x[K], residual[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int c = (lane + j * L) * 8, valid = active ? C - c : 0;
      x[j] = load_chunk(p.x.data + row * p.x.pitch + c, valid);
      residual[j] =
          p.residual.data != nullptr ? load_chunk(p.residual.data + row * p.residual.pitch + c, valid) : Chunk8<Elem>{};
    }
    float squares = 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      float v[8];
      unpack(x[j], v);
#pragma unroll
      for (int e = 0; e < 8; ++e) squares = fmaf(v[e], v[e], squares);
    }
    bool moves;
    const float rnorm = reciprocal_norm(lane_sum<L>(squares), moves);
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int chunk = lane + j * L;
      float v[8], a[8], shift[8], add[8];
      unpack(x[j], v);
      unpack(residual[j], add);
      get_coefficients<L * K>(a_table, chunk, a);
      get_coefficients<L * K>(shift_table, chunk, shift);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float z = fmaf(v[e] * rnorm, a[e], shift[e]);
        v[e] = fmaf(z, sigmoid<Elem>(z), add[e]);
      }
      store_chunk(p.out.data + row * p.out.pitch + chunk * 8, v, active ? C - chunk * 8 : 0);
    }
  }
}

/// `partial` [F,slabs,2,W]: sums over the slab's rows of d_z x/n and of d_z; null when nobody wants them.
template <class Elem, int L, int K>
__global__ void __launch_bounds__(kRowBlock) rms_norm_film_silu_bwd_kernel(
    RmsNormFilmSiluDeviceArgs<Elem> p, Rows<const Elem> d_out, Rows<Elem> d_x, float* partial, int slabs,
    int slab_rows) {
  AVID_SHARED(float4, a_table, [2 * L * K]);
  AVID_SHARED(float4, shift_table, [2 * L * K]);
  AVID_SHARED(float, scratch, [kRowBlock / 32 * L * K * 8]);
  const std::int64_t frame = blockIdx.x / slabs;
  const int C = static_cast<int>(p.C), S = static_cast<int>(p.S);
  const int begin = static_cast<int>(blockIdx.x % slabs) * slab_rows, end = min(S, begin + slab_rows);
  fill_tables<L * K>(p, frame, a_table, shift_table);
  const int lane = threadIdx.x % L;
  float sum_zx[K][8] = {}, sum_z[K][8] = {};
  for (int first = begin + static_cast<int>(threadIdx.x / 32) * (32 / L); first < end; first += kRowBlock / L) {
    const int r = first + static_cast<int>(threadIdx.x % 32) / L;
    const bool active = r < end;
    const std::int64_t row = frame * S + r;
    Chunk8<Elem> x[K], d[K];
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int c = (lane + j * L) * 8, valid = active ? C - c : 0;
      x[j] = load_chunk(p.x.data + row * p.x.pitch + c, valid);
      d[j] = load_chunk(d_out.data + row * d_out.pitch + c, valid);
    }
    float squares = 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      float v[8];
      unpack(x[j], v);
#pragma unroll
      for (int e = 0; e < 8; ++e) squares = fmaf(v[e], v[e], squares);
    }
    bool moves;
    const float rnorm = reciprocal_norm(lane_sum<L>(squares), moves);
    float dot = 0, q[K][8];
#pragma unroll
    for (int j = 0; j < K; ++j) {
      float v[8], a[8], shift[8];
      unpack(x[j], v);
      unpack(d[j], q[j]);
      get_coefficients<L * K>(a_table, lane + j * L, a);
      get_coefficients<L * K>(shift_table, lane + j * L, shift);
      add_gradient_of_z<Elem>(v, rnorm, a, shift, q[j], sum_zx[j], sum_z[j], dot);
    }
    dot = lane_sum<L>(dot);
    if (d_x.data == nullptr) continue;
    const float along = moves ? dot : 0.0f;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const int c = (lane + j * L) * 8;
      float v[8];
      unpack(x[j], v);
      gradient_of_x(v, rnorm, q[j], along);
      store_chunk(d_x.data + row * d_x.pitch + c, v, active ? C - c : 0);
    }
  }
  if (partial == nullptr) return;
  const int chunks = (C + 7) / 8;
  partial += std::int64_t{blockIdx.x} * 2 * chunks * 8;
  store_column_sums<L, K>(sum_zx, scratch, partial, chunks);
  store_column_sums<L, K>(sum_z, scratch, partial + chunks * 8, chunks);
}

// ---- rows of any width: a block per row ----

template <class Elem>
__global__ void __launch_bounds__(kRowBlock) rms_norm_film_silu_fwd_wide_kernel(RmsNormFilmSiluDeviceArgs<Elem> p) {
  AVID_SHARED(float, scratch, [kRowBlock / 32]);
  const std::int64_t row = blockIdx.x, frame = row / p.S;
  const int C = static_cast<int>(p.C);
  const Elem* x = p.x.data + row * p.x.pitch;
  const float root_c = sqrtf(static_cast<float>(C));
  float squares = 0;
  for (int c = threadIdx.x; c < C; c += kRowBlock) squares = fmaf(to_float(x[c]), to_float(x[c]), squares);
  bool moves;
  const float rnorm = reciprocal_norm(block_sum(squares, scratch), moves);
  for (int c = threadIdx.x; c < p.out.pitch; c += kRowBlock) {
    float out = 0;
    if (c < C) {
      const float2 film = film_coefficients(p, frame, c, root_c);
      const float z = fmaf(to_float(x[c]) * rnorm, film.x, film.y);
      const float add = p.residual.data != nullptr ? to_float(p.residual.data[row * p.residual.pitch + c]) : 0.0f;
      out = fmaf(z, sigmoid<Elem>(z), add);
    }
    store_elem(p.out.data + row * p.out.pitch + c, out);
  }
}

/// d_z of one element, and n = x / norm.
template <class Elem>
AVID_DEVICE float2 gradient_of_z(float x, float d_out, float rnorm, float2 film) {
  const float n = x * rnorm, z = fmaf(n, film.x, film.y), s = sigmoid<Elem>(z);
  return make_float2(d_out * s * fmaf(z, 1.0f - s, 1.0f), n);
}

template <class Elem>
__global__ void __launch_bounds__(kRowBlock) rms_norm_film_silu_bwd_wide_kernel(
    RmsNormFilmSiluDeviceArgs<Elem> p, Rows<const Elem> d_out, Rows<Elem> d_x, float* rnorms) {
  AVID_SHARED(float, scratch, [kRowBlock / 32]);
  const std::int64_t row = blockIdx.x, frame = row / p.S;
  const int C = static_cast<int>(p.C);
  const Elem *x = p.x.data + row * p.x.pitch, *d = d_out.data + row * d_out.pitch;
  const float root_c = sqrtf(static_cast<float>(C));
  float squares = 0;
  for (int c = threadIdx.x; c < C; c += kRowBlock) squares = fmaf(to_float(x[c]), to_float(x[c]), squares);
  bool moves;
  const float rnorm = reciprocal_norm(block_sum(squares, scratch), moves);
  if (threadIdx.x == 0) rnorms[row] = rnorm;
  if (d_x.data == nullptr) return;
  float dot = 0;
  for (int c = threadIdx.x; c < C; c += kRowBlock) {
    const float2 film = film_coefficients(p, frame, c, root_c);
    const float2 zn = gradient_of_z<Elem>(to_float(x[c]), to_float(d[c]), rnorm, film);
    dot = fmaf(zn.x * film.x, zn.y, dot);
  }
  const float along = moves ? block_sum(dot, scratch) : 0.0f;  // moves is the same for the whole block
  for (int c = threadIdx.x; c < d_x.pitch; c += kRowBlock) {
    float out = 0;
    if (c < C) {
      const float2 film = film_coefficients(p, frame, c, root_c);
      const float2 zn = gradient_of_z<Elem>(to_float(x[c]), to_float(d[c]), rnorm, film);
      out = rnorm * (zn.x * film.x - zn.y * along);
    }
    store_elem(d_x.data + row * d_x.pitch + c, out);
  }
}

/// The partial sums of the kernel above: a thread per channel walks the rows of a slab. grid (frame x slab, columns).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock) rms_norm_film_silu_sums_wide_kernel(
    RmsNormFilmSiluDeviceArgs<Elem> p, Rows<const Elem> d_out, const float* rnorms, float* partial, int slabs,
    int slab_rows) {
  const std::int64_t frame = blockIdx.x / slabs, S = p.S;
  const int C = static_cast<int>(p.C), W = (C + 7) / 8 * 8;
  const int c = static_cast<int>(blockIdx.y) * kRowBlock + threadIdx.x;
  if (c >= C) return;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x % slabs) * slab_rows;
  const std::int64_t end = begin + slab_rows < S ? begin + slab_rows : S;
  const float2 film = film_coefficients(p, frame, c, sqrtf(static_cast<float>(C)));
  float sum_zx = 0, sum_z = 0;
  for (std::int64_t row = frame * S + begin; row < frame * S + end; ++row) {
    const float2 zn = gradient_of_z<Elem>(
        to_float(p.x.data[row * p.x.pitch + c]), to_float(d_out.data[row * d_out.pitch + c]), rnorms[row], film);
    sum_zx = fmaf(zn.x, zn.y, sum_zx);
    sum_z += zn.x;
  }
  partial += std::int64_t{blockIdx.x} * 2 * W;
  partial[c] = sum_zx;
  partial[W + c] = sum_z;
}

/// Adds the blocks of each frame in order. Writes d_film, and to `scaled` [F,W] what d_gamma sums over frames; each
/// may be null. A thread per (frame, channel).
template <class Elem>
__global__ void __launch_bounds__(kRowBlock) rms_norm_film_silu_frame_sums_kernel(
    RmsNormFilmSiluDeviceArgs<Elem> p, const float* partial, NormSumBlocks blocks, Rows<float> d_film, float* scaled) {
  const int C = static_cast<int>(p.C), W = (C + 7) / 8 * 8;
  const std::int64_t i = std::int64_t{blockIdx.x} * kRowBlock + threadIdx.x;
  const std::int64_t frame = i / W;
  const int c = static_cast<int>(i % W);
  if (frame >= p.F || c >= C) return;
  const std::int64_t first = frame * blocks.rows_per_frame / blocks.rows;
  const std::int64_t end = ((frame + 1) * blocks.rows_per_frame + blocks.rows - 1) / blocks.rows;
  float sum_zx = 0, sum_z = 0;
  for (std::int64_t block = first; block < end; ++block) {
    // All but the first begin in this frame.
    const std::int64_t place = block == first ? frame - block * blocks.rows / blocks.rows_per_frame : 0;
    const float* from = partial + (block * blocks.frames + place) * 2 * W;
    sum_zx += from[c];
    sum_z += from[W + c];
  }
  sum_zx *= sqrtf(static_cast<float>(C));
  if (d_film.data != nullptr) {
    d_film.data[frame * d_film.pitch + c] = p.gamma[c] * sum_zx;
    d_film.data[frame * d_film.pitch + C + c] = sum_z;
  }
  if (scaled != nullptr)
    scaled[frame * W + c] = (p.film.data != nullptr ? 1.0f + p.film.data[frame * p.film.pitch + c] : 1.0f) * sum_zx;
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void rms_norm_film_silu_fwd(const Stream& stream, const RmsNormFilmSiluDeviceArgs<Elem>& p) {
  using namespace AVID_GPU;
  if (p.F * p.S == 0) return;
  if (p.C > kMaxLaneChannels) {
    launch(
        rms_norm_film_silu_fwd_wide_kernel<Elem>, dim3(static_cast<unsigned>(p.F * p.S)), dim3(kRowBlock), 0, stream,
        p);
    return;
  }
  with_row_lanes<Elem>(p.C, [&]<int L, int K>() {
    constexpr int kRound = kRowBlock / L;
    const int rows = slab_rows(p.F, p.S, RmsNormSlabs(p.S, p.C).rows, kRound, 256),
              slabs = static_cast<int>((p.S + rows - 1) / rows);
    launch(
        rms_norm_film_silu_fwd_kernel<Elem, L, K>, dim3(static_cast<unsigned>(p.F * slabs)), dim3(kRowBlock), 0, stream,
        p, slabs, rows);
  });
}

template <class Backend, class Elem>
void rms_norm_film_silu_bwd(
    const Stream& stream, const RmsNormFilmSiluDeviceArgs<Elem>& p, const RmsNormFilmSiluDeviceGrads<Elem>& g) {
  using namespace AVID_GPU;
  const RmsNormSlabs slabs(p.S, p.C);
  const std::int64_t W = (p.C + 7) / 8 * 8, num_slabs = p.F * slabs.count;
  const bool sums = g.d_gamma != nullptr || g.d_film;
  // Workspace: partial [F,slabs,2,W], frames [F,W], and for wide rows 1/norm [F*S].
  float *partial = sums ? g.workspace : nullptr, *frames = g.workspace + num_slabs * 2 * W, *rnorms = frames + p.F * W;
  if (num_slabs > 0 && p.C <= kMaxLaneChannels) {
    with_row_lanes<Elem>(p.C, [&]<int L, int K>() {
      launch(
          rms_norm_film_silu_bwd_kernel<Elem, L, K>, dim3(static_cast<unsigned>(num_slabs)), dim3(kRowBlock), 0, stream,
          p, g.d_out, g.d_x, partial, slabs.count, slabs.rows);
    });
  } else if (num_slabs > 0) {
    launch(
        rms_norm_film_silu_bwd_wide_kernel<Elem>, dim3(static_cast<unsigned>(p.F * p.S)), dim3(kRowBlock), 0, stream, p,
        g.d_out, g.d_x, rnorms);
    if (sums)
      launch(
          rms_norm_film_silu_sums_wide_kernel<Elem>,
          dim3(static_cast<unsigned>(num_slabs), static_cast<unsigned>((p.C + kRowBlock - 1) / kRowBlock)),
          dim3(kRowBlock), 0, stream, p, g.d_out, static_cast<const float*>(rnorms), partial, slabs.count, slabs.rows);
  }
  if (sums)
    rms_norm_film_silu_bwd_sums<Backend, Elem>(
        stream, p,
        {.rows_per_frame = std::int64_t{slabs.count} * slabs.rows, .count = num_slabs, .rows = slabs.rows, .frames = 1},
        partial, g.d_gamma, g.d_film, frames);
}

template <class Backend, class Elem>
void rms_norm_film_silu_bwd_sums(
    const Stream& stream, const RmsNormFilmSiluDeviceArgs<Elem>& p, const NormSumBlocks& blocks, const float* partial,
    float* d_gamma, Rows<float> d_film, float* frame_sums) {
  using namespace AVID_GPU;
  const std::int64_t W = (p.C + 7) / 8 * 8;
  if (p.F > 0)
    launch(
        rms_norm_film_silu_frame_sums_kernel<Elem>, dim3(static_cast<unsigned>((p.F * W + kRowBlock - 1) / kRowBlock)),
        dim3(kRowBlock), 0, stream, p, partial, blocks, d_film, d_gamma != nullptr ? frame_sums : nullptr);
  if (d_gamma != nullptr) sum_rows(stream, frame_sums, p.F, W, p.C, d_gamma);
}

#define AVID_INSTANTIATE(Elem)                                                                                        \
  template void rms_norm_film_silu_fwd<Gpu, Elem>(const Stream&, const RmsNormFilmSiluDeviceArgs<Elem>&);             \
  template void rms_norm_film_silu_bwd<Gpu, Elem>(                                                                    \
      const Stream&, const RmsNormFilmSiluDeviceArgs<Elem>&, const RmsNormFilmSiluDeviceGrads<Elem>&);                \
  template void rms_norm_film_silu_bwd_sums<Gpu, Elem>(                                                               \
      const Stream&, const RmsNormFilmSiluDeviceArgs<Elem>&, const NormSumBlocks&, const float*, float*, Rows<float>, \
      float*);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
