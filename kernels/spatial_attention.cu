// kernels/spatial_attention.cu -- the spatial attention block, composed around its core (contract:
// spatial_attention.h)
//
// Math       one frame of S positions i, j, head n, q scaled by D^-1/2:
//              p_ij = softmax_j(q_i . k_j);  a_i = sum_j p_ij v_j;  lse_i = log sum_j exp(q_i . k_j)
//            Gradient, with p from lse again: delta_i = d_a_i . a_i;  d_p_ij = d_a_i . v_j;  d_l = p (d_p - delta_i)
//              d_q_i = D^-1/2 sum_j d_l_ij k_j;  d_k_j = sum_i d_l_ij q_i;  d_v_j = sum_i p_ij d_a_i
// Layout     qkv [B*T*S, 3*N*D] as the projection leaves it; heads of up to 64 channels (device/attention_tiles.h)
// Parallel   a block per (frame, tile of 64 or 32 positions, head) walks the other positions in tiles, running
//            maximum and sum as in flash attention; the backward pass has one kernel for d_q (walks keys) and one for
//            d_k, d_v (walks queries), so that nothing is added across blocks
// Traffic    per position: C + 4C (norm, projections) + 8 N*D elements forward; keys once more per 64 queries, from
//            L2
// Numerics   f32 sums, h, qkv, a, d_a, d_qkv, d_h rounded to Elem; bf16 tensors use the fast exponential
// Limits     D <= 64, S < 2^31, frames * tiles < 2^31, N < 65536
// Measured   never run on a GPU yet
// Open       the core uses no tensor cores: the block runs once per network, on 64 positions (0.1 % of an update
//            [predicted])
// Oracle     spatial_attention_cpu.cpp in f64, tests/sim/spatial_attention_test.cpp
#include "kernels/spatial_attention.h"

#include "kernels/device/attention_steps.h"
#include "kernels/device/attention_tiles.h"

namespace avid::kernels {
namespace AVID_GPU {

template <class Elem>
struct SpatialCore {
  std::int64_t F;  ///< frames
  int S, N, D, tiles;
  float scale;           ///< D^-1/2
  Rows<const Elem> qkv;  ///< [F*S, 3*N*D]
  Rows<const Elem> a;    ///< [F*S, N*D], backward only
  Rows<const Elem> d_a;  ///< [F*S, N*D], backward only
  float *lse, *delta;    ///< [F,N,S], backward only; lse null in the forward pass

  AVID_DEVICE const Elem* at(std::int64_t row, int part, int head) const {
    return qkv.data + row * qkv.pitch + (part * N + head) * D;
  }
  AVID_DEVICE const Elem* in_heads(Rows<const Elem> rows, std::int64_t row, int head) const {
    return rows.data + row * rows.pitch + head * D;
  }
};

/// In the backward kernels: which tile of which frame and head a block owns, and which row of it and which 8 channels a
/// thread.
template <int kD>
struct SpatialPlace {
  using Tile = HeadTile<kD>;
  int t0, head, rows, s, lane, c0;
  std::int64_t first, statistics;  ///< the frame's first row in qkv, a; and in lse, delta

  template <class Elem>
  AVID_DEVICE explicit SpatialPlace(const SpatialCore<Elem>& p) {
    const std::int64_t frame = blockIdx.x / p.tiles;
    t0 = static_cast<int>(blockIdx.x % p.tiles) * Tile::kRows, head = static_cast<int>(blockIdx.y);
    rows = min(Tile::kRows, p.S - t0);
    s = threadIdx.x / Tile::kLanes, lane = threadIdx.x % Tile::kLanes, c0 = lane * 8;
    first = frame * p.S, statistics = (frame * p.N + head) * p.S;
  }
};

/// Products of one row of a tile with all rows of another, for the threads of that row: columns lane, lane + kLanes,
/// ...
template <int kD>
struct RowProducts {
  using Tile = HeadTile<kD>;
  static constexpr int kCount = Tile::kRows / Tile::kLanes;  ///< columns of a thread
  static constexpr int kPitch = Tile::kRows + 4;             ///< of a square tile of products
  /// out[m] = row . others[lane + m kLanes]
  static AVID_DEVICE void compute(float (&out)[kCount], const float* row, const float* others) {
    const int lane = threadIdx.x % Tile::kLanes;
#pragma unroll
    for (int m = 0; m < kCount; ++m) out[m] = 0;
#pragma unroll 2
    for (int c = 0; c < kD; c += 4) {
      const float4 x = *reinterpret_cast<const float4*>(row + c);
#pragma unroll
      for (int m = 0; m < kCount; ++m) {
        const float4 y = *reinterpret_cast<const float4*>(others + (lane + m * Tile::kLanes) * Tile::kPitch + c);
        out[m] = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, out[m]))));
      }
    }
  }
  /// Puts them into row s of a square tile; only the warp that owns the row reads them.
  static AVID_DEVICE void put(float* tile, int s, const float (&values)[kCount]) {
    const int lane = threadIdx.x % Tile::kLanes;
#pragma unroll
    for (int m = 0; m < kCount; ++m) tile[s * kPitch + lane + m * Tile::kLanes] = values[m];
    __syncwarp();
  }
};

template <int kD>
constexpr std::size_t spatial_shared_bytes(int tiles, int squares) {
  using Tile = HeadTile<kD>;
  return (std::size_t{Tile::kFloats} * tiles + std::size_t{Tile::kRows * RowProducts<kD>::kPitch} * squares) *
         sizeof(float);
}

/// a, and lse where wanted. Grid (F * tiles, N).
template <class Elem, int kD>
__global__ void __launch_bounds__(kCoreBlock, 2) spatial_attention_core_kernel(SpatialCore<Elem> p, Rows<Elem> a) {
  using Tile = HeadTile<kD>;
  using Products = RowProducts<kD>;
  SharedArena arena;
  float* q = arena.take<float>(Tile::kFloats, "q");
  float* k = arena.take<float>(Tile::kFloats, "k");
  float* v = arena.take<float>(Tile::kFloats, "v");
  float* weights = arena.take<float>(Tile::kRows * Products::kPitch, "weights");
  const std::int64_t frame = blockIdx.x / p.tiles;
  const int t0 = static_cast<int>(blockIdx.x % p.tiles) * Tile::kRows, head = static_cast<int>(blockIdx.y);
  const int s = threadIdx.x / Tile::kLanes, lane = threadIdx.x % Tile::kLanes, c0 = lane * 8;
  const std::int64_t first = frame * p.S;
  load_tile<kD>(q, p.at(first + t0, 0, head), p.qkv.pitch, min(Tile::kRows, p.S - t0), p.D);
  float largest = -__FLT_MAX__, sum = 0, out[8] = {};
  for (int j0 = 0; j0 < p.S; j0 += Tile::kRows) {
    const int keys = min(Tile::kRows, p.S - j0);
    __syncthreads();
    load_tile<kD>(k, p.at(first + j0, 1, head), p.qkv.pitch, keys, p.D);
    load_tile<kD>(v, p.at(first + j0, 2, head), p.qkv.pitch, keys, p.D);
    __syncthreads();
    float logits[Products::kCount];
    Products::compute(logits, q + s * Tile::kPitch, k);
    float top = largest;
#pragma unroll
    for (int m = 0; m < Products::kCount; ++m) {
      logits[m] *= p.scale;
      if (lane + m * Tile::kLanes < keys) top = fmaxf(top, logits[m]);
    }
    top = row_max<Tile::kLanes>(top);
    const float shrink = exp_of<Elem>(largest - top);
    largest = top;
    float part = 0;
#pragma unroll
    for (int m = 0; m < Products::kCount; ++m) {
      logits[m] = lane + m * Tile::kLanes < keys ? exp_of<Elem>(logits[m] - top) : 0.0f;
      part += logits[m];
    }
    sum = fmaf(sum, shrink, row_sum<Tile::kLanes>(part));
    Products::put(weights, s, logits);
#pragma unroll
    for (int e = 0; e < 8; ++e) out[e] *= shrink;
    add_row_product<Tile::kRows, Tile::kPitch>(out, weights + s * Products::kPitch, v, c0);
  }
  if (t0 + s >= p.S) return;
  const float scale = 1.0f / sum;
#pragma unroll
  for (int e = 0; e < 8; ++e) out[e] *= scale;
  store8(out, a.data + (first + t0 + s) * a.pitch + head * p.D, c0, p.D);
  if (p.lse != nullptr && lane == 0) p.lse[(frame * p.N + head) * p.S + t0 + s] = largest + logf(sum);
}

/// d_q and delta. Grid (F * tiles, N).
template <class Elem, int kD>
__global__ void __launch_bounds__(kCoreBlock, 1) spatial_attention_d_q_kernel(SpatialCore<Elem> p, Rows<Elem> d_qkv) {
  using Tile = HeadTile<kD>;
  using Products = RowProducts<kD>;
  SharedArena arena;
  float* q = arena.take<float>(Tile::kFloats, "q");
  float* d = arena.take<float>(Tile::kFloats, "d_a");
  float* k = arena.take<float>(Tile::kFloats, "k");
  float* v = arena.take<float>(Tile::kFloats, "v");
  float* weights = arena.take<float>(Tile::kRows * Products::kPitch, "weights");
  const auto [t0, head, rows, s, lane, c0, first, statistics] = SpatialPlace<kD>(p);
  load_tile<kD>(q, p.at(first + t0, 0, head), p.qkv.pitch, rows, p.D);
  load_tile<kD>(d, p.in_heads(p.d_a, first + t0, head), p.d_a.pitch, rows, p.D);
  __syncthreads();
  float delta = 0, lse = 0, mine[8] = {};
  if (s < rows) {
    load8(mine, p.in_heads(p.a, first + t0 + s, head), c0, p.D);
    lse = p.lse[statistics + t0 + s];
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) delta = fmaf(mine[e], d[s * Tile::kPitch + c0 + e], delta);
  delta = row_sum<Tile::kLanes>(delta);
  if (s < rows && lane == 0) p.delta[statistics + t0 + s] = delta;
  float out[8] = {};
  for (int j0 = 0; j0 < p.S; j0 += Tile::kRows) {
    const int keys = min(Tile::kRows, p.S - j0);
    __syncthreads();
    load_tile<kD>(k, p.at(first + j0, 1, head), p.qkv.pitch, keys, p.D);
    load_tile<kD>(v, p.at(first + j0, 2, head), p.qkv.pitch, keys, p.D);
    __syncthreads();
    float weight[Products::kCount], d_weight[Products::kCount];
    Products::compute(weight, q + s * Tile::kPitch, k);
    Products::compute(d_weight, d + s * Tile::kPitch, v);
#pragma unroll
    for (int m = 0; m < Products::kCount; ++m) {
      const bool exists = lane + m * Tile::kLanes < keys && s < rows;
      weight[m] = exists ? exp_of<Elem>(fmaf(weight[m], p.scale, -lse)) * (d_weight[m] - delta) : 0.0f;
    }
    Products::put(weights, s, weight);
    add_row_product<Tile::kRows, Tile::kPitch>(out, weights + s * Products::kPitch, k, c0);
  }
  if (s >= rows) return;
#pragma unroll
  for (int e = 0; e < 8; ++e) out[e] *= p.scale;
  store8(out, d_qkv.data + (first + t0 + s) * d_qkv.pitch + head * p.D, c0, p.D);
}

/// d_k and d_v of a tile of keys. Grid (F * tiles, N). After the kernel above, whose delta it reads.
template <class Elem, int kD>
__global__ void __launch_bounds__(kCoreBlock, 1) spatial_attention_d_kv_kernel(SpatialCore<Elem> p, Rows<Elem> d_qkv) {
  using Tile = HeadTile<kD>;
  using Products = RowProducts<kD>;
  SharedArena arena;
  float* k = arena.take<float>(Tile::kFloats, "k");
  float* v = arena.take<float>(Tile::kFloats, "v");
  float* q = arena.take<float>(Tile::kFloats, "q");
  float* d = arena.take<float>(Tile::kFloats, "d_a");
  float* weights = arena.take<float>(Tile::kRows * Products::kPitch, "weights");
  float* d_logits = arena.take<float>(Tile::kRows * Products::kPitch, "d_logits");
  const auto [t0, head, rows, s, lane, c0, first, statistics] = SpatialPlace<kD>(p);
  load_tile<kD>(k, p.at(first + t0, 1, head), p.qkv.pitch, rows, p.D);
  load_tile<kD>(v, p.at(first + t0, 2, head), p.qkv.pitch, rows, p.D);
  float d_k[8] = {}, d_v[8] = {};
  for (int i0 = 0; i0 < p.S; i0 += Tile::kRows) {
    const int queries = min(Tile::kRows, p.S - i0);
    __syncthreads();
    load_tile<kD>(q, p.at(first + i0, 0, head), p.qkv.pitch, queries, p.D);
    load_tile<kD>(d, p.in_heads(p.d_a, first + i0, head), p.d_a.pitch, queries, p.D);
    __syncthreads();
    float weight[Products::kCount], d_logit[Products::kCount];
    Products::compute(weight, k + s * Tile::kPitch, q);
    Products::compute(d_logit, v + s * Tile::kPitch, d);
#pragma unroll
    for (int m = 0; m < Products::kCount; ++m) {
      const int i = lane + m * Tile::kLanes;
      const bool exists = i < queries && s < rows;
      weight[m] = exists ? exp_of<Elem>(fmaf(weight[m], p.scale, -p.lse[statistics + i0 + i])) : 0.0f;
      d_logit[m] = exists ? weight[m] * (d_logit[m] - p.delta[statistics + i0 + i]) : 0.0f;
    }
    Products::put(weights, s, weight);
    Products::put(d_logits, s, d_logit);
    add_row_product<Tile::kRows, Tile::kPitch>(d_v, weights + s * Products::kPitch, d, c0);
    add_row_product<Tile::kRows, Tile::kPitch>(d_k, d_logits + s * Products::kPitch, q, c0);
  }
  if (s >= rows) return;
#pragma unroll
  for (int e = 0; e < 8; ++e) d_k[e] *= p.scale;
  Elem* out = d_qkv.data + (first + t0 + s) * d_qkv.pitch + head * p.D;
  store8(d_k, out + p.N * p.D, c0, p.D);
  store8(d_v, out + 2 * p.N * p.D, c0, p.D);
}

template <class Elem>
SpatialCore<Elem> spatial_core(const AttentionSteps<Elem>& steps, bool backward) {
  const auto& p = steps.p;
  SpatialCore<Elem> core;
  core.F = p.B * p.T;
  core.S = static_cast<int>(p.S);
  core.N = static_cast<int>(p.N);
  core.D = static_cast<int>(p.D);
  core.tiles = 0;
  core.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.D)));
  core.qkv = steps.qkv;
  core.a = steps.a;
  core.d_a = steps.d_a;
  core.lse = backward ? steps.template at<float>(steps.plan.core) : nullptr;
  core.delta = backward ? core.lse + core.F * p.N * p.S : nullptr;
  return core;
}

/// Grid of tiles of kD's height; sets core.tiles.
template <int kD, class Elem>
dim3 tile_grid(SpatialCore<Elem>& core) {
  core.tiles = (core.S + HeadTile<kD>::kRows - 1) / HeadTile<kD>::kRows;
  return dim3(static_cast<unsigned>(core.F * core.tiles), static_cast<unsigned>(core.N));
}

template <class Elem>
void attend(const Stream& stream, SpatialCore<Elem> core, Rows<Elem> a) {
  with_head_capacity(core.D, [&]<int kD>() {
    const dim3 grid = tile_grid<kD>(core);
    launch(
        spatial_attention_core_kernel<Elem, kD>, grid, dim3(kCoreBlock), spatial_shared_bytes<kD>(3, 1), stream, core,
        a);
  });
}

template <class Elem>
void attend_gradient(const Stream& stream, SpatialCore<Elem> core, Rows<Elem> d_qkv) {
  with_head_capacity(core.D, [&]<int kD>() {
    const dim3 grid = tile_grid<kD>(core);
    launch(
        spatial_attention_d_q_kernel<Elem, kD>, grid, dim3(kCoreBlock), spatial_shared_bytes<kD>(4, 1), stream, core,
        d_qkv);
    launch(
        spatial_attention_d_kv_kernel<Elem, kD>, grid, dim3(kCoreBlock), spatial_shared_bytes<kD>(4, 2), stream, core,
        d_qkv);
  });
}

/// The core's operands as those of an attention of its own.
template <class Elem>
AttentionArgs<Elem> core_arguments(const SpatialCore<Elem>& core, Rows<Elem> a) {
  const auto part = [&](int i) {
    return Rows<const Elem>{core.qkv.data + std::int64_t{i} * core.N * core.D, core.qkv.pitch};
  };
  return {
      .B = core.F,
      .Q = core.S,
      .K = core.S,
      .N = core.N,
      .D = core.D,
      .scale = core.scale,
      .q = part(0),
      .k = part(1),
      .v = part(2),
      .out = a,
      .log_sum = core.lse};
}

template <class Elem>
AttentionGrads<Elem> core_gradients(const SpatialCore<Elem>& core, Rows<Elem> d_qkv) {
  const auto part = [&](int i) { return Rows<Elem>{d_qkv.data + std::int64_t{i} * core.N * core.D, d_qkv.pitch}; };
  return {.d_out = core.d_a, .d_q = part(0), .d_k = part(1), .d_v = part(2), .workspace = core.delta};
}

template <class Elem>
void run_core(
    const Stream& stream, const SpatialCore<Elem>& core, Rows<Elem> a, const SpatialAttentionCore<Elem>& other) {
  if (!other.fwd) return attend<Elem>(stream, core, a);
  other.fwd(core_arguments(core, a), [&] { attend<Elem>(stream, core, a); });
}

template <class Elem>
void run_core_gradient(
    const Stream& stream, const SpatialCore<Elem>& core, Rows<Elem> a, Rows<Elem> d_qkv,
    const SpatialAttentionCore<Elem>& other) {
  if (!other.bwd) return attend_gradient<Elem>(stream, core, d_qkv);
  other.bwd(core_arguments(core, a), core_gradients(core, d_qkv), [&] { attend_gradient<Elem>(stream, core, d_qkv); });
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void spatial_attention_fwd(
    const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p, const SpatialAttentionCore<Elem>& other) {
  using namespace AVID_GPU;
  if (p.B * p.T * p.S == 0) return;
  const AttentionSteps<Elem> steps(stream, p, spatial_attention_plan(p, false));
  steps.project();
  run_core(stream, spatial_core(steps, false), steps.a, other);
  steps.output();
}

template <class Backend, class Elem>
void spatial_attention_bwd(
    const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p, const AttentionBlockDeviceGrads<Elem>& g,
    const SpatialAttentionCore<Elem>& other) {
  using namespace AVID_GPU;
  const AttentionSteps<Elem> steps(stream, p, spatial_attention_plan(p, true));
  if (p.B * p.T * p.S > 0 && (g.d_w_out || steps.needs_core(g))) {
    const SpatialCore<Elem> core = spatial_core(steps, true);
    steps.project();
    run_core(stream, core, steps.a, other);
    if (steps.needs_core(g)) {
      steps.d_attention(g);
      steps.prepare_d_qkv();
      run_core_gradient(stream, core, steps.a, steps.d_qkv, other);
    }
  }
  steps.output_gradients(g);
  steps.project_gradients(g);
}

#define AVID_INSTANTIATE(Elem)                                                                      \
  template void spatial_attention_fwd<Gpu, Elem>(                                                   \
      const Stream&, const AttentionBlockDeviceArgs<Elem>&, const SpatialAttentionCore<Elem>&);     \
  template void spatial_attention_bwd<Gpu, Elem>(                                                   \
      const Stream&, const AttentionBlockDeviceArgs<Elem>&, const AttentionBlockDeviceGrads<Elem>&, \
      const SpatialAttentionCore<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
