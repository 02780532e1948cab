// kernels/attention.cu -- softmax attention on a device, tile by tile without a matrix of probabilities
//
// Math       kernels/attention.h. With P the probabilities and d_P = d_out v^T, row sums delta_i = sum_d d_out out:
//              d_S = P (d_P - delta);  d_q = scale d_S k;  d_k = scale d_S^T q;  d_v = P^T d_out
// Parallel   a block is 64 rows of one head of one sequence, 4 warps of 16 rows, and walks over tiles of 64 rows of the
//            other side, the next tile copied (cp.async) behind the products. fwd and d_q: the block owns queries; d_k
//            and d_v: keys, with transposed products, so that every sum stays in the registers of one warp. Products
//            never pass through shared memory (flash_tiles.h). One text for bf16 and f32. Of more than 64 queries,
//            bf16 fwd takes 128 to a block: a warp has 32, in registers, and reads a fragment of keys or values for
//            both halves at once
// Traffic    each block reads all tiles of the other side: (rows / 64, or 128) times through L2
// Numerics   running maximum and sum in base 2, one division at the end. bf16: P and d_S are rounded to bf16 for their
//            products, sums in f32. f32: three TF32 products each, 64 terms in the tensor core, which cuts; sums over
//            tiles are rounded: 2e-6 over 1000 rows of one sign. P is 0 in masked tails.
// Exact      no atomics: 7 products in bwd instead of 5
// Limits     D <= 64; D not a multiple of 16 bytes loads element by element. scale is not 0
// Measured   never run on a GPU yet
// Counted    instructions per product in the loop at 64 channels, bf16, sm_80: forward 6.9 (of 64 queries 9.1), d_q
//            6.0, d_k and d_v 4.7. About 200 in every loop are seldom or never done: columns behind the last key,
//            heads that do not begin at 16 bytes, a new largest logit. Lost: a branch for the columns of each 16 rows,
//            which doubled the loop (9.8); addresses multiplied anew for every tile, and copies of odd heads unrolled
//            (14.9)
// Oracle     kernels/attention_cpu.cpp in f64, compared in tests/sim/attention_test.cpp
#include "kernels/attention.h"

#include <algorithm>

#include "kernels/device/exponential.h"
#include "kernels/device/flash_tiles.h"
#include "kernels/device/gpu.h"
#include "kernels/device/row_chunks.h"

namespace avid::kernels {
namespace AVID_GPU {

/// Which rows of which head, so many to a block: from the flat block index.
struct FlashPlace {
  std::int64_t b, first;
  int n;
  AVID_DEVICE FlashPlace(std::int64_t num_rows, std::int64_t N, int rows) {
    const std::int64_t tiles = (num_rows + rows - 1) / rows, item = blockIdx.x / tiles;
    first = (blockIdx.x - item * tiles) * rows;
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
  FlashRows<Elem, kD> rows_a, rows_b;
  Elem *tiles_a, *tiles_b;
  std::int64_t length;
  int count, loaded = 0;

  AVID_DEVICE FlashTilePair(
      Rows<const Elem> a, Rows<const Elem> b, const FlashPlace& at, std::int64_t num_rows, std::int64_t D,
      Elem* shared_a, Elem* shared_b)
      : rows_a(head_of(a, at.b, num_rows, at.n, D), a.pitch, 0, static_cast<int>(D)),
        rows_b(head_of(b, at.b, num_rows, at.n, D), b.pitch, 0, static_cast<int>(D)),
        tiles_a(shared_a),
        tiles_b(shared_b),
        length(num_rows),
        count(static_cast<int>((num_rows + kFlashRows - 1) / kFlashRows)) {}

  AVID_DEVICE Elem* a(int tile) const { return tiles_a + tile % 2 * Tile::kElems; }
  AVID_DEVICE Elem* b(int tile) const { return tiles_b + tile % 2 * Tile::kElems; }

  /// Starts the copies of the next tile, if there is one.
  AVID_DEVICE void load() {
    load([](int) {});
  }
  /// with_rows(tile) loads what else belongs to the tile's rows.
  template <class WithRows>
  AVID_DEVICE void load(WithRows&& with_rows) {
    if (loaded < count) {
      const std::int64_t exist = length - std::int64_t{loaded} * kFlashRows;
      rows_a.load(a(loaded), exist);
      rows_b.load(b(loaded), exist);
      with_rows(loaded);
    }
    ++loaded;
    cp_async_commit();
  }
  /// All that was loaded is there for all threads, and they are done with the tile before it.
  AVID_DEVICE void exchange() const {
    cp_async_wait<0>();
    __syncthreads();
  }
};

/// Columns from `exist` on of a result of 64 become what has no weight once `scale` is on it. Seldom: the last tile.
template <int kBlocks>
AVID_DEVICE void hide_columns(FlashSums<64> (&s)[kBlocks], std::int64_t exist, float scale, int t) {
  if (exist >= kFlashRows) return;
  const int columns = static_cast<int>(exist);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (j * 8 + 2 * t + (e & 1) < columns) continue;
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) s[i][j][e] = scale < 0 ? INFINITY : -INFINITY;
    }
  }
}

/// Largest logit of 16 rows so far, and sum of the weights relative to it: of this lane's rows g and g + 8, the sum of
/// its columns alone.
struct FlashSoftmax {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};

  /// Logits s / scale of another tile, scale > 0, to weights. `out` becomes relative to the new largest as well.
  template <int kTiles>
  AVID_DEVICE void take(FlashSums<64>& s, float (&out)[kTiles][4], float scale) {
    float top[2] = {largest[0], largest[1]};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) top[e >> 1] = fmaxf(top[e >> 1], s[j][e]);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {  // the first key of a tile exists: top is finite
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
    }
    if (__any_sync(0xffffffffu, top[0] > largest[0] || top[1] > largest[1])) {  // seldom after the first tiles
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float shrink = exp2_flushed((largest[h] - top[h]) * scale);
        largest[h] = top[h];
        sum[h] *= shrink;
#pragma unroll
        for (int j = 0; j < kTiles; ++j) out[j][2 * h] *= shrink, out[j][2 * h + 1] *= shrink;
      }
    }
    const float zero[2] = {largest[0] * scale, largest[1] * scale};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e >> 1] += s[j][e] = exp2_flushed(fmaf(s[j][e], scale, -zero[e >> 1]));
    }
  }
};

/// Of bf16 a warp keeps its queries in registers; f32 has none for them, and reads the tile again for every product.
template <class Elem, int kD, int kBlocks>
struct FlashQueries {
  using Tile = FlashTile<Elem, kD>;
  static constexpr bool kKept = sizeof(Elem) == 2;
  Fragment<Elem, 4> kept[kKept ? kBlocks : 1][kKept ? Tile::kSteps : 1];
  const Elem* tile;
  int row0, lane;

  AVID_DEVICE FlashQueries(const Elem* from, int first_row, int of_lane) : tile(from), row0(first_row), lane(of_lane) {
    if constexpr (kKept) {
#pragma unroll
      for (int i = 0; i < kBlocks; ++i)
#pragma unroll
        for (int s = 0; s < Tile::kSteps; ++s)
          left_from_rows<Tile::kPitch>(kept[i][s], tile, row0 + i * 16, s * Tile::kStep, lane);
    }
  }
  AVID_DEVICE Fragment<Elem, 4> operator()(int i, int s) const {
    if constexpr (kKept) return kept[i][s];
    return rows_of_tile<Elem, kD>(tile, row0, lane)(i, s);
  }
};

/// kBlocks tiles of queries become negative.
template <class Elem, int kD, int kBlocks>
AVID_DEVICE void negate_tiles(Elem* tiles) {
  for (int e = static_cast<int>(threadIdx.x); e < kBlocks * kFlashRows * kD; e += kFlashThreads) {
    Elem& v = tiles[e / kD * FlashTile<Elem, kD>::kPitch + e % kD];
    store_pair(&v, -to_float(v), 0, false);
  }
}

template <class Elem, int kD, int kBlocks>
__global__ void __launch_bounds__(kFlashThreads, 2) attention_fwd_kernel(AttentionArgs<Elem> p) {
  using Tile = FlashTile<Elem, kD>;
  SharedArena arena;
  Elem* q_tiles = arena.take<Elem>(kBlocks * Tile::kElems, "q");
  Elem* k_tiles = arena.take<Elem>(2 * Tile::kElems, "k");
  Elem* v_tiles = arena.take<Elem>(2 * Tile::kElems, "v");
  const FlashPlace at(p.Q, p.N, kBlocks * kFlashRows);
  const int D = static_cast<int>(p.D), lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int row0 = warp * 16 * kBlocks;  // of the block's
  FlashTilePair<Elem, kD> keys_values(p.k, p.v, at, p.K, p.D, k_tiles, v_tiles);
  FlashRows<Elem, kD> queries(head_of(p.q, at.b, p.Q, at.n, p.D), p.q.pitch, at.first, D);
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) queries.load(q_tiles + i * Tile::kElems, p.Q - at.first - i * kFlashRows);
  keys_values.load();
  keys_values.exchange();
  if (p.scale < 0) {
    negate_tiles<Elem, kD, kBlocks>(q_tiles);
    __syncthreads();
  }
  const FlashQueries<Elem, kD, kBlocks> q(q_tiles, row0, lane);

  const float scale = fabsf(static_cast<float>(p.scale)) * kLog2E;
  FlashSums<kD> out[kBlocks] = {};
  FlashSoftmax softmax[kBlocks];
  for (int tile = 0; tile < keys_values.count; ++tile) {
    keys_values.load();
    FlashSums<64> s[kBlocks];
    multiply_rows<Elem, kD, kBlocks>(s, q, keys_values.a(tile), lane);
    hide_columns<kBlocks>(s, p.K - std::int64_t{tile} * kFlashRows, scale, t);
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) softmax[i].take(s[i], out[i], scale);
    multiply_columns<Elem, kD, kBlocks>(out, s, keys_values.b(tile), lane);
    keys_values.exchange();
  }
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
    const float total[2] = {lane_sum<4>(softmax[i].sum[0]), lane_sum<4>(softmax[i].sum[1])};
    const std::int64_t first = at.first + row0 + i * 16;
    store_rows<Elem, kD>(
        head_of(p.out, at.b, p.Q, at.n, p.D), p.out.pitch, first, p.Q, D, out[i], 1.0f / total[0], 1.0f / total[1],
        lane);
    if (t > 0 || p.log_sum == nullptr) continue;
    float* log_sum = static_cast<float*>(p.log_sum) + (at.b * p.N + at.n) * p.Q;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::int64_t row = first + g + 8 * h;
      if (row < p.Q) log_sum[row] = (softmax[i].largest[h] * scale + log2f(total[h])) * (1.0f / kLog2E);
    }
  }
}

/// delta[b,n,i] = sum_d d_out out; a row of a head takes as many lanes as chunks fit into kD channels.
template <class Elem, int kD>
__global__ void __launch_bounds__(256)
    attention_delta_kernel(AttentionArgs<Elem> p, Rows<const Elem> d_out, float* delta) {
  constexpr int kChunk = FlashTile<Elem, kD>::kChunk, kLanes = kD / kChunk;
  const std::int64_t e = (std::int64_t{blockIdx.x} * 256 + threadIdx.x) / kLanes;
  const int D = static_cast<int>(p.D), lane = static_cast<int>(threadIdx.x) % kLanes;
  float sum = 0;
  if (e < p.B * p.N * p.Q) {
    const std::int64_t head = e / p.Q, i = e - head * p.Q, b = head / p.N;
    const int n = static_cast<int>(head - b * p.N);
    const Elem* out = head_of(p.out, b, p.Q, n, p.D) + i * p.out.pitch + lane * kChunk;
    const Elem* d = head_of(d_out, b, p.Q, n, p.D) + i * d_out.pitch + lane * kChunk;
    const int valid = min(kChunk, D - lane * kChunk);
    if (D % kChunk == 0) {
      if (valid > 0) {
        float v[kChunk], w[kChunk];
        load_chunk(v, out);
        load_chunk(w, d);
#pragma unroll
        for (int c = 0; c < kChunk; ++c) sum = fmaf(v[c], w[c], sum);
      }
    } else {  // heads that do not begin at 16 bytes
      for (int c = 0; c < valid; ++c) sum = fmaf(to_float(out[c]), to_float(d[c]), sum);
    }
  }
  sum = lane_sum<kLanes>(sum);
  if (lane == 0 && e < p.B * p.N * p.Q) delta[e] = sum;
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
  log_sums[r] = exists ? static_cast<const float*>(p.log_sum)[index] * kLog2E : INFINITY;
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
  const FlashPlace at(p.Q, p.N, kFlashRows);
  const int D = static_cast<int>(p.D), lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  FlashTilePair<Elem, kD> keys_values(p.k, p.v, at, p.K, p.D, k_tiles, v_tiles);
  FlashRows<Elem, kD>(head_of(p.q, at.b, p.Q, at.n, p.D), p.q.pitch, at.first, D).load(q_tile, p.Q - at.first);
  FlashRows<Elem, kD>(head_of(grads.d_out, at.b, p.Q, at.n, p.D), grads.d_out.pitch, at.first, D)
      .load(d_out_tile, p.Q - at.first);
  load_row_numbers(log_sums, deltas, p, grads.workspace, at, at.first);
  keys_values.load();
  keys_values.exchange();
  const auto q = rows_of_tile<Elem, kD>(q_tile, warp * 16, lane),
             d_out = rows_of_tile<Elem, kD>(d_out_tile, warp * 16, lane);
  float log_sum[2], delta[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) log_sum[h] = log_sums[warp * 16 + g + 8 * h], delta[h] = deltas[warp * 16 + g + 8 * h];

  const float scale = static_cast<float>(p.scale);
  FlashSums<kD> d_q[1] = {};
  for (int tile = 0; tile < keys_values.count; ++tile) {
    keys_values.load();
    const Elem* k_tile = keys_values.a(tile);
    FlashSums<64> s[1], d_p[1];
    multiply_rows<Elem, kD, 1>(s, q, k_tile, lane);
    hide_columns<1>(s, p.K - std::int64_t{tile} * kFlashRows, scale, t);
    multiply_rows<Elem, kD, 1>(d_p, d_out, keys_values.b(tile), lane);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float prob = exp2_flushed(fmaf(s[0][j][e], scale * kLog2E, -log_sum[e >> 1]));
        s[0][j][e] = prob * (d_p[0][j][e] - delta[e >> 1]);
      }
    }
    multiply_columns<Elem, kD, 1>(d_q, s, k_tile, lane);
    keys_values.exchange();
  }
  store_rows<Elem, kD>(
      head_of(grads.d_q, at.b, p.Q, at.n, p.D), grads.d_q.pitch, at.first + warp * 16, p.Q, D, d_q[0], scale, scale,
      lane);
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
  const FlashPlace at(p.K, p.N, kFlashRows);
  const int D = static_cast<int>(p.D), lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4;
  FlashTilePair<Elem, kD> queries(p.q, grads.d_out, at, p.Q, p.D, q_tiles, d_out_tiles);
  const auto load = [&] {
    queries.load([&](int tile) {
      const int row = tile % 2 * kFlashRows;
      load_row_numbers(log_sums + row, deltas + row, p, grads.workspace, at, std::int64_t{tile} * kFlashRows);
    });
  };
  FlashRows<Elem, kD>(head_of(p.k, at.b, p.K, at.n, p.D), p.k.pitch, at.first, D).load(k_tile, p.K - at.first);
  FlashRows<Elem, kD>(head_of(p.v, at.b, p.K, at.n, p.D), p.v.pitch, at.first, D).load(v_tile, p.K - at.first);
  load();
  queries.exchange();
  const auto k = rows_of_tile<Elem, kD>(k_tile, warp * 16, lane), v = rows_of_tile<Elem, kD>(v_tile, warp * 16, lane);

  const float scale = static_cast<float>(p.scale);
  FlashSums<kD> d_k[1] = {}, d_v[1] = {};
  for (int tile = 0; tile < queries.count; ++tile) {
    load();
    const Elem *q_tile = queries.a(tile), *d_out_tile = queries.b(tile);
    const int numbers = tile % 2 * kFlashRows;
    const auto of_columns = [&](const float* of_rows, int j) {
      return *reinterpret_cast<const float2*>(of_rows + numbers + j * 8 + 2 * t);
    };
    FlashSums<64> prob[1], d_s[1];  // [16 keys, 64 queries]
    multiply_rows<Elem, kD, 1>(prob, k, q_tile, lane);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 log_sum = of_columns(log_sums, j);
#pragma unroll
      for (int e = 0; e < 4; ++e)
        prob[0][j][e] = exp2_flushed(fmaf(prob[0][j][e], scale * kLog2E, (e & 1) == 0 ? -log_sum.x : -log_sum.y));
    }
    multiply_columns<Elem, kD, 1>(d_v, prob, d_out_tile, lane);
    multiply_rows<Elem, kD, 1>(d_s, v, d_out_tile, lane);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 delta = of_columns(deltas, j);
#pragma unroll
      for (int e = 0; e < 4; ++e) d_s[0][j][e] = prob[0][j][e] * (d_s[0][j][e] - ((e & 1) == 0 ? delta.x : delta.y));
    }
    multiply_columns<Elem, kD, 1>(d_k, d_s, q_tile, lane);
    queries.exchange();
  }
  const std::int64_t row0 = at.first + warp * 16;
  if (grads.d_k)
    store_rows<Elem, kD>(
        head_of(grads.d_k, at.b, p.K, at.n, p.D), grads.d_k.pitch, row0, p.K, D, d_k[0], scale, scale, lane);
  if (grads.d_v)
    store_rows<Elem, kD>(
        head_of(grads.d_v, at.b, p.K, at.n, p.D), grads.d_v.pitch, row0, p.K, D, d_v[0], 1.0f, 1.0f, lane);
}

/// Calls f.operator()<kD>() with the capacity for heads of D channels.
template <class F>
void with_flash_head(std::int64_t D, F&& f) {
  D <= 32 ? f.template operator()<32>() : f.template operator()<64>();
}

/// Blocks of so many rows each, for every head.
template <class Elem>
dim3 flash_grid(const AttentionArgs<Elem>& p, std::int64_t num_rows, int rows) {
  return dim3(static_cast<unsigned>((num_rows + rows - 1) / rows * p.N * p.B));
}

template <class Elem>
void launch_attention_fwd(const Stream& stream, const AttentionArgs<Elem>& p) {
  if (p.B * p.Q * p.N == 0) return;
  with_flash_head(p.D, [&]<int kD>() {
    const auto run = [&]<int kBlocks>() {
      const std::size_t bytes = (kBlocks + 4) * FlashTile<Elem, kD>::kElems * sizeof(Elem);
      launch(
          attention_fwd_kernel<Elem, kD, kBlocks>, flash_grid(p, p.Q, kBlocks * kFlashRows), dim3(kFlashThreads), bytes,
          stream, p);
    };
    if constexpr (sizeof(Elem) == 2) {
      if (p.Q > kFlashRows) return run.template operator()<2>();
    }
    run.template operator()<1>();
  });
}

template <class Elem>
void launch_attention_bwd(const Stream& stream, const AttentionArgs<Elem>& p, const AttentionGrads<Elem>& g) {
  if (p.B * p.N == 0) return;
  const std::int64_t queries = p.B * p.N * p.Q;
  with_flash_head(p.D, [&]<int kD>() {
    using Tile = FlashTile<Elem, kD>;
    if (queries > 0) {
      const std::int64_t rows = 256 / (kD / Tile::kChunk);  // of a block
      launch(
          attention_delta_kernel<Elem, kD>, dim3(static_cast<unsigned>((queries + rows - 1) / rows)), dim3(256), 0,
          stream, p, g.d_out, g.workspace);
    }
    const std::size_t tiles = 6 * Tile::kElems * sizeof(Elem), numbers = 2 * kFlashRows * sizeof(float);
    if (g.d_q && queries > 0)
      launch(
          attention_bwd_query_kernel<Elem, kD>, flash_grid(p, p.Q, kFlashRows), dim3(kFlashThreads), tiles + numbers,
          stream, p, g);
    if (g.d_k || g.d_v)
      launch(
          attention_bwd_key_kernel<Elem, kD>, flash_grid(p, p.K, kFlashRows), dim3(kFlashThreads), tiles + 2 * numbers,
          stream, p, g);
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
