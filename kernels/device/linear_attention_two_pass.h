// kernels/device/linear_attention_two_pass.h -- linear attention forward in two passes over x
//
// For bf16 and heads of 32 channels.
//
// Pass A  a block keeps the k and v rows of w_qkv of four heads in shared memory and walks a slab of a frame in tiles
//         of 64 positions: norm into shared memory, then two warps per head compute k^T and v^T of 32 positions each,
//         with the weights as the A operand, so that exp(k^T) is directly an A fragment and v^T a B fragment of the
//         32 x 32 context, which stays in registers with its running maximum and sum. Neither k nor v is ever stored.
// Fold    per frame: m[c, n*32+i] = D^-1/2 sum_j w_out[c, n*32+j] context_n[i,j]: the second product disappears into
//         the weights
// Pass B  a block owns 128 positions: norm, then head by head q = h w_q^T, softmax over the 32 channels (four
//         8-column tiles of one quad: two shuffles), whose result is the A fragment of the product with m; bias and
//         residual on the way out
// Traffic x three times (the second group of heads finds it in L2), y once; per head and 512 positions 4.3 KB of
//         contexts
// Shared  92 KB in pass A and 64 KB in pass B at 100 channels: within the 99 KB of consumer cards
// Limits  C <= 104, heads of 32 channels
#pragma once

#include "kernels/attention_block_plan.h"
#include "kernels/device/row_lanes.h"

namespace avid::kernels::AVID_GPU {

struct LinearTwoPass {
  int S, C, N, slabs;
  int K;      ///< C rounded up to 16: the inner dimension of projections
  int pitch;  ///< elements of a row in shared memory: K + 8, an odd number of chunks, so that ldmatrix has no conflicts
  int C8;     ///< C rounded up to 8
  float scale;
  Rows<const BFloat16> x, w_qkv, w_out;
  const float *gamma, *b_out;
  Rows<BFloat16> y;
  float* partial;        ///< [F, slabs * kWarpsPerHead, N, 32*32 + 64] as in LinearCore
  const float* context;  ///< [F, N, 32*32 + 64]
  BFloat16* folded;      ///< [F, C8, N*32]
};

/// xn[r] = prenorm of row r in bf16 for the warp's rows first_row .. first_row + count - 1 of a tile; zero from
/// `rows` on and behind the last channel.
AVID_DEVICE void normalise_rows(
    const LinearTwoPass& p, const BFloat16* x, int rows, int first_row, int count, const float* gamma, BFloat16* xn) {
  constexpr int kL = 8, kK = 4;
  const int lane = threadIdx.x % 32, l = lane % kL;
  for (int r = first_row + lane / kL; r < first_row + count; r += 32 / kL) {
    Chunk8<BFloat16> chunks[kK];
#pragma unroll
    for (int j = 0; j < kK; ++j) {
      const int c = (l + j * kL) * 8;
      chunks[j] = load_chunk(x + r * p.x.pitch + c, r < rows ? p.C - c : 0);
    }
    const RowMoments m = row_moments<kL, kK, BFloat16>(chunks, l, p.C, static_cast<float>(kPrenormEps));
#pragma unroll
    for (int j = 0; j < kK; ++j) {
      const int c = (l + j * kL) * 8;
      if (c >= p.K) continue;
      float v[8];
      unpack(chunks[j], v);
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] = r < rows ? (v[e] - m.mean) * m.rstd * gamma[c + e] : 0.0f;
      *reinterpret_cast<uint4*>(xn + r * p.pitch + c) = make_uint4(
          pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]), pack_bf16x2(v[4], v[5]), pack_bf16x2(v[6], v[7]));
    }
  }
}

/// Starts the copy of `count` rows of weights, K wide; row_of(r) says which row of w_qkv, negative for zeros.
template <class RowOf>
AVID_DEVICE void stage_weights(const LinearTwoPass& p, BFloat16* to, int count, RowOf&& row_of) {
  const int chunks = p.K / 8;
  for (int i = threadIdx.x; i < count * chunks; i += blockDim.x) {
    const int r = i / chunks, c = i % chunks * 8, row = row_of(r);
    const bool exists = row >= 0 && c < p.C;
    cp_async_16(to + r * p.pitch + c, p.w_qkv.data + (exists ? row * p.w_qkv.pitch + c : 0), exists);
  }
}

/// The lane's row address for ldmatrix_x4 of a 16 x 16 A tile at (row, col) of rows in shared memory.
AVID_DEVICE const BFloat16* a_tile(const BFloat16* rows, int pitch, int row, int col) {
  const int lane = threadIdx.x % 32;
  return rows + (row + (lane & 15)) * pitch + col + (lane >> 4) * 8;
}
/// The same for two 8-column B tiles (columns row .. row+15 of the product) stored as [n][k].
AVID_DEVICE const BFloat16* b_tiles(const BFloat16* rows, int pitch, int row, int col) {
  const int lane = threadIdx.x % 32;
  return rows + (row + (lane >> 4) * 8 + (lane & 7)) * pitch + col + ((lane >> 3) & 1) * 8;
}

/// B fragments of a step of 16: four tiles of eight columns stored as [n][k].
struct ColumnTiles {
  std::uint32_t r[2][4];
  AVID_DEVICE ColumnTiles(const BFloat16* rows, int pitch, int col) {
    ldmatrix_x4(r[0], b_tiles(rows, pitch, 0, col));
    ldmatrix_x4(r[1], b_tiles(rows, pitch, 16, col));
  }
  /// d[n] += a times tile n.
  AVID_DEVICE void add_product(float (&d)[4][4], const std::uint32_t (&a)[4]) const {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const std::uint32_t b[2] = {r[n / 2][n % 2 * 2], r[n / 2][n % 2 * 2 + 1]};
      mma_bf16_16x8x16(d[n], a, b, d[n]);
    }
  }
};

AVID_DEVICE float quad_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}
AVID_DEVICE float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

constexpr int kTwoPassTile = 64;   ///< positions of a tile in pass A
constexpr int kHeadsPerBlock = 4;  ///< in pass A

/// One head's running context in the registers of a warp. Rows (k channels) m*16 + g and + 8, columns (v channels)
/// n*8 + 2t.
struct RunningContext {
  float context[2][4][4] = {}, sum[2][2] = {};
  float largest[2][2] = {{-__FLT_MAX__, -__FLT_MAX__}, {-__FLT_MAX__, -__FLT_MAX__}};

  /// Adds 32 positions, of which `valid` exist: xn rows in shared memory, weights [64 rows: k, v].
  AVID_DEVICE void add(const LinearTwoPass& p, const BFloat16* xn, const BFloat16* weights, int valid) {
    float acc[4][4][4] = {};  // tiles of k^T (0, 1) and v^T (2, 3) by tiles of eight positions
#pragma unroll 1
    for (int k = 0; k < p.K; k += 16) {
      const ColumnTiles x(xn, p.pitch, k);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        std::uint32_t w[4];
        ldmatrix_x4(w, a_tile(weights, p.pitch, m * 16, k));
        x.add_product(acc[m], w);
      }
    }
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = largest[m][h];
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          if (n * 8 + 2 * t < valid) top = fmaxf(top, acc[m][n][2 * h]);
          if (n * 8 + 2 * t + 1 < valid) top = fmaxf(top, acc[m][n][2 * h + 1]);
        }
        top = quad_max(top);
        const float shrink = __expf(largest[m][h] - top);
        largest[m][h] = top;
        float part = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          float& a = acc[m][n][2 * h];
          float& b = acc[m][n][2 * h + 1];
          a = n * 8 + 2 * t < valid ? __expf(a - top) : 0.0f;
          b = n * 8 + 2 * t + 1 < valid ? __expf(b - top) : 0.0f;
          part += a + b;
          context[m][n][2 * h] *= shrink;
          context[m][n][2 * h + 1] *= shrink;
        }
        sum[m][h] = fmaf(sum[m][h], shrink, part);
      }
#pragma unroll
    for (int u = 0; u < 2; ++u)  // 16 positions each
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const std::uint32_t a[4] = {
            pack_bf16x2(acc[m][2 * u][0], acc[m][2 * u][1]), pack_bf16x2(acc[m][2 * u][2], acc[m][2 * u][3]),
            pack_bf16x2(acc[m][2 * u + 1][0], acc[m][2 * u + 1][1]),
            pack_bf16x2(acc[m][2 * u + 1][2], acc[m][2 * u + 1][3])};
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int v = 2 + n / 2, h = n % 2 * 2;
          const std::uint32_t b[2] = {
              pack_bf16x2(acc[v][2 * u][h], acc[v][2 * u][h + 1]),
              pack_bf16x2(acc[v][2 * u + 1][h], acc[v][2 * u + 1][h + 1])};
          mma_bf16_16x8x16(context[m][n], a, b, context[m][n]);
        }
      }
  }

  /// Writes context, maximum and sum in the layout of LinearCore.
  AVID_DEVICE void store(float* out) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int i = m * 16 + h * 8 + g;
        const float total = quad_sum(sum[m][h]);
#pragma unroll
        for (int n = 0; n < 4; ++n)
          *reinterpret_cast<float2*>(out + i * 32 + n * 8 + 2 * t) =
              make_float2(context[m][n][2 * h], context[m][n][2 * h + 1]);
        if (t == 0) {
          out[32 * 32 + i] = largest[m][h];
          out[32 * 32 + 32 + i] = total;
        }
      }
  }
};

/// Grid F * slabs * groups of heads; eight warps, two on each head.
template <int kHeads>
__global__ void __launch_bounds__(256, 1) linear_attention_pass_a_kernel(LinearTwoPass p, int groups) {
  static_assert(kHeads * kTwoPassWarpsPerHead == 8);
  SharedArena arena;
  BFloat16* weights = arena.take<BFloat16>(kHeads * 64 * p.pitch, "weights");
  BFloat16* tiles = arena.take<BFloat16>(2 * kTwoPassTile * p.pitch, "xn");
  float* gamma = arena.take<float>(p.K, "gamma");
  const std::int64_t slab_of_all = blockIdx.x / groups, frame = slab_of_all / p.slabs;
  const int slab = static_cast<int>(slab_of_all % p.slabs), warp = threadIdx.x / 32;
  const int first_head = static_cast<int>(blockIdx.x % groups) * kHeads;
  const int slot = warp / kTwoPassWarpsPerHead, part = warp % kTwoPassWarpsPerHead, head = first_head + slot;
  stage_weights(p, weights, kHeads * 64, [&](int r) {  // 32 rows of k, 32 of v for each head
    const int of = first_head + r / 64;
    return of < p.N ? ((1 + r % 64 / 32) * p.N + of) * 32 + r % 32 : -1;
  });
  cp_async_commit();
  for (int c = threadIdx.x; c < p.K; c += blockDim.x) gamma[c] = c < p.C ? p.gamma[c] : 0.0f;
  __syncthreads();
  cp_async_wait<0>();

  RunningContext running;
  const int begin = slab * kTwoPassSlab, end = min(p.S, begin + kTwoPassSlab);
  int buffer = 0;
  for (int t0 = begin; t0 < end; t0 += kTwoPassTile, buffer ^= 1) {
    BFloat16* xn = tiles + buffer * kTwoPassTile * p.pitch;
    normalise_rows(p, p.x.data + (frame * p.S + t0) * p.x.pitch, end - t0, warp * 8, 8, gamma, xn);
    __syncthreads();  // also the weights, the first time; the other buffer is free once all warps are here
    const int first = part * 32, valid = end - t0 - first;
    if (head < p.N && valid > 0) running.add(p, xn + first * p.pitch, weights + slot * 64 * p.pitch, valid);
  }
  if (head >= p.N) return;
  const std::int64_t row = (frame * p.slabs + slab) * kTwoPassWarpsPerHead + part;
  running.store(p.partial + (row * p.N + head) * (32 * 32 + 64));
}

/// folded[c, n*32+i] = scale sum_j w_out[c, n*32+j] context[i,j]. Grid (F, N).
template <int kThreads>
__global__ void __launch_bounds__(kThreads, 2) linear_attention_fold_kernel(LinearTwoPass p) {
  AVID_SHARED(float, context, [32][33]);
  const std::int64_t frame = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y), i = threadIdx.x % 32;
  const float* from = p.context + (frame * p.N + head) * (32 * 32 + 64);
  for (int e = threadIdx.x; e < 32 * 32; e += kThreads) context[e / 32][e % 32] = from[e] * p.scale;
  __syncthreads();
  for (int c = threadIdx.x / 32; c < p.C8; c += kThreads / 32) {
    float sum = 0;
    if (c < p.C) {
      const BFloat16* w = p.w_out.data + c * p.w_out.pitch + head * 32;
#pragma unroll
      for (int j = 0; j < 32; j += 8) {
        float v[8];
        unpack(load_chunk(w + j, 8), v);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum = fmaf(v[e], context[i][j + e], sum);
      }
    }
    p.folded[((frame * p.C8 + c) * p.N + head) * 32 + i] = to_bf16(sum);
  }
}

constexpr int kFoldedPitch = 40;  ///< elements of a row of m in shared memory: 32 and one chunk

/// Grid F * tiles of 128 positions; 8 / kM warps of 16 kM positions. kN tiles of eight output channels, kN * 8 >= C8.
template <int kN, int kM>
__global__ void __launch_bounds__(256 / kM, kM) linear_attention_pass_b_kernel(LinearTwoPass p, int tiles) {
  constexpr int kRows = 128, kFoldedRows = (kN + 1) / 2 * 16;
  SharedArena arena;
  BFloat16* xn = arena.take<BFloat16>(kRows * p.pitch, "xn");
  BFloat16* w_q = arena.take<BFloat16>(2 * 32 * p.pitch, "w_q");
  BFloat16* folded = arena.take<BFloat16>(2 * kFoldedRows * kFoldedPitch, "folded");
  float* gamma = arena.take<float>(p.K, "gamma");
  const std::int64_t frame = blockIdx.x / tiles;
  const int t0 = static_cast<int>(blockIdx.x % tiles) * kRows, rows = min(kRows, p.S - t0);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first_row = warp * 16 * kM;
  const BFloat16* x = p.x.data + (frame * p.S + t0) * p.x.pitch;
  const auto stage = [&](int head, int buffer) {
    stage_weights(p, w_q + buffer * 32 * p.pitch, 32, [&](int r) { return head * 32 + r; });
    for (int i = threadIdx.x; i < kFoldedRows * 4; i += blockDim.x) {
      const int c = i / 4, chunk = i % 4 * 8;
      const bool exists = c < p.C8;
      cp_async_16(
          folded + (buffer * kFoldedRows + c) * kFoldedPitch + chunk,
          p.folded + (exists ? ((frame * p.C8 + c) * p.N + head) * 32 + chunk : 0), exists);
    }
    cp_async_commit();
  };
  stage(0, 0);
  for (int c = threadIdx.x; c < p.K; c += blockDim.x) gamma[c] = c < p.C ? p.gamma[c] : 0.0f;
  __syncthreads();
  normalise_rows(p, x, rows, first_row, 16 * kM, gamma, xn);  // a warp reads only rows it wrote
  float out[kM][kN][4] = {};
  for (int head = 0; head < p.N; ++head) {
    const int buffer = head & 1;
    if (head + 1 < p.N) {
      stage(head + 1, buffer ^ 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    float q[kM][4][4] = {};
#pragma unroll 1
    for (int k = 0; k < p.K; k += 16) {
      const ColumnTiles w(w_q + buffer * 32 * p.pitch, p.pitch, k);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        std::uint32_t a[4];
        ldmatrix_x4(a, a_tile(xn, p.pitch, first_row + m * 16, k));
        w.add_product(q[m], a);
      }
    }
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = q[m][0][2 * h], sum = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n) top = fmaxf(top, fmaxf(q[m][n][2 * h], q[m][n][2 * h + 1]));
        top = quad_max(top);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          q[m][n][2 * h] = __expf(q[m][n][2 * h] - top);
          q[m][n][2 * h + 1] = __expf(q[m][n][2 * h + 1] - top);
          sum += q[m][n][2 * h] + q[m][n][2 * h + 1];
        }
        const float scale = __fdividef(1.0f, quad_sum(sum));
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          q[m][n][2 * h] *= scale;
          q[m][n][2 * h + 1] *= scale;
        }
      }
#pragma unroll
    for (int u = 0; u < 2; ++u) {  // 16 channels of the head each
      std::uint32_t a[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        a[m][0] = pack_bf16x2(q[m][2 * u][0], q[m][2 * u][1]);
        a[m][1] = pack_bf16x2(q[m][2 * u][2], q[m][2 * u][3]);
        a[m][2] = pack_bf16x2(q[m][2 * u + 1][0], q[m][2 * u + 1][1]);
        a[m][3] = pack_bf16x2(q[m][2 * u + 1][2], q[m][2 * u + 1][3]);
      }
#pragma unroll
      for (int pair = 0; pair < (kN + 1) / 2; ++pair) {
        std::uint32_t w[4];
        ldmatrix_x4(w, b_tiles(folded + buffer * kFoldedRows * kFoldedPitch, kFoldedPitch, pair * 16, u * 16));
#pragma unroll
        for (int n = 2 * pair; n < 2 * pair + 2 && n < kN; ++n) {
          const std::uint32_t b[2] = {w[n % 2 * 2], w[n % 2 * 2 + 1]};
#pragma unroll
          for (int m = 0; m < kM; ++m) mma_bf16_16x8x16(out[m][n], a[m], b, out[m][n]);
        }
      }
    }
    __syncthreads();  // this buffer is staged again in the next round
  }
  // Bias and residual, rounded once, through the warp's own rows of xn for 16-byte stores.
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const int c = n * 8 + 2 * t;
      if (c >= p.C8) continue;
      const float b0 = c < p.C ? p.b_out[c] : 0.0f, b1 = c + 1 < p.C ? p.b_out[c + 1] : 0.0f;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int r = first_row + m * 16 + h * 8 + g;
        if (r >= rows) continue;
        const float2 past = unpack_bf16x2(*reinterpret_cast<const std::uint32_t*>(x + r * p.x.pitch + c));
        *reinterpret_cast<std::uint32_t*>(xn + r * p.pitch + c) =
            pack_bf16x2(out[m][n][2 * h] + b0 + past.x, out[m][n][2 * h + 1] + b1 + past.y);
      }
    }
  __syncwarp();
  const int chunks = p.C8 / 8;
  for (int i = lane; i < 16 * kM * chunks; i += 32) {
    const int r = first_row + i / chunks, c = i % chunks * 8;
    if (r < rows)
      *reinterpret_cast<uint4*>(p.y.data + (frame * p.S + t0 + r) * p.y.pitch + c) =
          *reinterpret_cast<const uint4*>(xn + r * p.pitch + c);
  }
}

}  // namespace avid::kernels::AVID_GPU
