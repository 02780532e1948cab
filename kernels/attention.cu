// kernels/attention.cu -- softmax attention on a device, tile by tile without a matrix of probabilities
//
// Math       kernels/attention.h. With P the probabilities and d_P = d_out v^T, row sums delta_i = sum_d d_out out:
//              d_S = P (d_P - delta);  d_q = scale d_S k;  d_k = scale d_S^T q;  d_v = P^T d_out
// Parallel   a block is 64 rows of one head of one sequence, 4 warps of 16 rows, and walks over tiles of 64 rows of the
//            other side, the next tile copied (cp.async) behind the products. fwd and d_q: the block owns queries; d_k
//            and d_v: keys, with transposed products, so that every sum stays in the registers of one warp. Products
//            never pass through shared memory (flash_tiles.h). One text for bf16 and f32.
// Traffic    each block reads all tiles of the other side: (rows / 64) times through L2
// Numerics   running maximum and sum in base 2, one division at the end. bf16: P and d_S are rounded to bf16 for their
//            products, sums in f32. f32: three TF32 products each, 64 terms in the tensor core, which cuts; sums over
//            tiles are rounded: 2e-6 over 1000 rows of one sign. P is 0 in masked tails.
// Exact      no atomics: 7 products in bwd instead of 5
// Limits     D <= 64; D not a multiple of 16 bytes loads element by element
// Measured   never run on a GPU yet
// Counted    instructions per product in the loop at 64 channels, bf16, sm_80: forward 14.9 (16.3 with masks in every
//            tile and an exp2f that keeps denormals), d_q 9.7 (12.1), d_k and d_v 7.4 (8.2)
// Open       128 queries per block and q kept in registers; few queries leave warps idle. About 200 instructions of the
//            loop copy heads that do not start at 16 bytes, and are jumped over elsewhere; addresses of a tile's rows
//            are multiplied again for every tile
// Oracle     kernels/attention_cpu.cpp in f64, compared in tests/sim/attention_test.cpp
#include "kernels/attention.h"

#include <algorithm>

#include "kernels/device/exponential.h"
#include "kernels/device/flash_tiles.h"
#include "kernels/device/gpu.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr float kFlashLog2E = 1.4426950408889634f;

/// Which 64 rows of which head: from the flat block index.
struct FlashPlace {
  std::int64_t b, first;
  int n;
  AVID_DEVICE FlashPlace(std::int64_t num_rows, std::int64_t N) {
    const std::int64_t tiles = (num_rows + kFlashRows - 1) / kFlashRows, item = blockIdx.x / tiles;
    first = (blockIdx.x - item * tiles) * kFlashRows;
    b = item / N;
    n = static_cast<int>(item - b * N);
  }
};

/// Head n of sequence b: its first element.
template <class Elem>
AVID_DEVICE Elem* head_of(Rows<Elem> rows, std::int64_t b, std::int64_t length, int n, std::int64_t D) {
  return rows.row(b * length) + n * D;
}

/// Walks over the rows of two matrices of one head, 64 at a time: two tiles of each in shared memory, one in use and
/// one on its way.
template <class Elem, int kD>
struct FlashTilePair {
  using Tile = FlashTile<Elem, kD>;
  const Elem *from_a, *from_b;
  std::int64_t pitch_a, pitch_b, length;
  Elem *tiles_a, *tiles_b;
  int D, count;

  AVID_DEVICE FlashTilePair(
      Rows<const Elem> rows_a, Rows<const Elem> rows_b, const FlashPlace& at, std::int64_t length_, std::int64_t width,
      Elem* shared_a, Elem* shared_b)
      : from_a(head_of(rows_a, at.b, length_, at.n, width)),
        from_b(head_of(rows_b, at.b, length_, at.n, width)),
        pitch_a(rows_a.pitch),
        pitch_b(rows_b.pitch),
        length(length_),
        tiles_a(shared_a),
        tiles_b(shared_b),
        D(static_cast<int>(width)),
        count(static_cast<int>((length_ + kFlashRows - 1) / kFlashRows)) {}

  AVID_DEVICE Elem* a(int tile) const { return tiles_a + tile % 2 * Tile::kElems; }
  AVID_DEVICE Elem* b(int tile) const { return tiles_b + tile % 2 * Tile::kElems; }

  /// Starts the copies of a tile. Behind the last one the group is empty, so that waits count the same there.
  AVID_DEVICE void load(int tile) const {
    load(tile, [](std::int64_t) {});
  }
  /// with_rows(first row) loads what else belongs to the tile's rows.
  template <class WithRows>
  AVID_DEVICE void load(int tile, WithRows&& with_rows) const {
    if (tile < count) {
      const std::int64_t first = std::int64_t{tile} * kFlashRows;
      load_flash_tile<Elem, kD>(a(tile), from_a, pitch_a, first, length, D);
      load_flash_tile<Elem, kD>(b(tile), from_b, pitch_b, first, length, D);
      with_rows(first);
    }
    cp_async_commit();
  }
};

/// Columns from `exist` on of a result of 64 become what has no weight once `scale` is on it. Seldom: the last tile.
AVID_DEVICE void hide_columns(float (&s)[8][4], std::int64_t exist, float scale, int t) {
  if (exist >= kFlashRows) return;
  const int columns = static_cast<int>(exist);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (j * 8 + 2 * t + (e & 1) >= columns) s[j][e] = scale < 0 ? INFINITY : -INFINITY;
  }
}

AVID_DEVICE float quad_sum_of(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

template <class Elem, int kD>
__global__ void __launch_bounds__(kFlashThreads, 2) attention_fwd_kernel(AttentionArgs<Elem> p) {
  using Tile = FlashTile<Elem, kD>;
  SharedArena arena;
  Elem* q_tile = arena.take<Elem>(Tile::kElems, "q");
  Elem* k_tiles = arena.take<Elem>(2 * Tile::kElems, "k");
  Elem* v_tiles = arena.take<Elem>(2 * Tile::kElems, "v");
  const FlashPlace at(p.Q, p.N);
  const int D = static_cast<int>(p.D), lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const FlashTilePair<Elem, kD> keys_values(p.k, p.v, at, p.K, p.D, k_tiles, v_tiles);
  load_flash_tile<Elem, kD>(q_tile, head_of(p.q, at.b, p.Q, at.n, p.D), p.q.pitch, at.first, p.Q, D);
  keys_values.load(0);

  const float scale = static_cast<float>(p.scale) * kFlashLog2E;
  float out[kD / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  for (int tile = 0; tile < keys_values.count; ++tile) {
    keys_values.load(tile + 1);
    cp_async_wait<1>();
    __syncthreads();
    float s[8][4];
    multiply_rows<Elem, kD>(s, q_tile, warp * 16, keys_values.a(tile), lane);
    hide_columns(s, p.K - std::int64_t{tile} * kFlashRows, scale, t);
    float top[2] = {largest[0], largest[1]};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[j][e] *= scale;
        top[e >> 1] = fmaxf(top[e >> 1], s[j][e]);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {  // the first key of a tile exists: top is finite
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
      const float shrink = exp2_flushed(largest[h] - top[h]);
      largest[h] = top[h];
      sum[h] *= shrink;
#pragma unroll
      for (int j = 0; j < kD / 8; ++j) out[j][2 * h] *= shrink, out[j][2 * h + 1] *= shrink;
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e >> 1] += s[j][e] = exp2_flushed(s[j][e] - largest[e >> 1]);
    }
    multiply_columns<Elem, kD>(out, s, keys_values.b(tile), lane);
    __syncthreads();  // the next round overwrites this tile's buffers
  }
  const float total[2] = {quad_sum_of(sum[0]), quad_sum_of(sum[1])};
  const std::int64_t row0 = at.first + warp * 16;
  store_rows<Elem, kD>(
      head_of(p.out, at.b, p.Q, at.n, p.D), p.out.pitch, row0, p.Q, D, out, 1.0f / total[0], 1.0f / total[1], lane);
  if (t > 0 || p.log_sum == nullptr) return;
  float* log_sum = static_cast<float*>(p.log_sum) + (at.b * p.N + at.n) * p.Q;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const std::int64_t row = row0 + g + 8 * h;
    if (row < p.Q) log_sum[row] = (largest[h] + log2f(total[h])) * (1.0f / kFlashLog2E);
  }
}

/// delta[b,n,i] = sum_d d_out out; a thread per element.
template <class Elem>
__global__ void attention_delta_kernel(AttentionArgs<Elem> p, Rows<const Elem> d_out, float* delta) {
  const std::int64_t e = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (e >= p.B * p.N * p.Q) return;
  const std::int64_t head = e / p.Q, i = e - head * p.Q, b = head / p.N;
  const int n = static_cast<int>(head - b * p.N);
  const Elem* out = head_of(p.out, b, p.Q, n, p.D) + i * p.out.pitch;
  const Elem* d = head_of(d_out, b, p.Q, n, p.D) + i * d_out.pitch;
  float sum = 0;
  for (int c = 0; c < p.D; ++c) sum = fmaf(to_float(out[c]), to_float(d[c]), sum);
  delta[e] = sum;
}

/// Of 64 queries, into shared memory: log sums in base 2 and deltas. Queries that do not exist get P = 0.
template <class Elem>
AVID_DEVICE void load_row_numbers(
    float* log_sums, float* deltas, const AttentionArgs<Elem>& p, const float* all_deltas, const FlashPlace& at,
    std::int64_t first) {
  const int r = threadIdx.x;
  if (r >= kFlashRows) return;
  const std::int64_t index = (at.b * p.N + at.n) * p.Q + first + r;
  const bool exists = first + r < p.Q;
  log_sums[r] = exists ? static_cast<const float*>(p.log_sum)[index] * kFlashLog2E : INFINITY;
  deltas[r] = exists ? all_deltas[index] : 0.0f;
}

template <class Elem, int kD>
__global__ void __launch_bounds__(kFlashThreads, 2)
    attention_bwd_query_kernel(AttentionArgs<Elem> p, AttentionGrads<Elem> grads) {
  using Tile = FlashTile<Elem, kD>;
  SharedArena arena;
  Elem* q_tile = arena.take<Elem>(Tile::kElems, "q");
  Elem* d_out_tile = arena.take<Elem>(Tile::kElems, "d_out");
  Elem* k_tiles = arena.take<Elem>(2 * Tile::kElems, "k");
  Elem* v_tiles = arena.take<Elem>(2 * Tile::kElems, "v");
  float* log_sums = arena.take<float>(kFlashRows, "log_sums");
  float* deltas = arena.take<float>(kFlashRows, "deltas");
  const FlashPlace at(p.Q, p.N);
  const int D = static_cast<int>(p.D), lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const FlashTilePair<Elem, kD> keys_values(p.k, p.v, at, p.K, p.D, k_tiles, v_tiles);
  load_flash_tile<Elem, kD>(q_tile, head_of(p.q, at.b, p.Q, at.n, p.D), p.q.pitch, at.first, p.Q, D);
  load_flash_tile<Elem, kD>(
      d_out_tile, head_of(grads.d_out, at.b, p.Q, at.n, p.D), grads.d_out.pitch, at.first, p.Q, D);
  load_row_numbers(log_sums, deltas, p, grads.workspace, at, at.first);
  keys_values.load(0);

  const float scale = static_cast<float>(p.scale);
  float d_q[kD / 8][4] = {};
  for (int tile = 0; tile < keys_values.count; ++tile) {
    keys_values.load(tile + 1);
    cp_async_wait<1>();
    __syncthreads();
    const Elem* k_tile = keys_values.a(tile);
    float s[8][4], d_p[8][4];
    multiply_rows<Elem, kD>(s, q_tile, warp * 16, k_tile, lane);
    hide_columns(s, p.K - std::int64_t{tile} * kFlashRows, scale, t);
    multiply_rows<Elem, kD>(d_p, d_out_tile, warp * 16, keys_values.b(tile), lane);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int row = warp * 16 + g + 8 * (e >> 1);
        const float prob = exp2_flushed(fmaf(s[j][e], scale * kFlashLog2E, -log_sums[row]));
        s[j][e] = prob * (d_p[j][e] - deltas[row]);
      }
    }
    multiply_columns<Elem, kD>(d_q, s, k_tile, lane);
    __syncthreads();
  }
  store_rows<Elem, kD>(
      head_of(grads.d_q, at.b, p.Q, at.n, p.D), grads.d_q.pitch, at.first + warp * 16, p.Q, D, d_q, scale, scale, lane);
}

template <class Elem, int kD>
__global__ void __launch_bounds__(kFlashThreads, 2)
    attention_bwd_key_kernel(AttentionArgs<Elem> p, AttentionGrads<Elem> grads) {
  using Tile = FlashTile<Elem, kD>;
  SharedArena arena;
  Elem* k_tile = arena.take<Elem>(Tile::kElems, "k");
  Elem* v_tile = arena.take<Elem>(Tile::kElems, "v");
  Elem* q_tiles = arena.take<Elem>(2 * Tile::kElems, "q");
  Elem* d_out_tiles = arena.take<Elem>(2 * Tile::kElems, "d_out");
  float* log_sums = arena.take<float>(2 * kFlashRows, "log_sums");
  float* deltas = arena.take<float>(2 * kFlashRows, "deltas");
  const FlashPlace at(p.K, p.N);
  const int D = static_cast<int>(p.D), lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  const FlashTilePair<Elem, kD> queries(p.q, grads.d_out, at, p.Q, p.D, q_tiles, d_out_tiles);
  const auto load = [&](int tile) {
    queries.load(tile, [&](std::int64_t first) {
      const int row = tile % 2 * kFlashRows;
      load_row_numbers(log_sums + row, deltas + row, p, grads.workspace, at, first);
    });
  };
  load_flash_tile<Elem, kD>(k_tile, head_of(p.k, at.b, p.K, at.n, p.D), p.k.pitch, at.first, p.K, D);
  load_flash_tile<Elem, kD>(v_tile, head_of(p.v, at.b, p.K, at.n, p.D), p.v.pitch, at.first, p.K, D);
  load(0);

  const float scale = static_cast<float>(p.scale);
  float d_k[kD / 8][4] = {}, d_v[kD / 8][4] = {};
  for (int tile = 0; tile < queries.count; ++tile) {
    load(tile + 1);
    cp_async_wait<1>();
    __syncthreads();
    const Elem *q_tile = queries.a(tile), *d_out_tile = queries.b(tile);
    const int numbers = tile % 2 * kFlashRows;
    float prob[8][4], d_s[8][4];  // [16 keys, 64 queries]
    multiply_rows<Elem, kD>(prob, k_tile, warp * 16, q_tile, lane);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        prob[j][e] = exp2_flushed(fmaf(prob[j][e], scale * kFlashLog2E, -log_sums[numbers + j * 8 + 2 * t + (e & 1)]));
    }
    multiply_columns<Elem, kD>(d_v, prob, d_out_tile, lane);
    multiply_rows<Elem, kD>(d_s, v_tile, warp * 16, d_out_tile, lane);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) d_s[j][e] = prob[j][e] * (d_s[j][e] - deltas[numbers + j * 8 + 2 * t + (e & 1)]);
    }
    multiply_columns<Elem, kD>(d_k, d_s, q_tile, lane);
    __syncthreads();
  }
  cp_async_wait<0>();  // of keys that meet no query
  const std::int64_t row0 = at.first + warp * 16;
  if (grads.d_k)
    store_rows<Elem, kD>(
        head_of(grads.d_k, at.b, p.K, at.n, p.D), grads.d_k.pitch, row0, p.K, D, d_k, scale, scale, lane);
  if (grads.d_v)
    store_rows<Elem, kD>(
        head_of(grads.d_v, at.b, p.K, at.n, p.D), grads.d_v.pitch, row0, p.K, D, d_v, 1.0f, 1.0f, lane);
}

/// Calls f.operator()<kD>() with the capacity for heads of D channels.
template <class F>
void with_flash_head(std::int64_t D, F&& f) {
  D <= 32 ? f.template operator()<32>() : f.template operator()<64>();
}

template <class Elem>
dim3 flash_grid(const AttentionArgs<Elem>& p, std::int64_t rows) {
  return dim3(static_cast<unsigned>((rows + kFlashRows - 1) / kFlashRows * p.N * p.B));
}

template <class Elem>
void launch_attention_fwd(const Stream& stream, const AttentionArgs<Elem>& p) {
  if (p.B * p.Q * p.N == 0) return;
  with_flash_head(p.D, [&]<int kD>() {
    const std::size_t bytes = 5 * FlashTile<Elem, kD>::kElems * sizeof(Elem);
    launch(attention_fwd_kernel<Elem, kD>, flash_grid(p, p.Q), dim3(kFlashThreads), bytes, stream, p);
  });
}

template <class Elem>
void launch_attention_bwd(const Stream& stream, const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g) {
  if (p.B * p.N == 0) return;
  const std::int64_t queries = p.B * p.N * p.Q;
  if (queries > 0)
    launch(
        attention_delta_kernel<Elem>, dim3(static_cast<unsigned>((queries + 255) / 256)), dim3(256), 0, stream, p,
        g.d_out, g.workspace);
  with_flash_head(p.D, [&]<int kD>() {
    const std::size_t tiles = 6 * FlashTile<Elem, kD>::kElems * sizeof(Elem), numbers = 2 * kFlashRows * sizeof(float);
    if (g.d_q && queries > 0)
      launch(
          attention_bwd_query_kernel<Elem, kD>, flash_grid(p, p.Q), dim3(kFlashThreads), tiles + numbers, stream, p, g);
    if (g.d_k || g.d_v)
      launch(
          attention_bwd_key_kernel<Elem, kD>, flash_grid(p, p.K), dim3(kFlashThreads), tiles + 2 * numbers, stream, p,
          g);
  });
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void attention_fwd(const Stream& stream, const AttentionArgs<Elem>& p) {
  AVID_GPU::launch_attention_fwd(stream, p);
}
template <class Backend, class Elem>
void attention_bwd(const Stream& stream, const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g) {
  AVID_GPU::launch_attention_bwd(stream, p, g);
}

template void attention_fwd<Gpu, float>(const Stream&, const AttentionArgs<float>&);
template void attention_fwd<Gpu, BFloat16>(const Stream&, const AttentionArgs<BFloat16>&);
template void attention_bwd<Gpu, float>(const Stream&, const AttentionArgs<float>&, const AttentionGrads<float>&);
template void attention_bwd<Gpu, BFloat16>(
    const Stream&, const AttentionArgs<BFloat16>&, const AttentionGrads<BFloat16>&);

}  // namespace avid::kernels
