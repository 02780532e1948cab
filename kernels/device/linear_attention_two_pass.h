// kernels/device/linear_attention_two_pass.h -- pass 2 of linear attention forward
//
// For bf16 and heads of 32 channels. Pass 1 (device/linear_attention_contexts.h) leaves m [C, 32] of each head, context
// and output weights in one.
//
// Pass 2  a block owns 128 positions: norm, then head by head q = h w_q^T, softmax over the 32 channels (four 8-column
//         tiles of one quad: two shuffles), whose result is the A fragment of the product with m; bias and residual on
//         the way out. A warp has 32 positions, or 16 where rows have more than 104 channels
// Traffic x twice (the second time from L1 or L2), y once
// Shared  64 KB at 100 channels, 112 KB at 200
// Limits  C <= 200, heads of 32 channels
#pragma once

#include "kernels/attention_block_plan.h"
#include "kernels/device/exponential.h"
#include "kernels/device/row_lanes.h"

namespace avid::kernels::AVID_GPU {

struct LinearTwoPass {
  int S, C, N;
  int K;      ///< C rounded up to 16: the inner dimension of projections
  int pitch;  ///< elements of a row in shared memory: K + 8, an odd number of chunks, so that ldmatrix has no conflicts
  int C8;     ///< C rounded up to 8
  Rows<const BFloat16> x, w_qkv;
  const float *gamma, *b_out;
  Rows<BFloat16> y;
  const BFloat16* folded;  ///< [F, C8, N*32]
};

/// Rows of chunks of eight channels in shared memory: elements from a row to the next, from a chunk to the next.
template <int kRow, int kChunk>
struct ChunkPlaces {
  static constexpr int kRowStep = kRow, kChunkStep = kChunk;
  static AVID_DEVICE int at(int row, int chunk) { return row * kRow + chunk * kChunk; }
};
/// The same with a pitch that is not a constant.
struct PitchedPlaces {
  int pitch;
  AVID_DEVICE int at(int row, int chunk) const { return row * pitch + chunk * 8; }
};

/// xn[r] = prenorm of row r in bf16 for the warp's rows first_row .. first_row + count - 1 of a tile; zero from
/// `rows` on and behind the last channel.
template <class Places>
AVID_DEVICE void normalise_rows(
    const LinearTwoPass& p, const BFloat16* x, int rows, int first_row, int count, const float* gamma, BFloat16* xn,
    const Places& places) {
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
      *reinterpret_cast<uint4*>(xn + places.at(r, l + j * kL)) = make_uint4(
          pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]), pack_bf16x2(v[4], v[5]), pack_bf16x2(v[6], v[7]));
    }
  }
}

/// Starts the copy of 32 rows of w_qkv from row `first` on, K wide.
AVID_DEVICE void stage_weights(const LinearTwoPass& p, BFloat16* to, int first) {
  const int chunks = p.K / 8;
  for (int i = threadIdx.x; i < 32 * chunks; i += blockDim.x) {
    const int r = i / chunks, c = i % chunks * 8;
    const bool exists = c < p.C;
    cp_async_16(to + r * p.pitch + c, exists ? p.w_qkv.row(first + r) + c : p.w_qkv.data, exists);
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

/// q becomes its softmax over a head's channels. q(m, n, e): block m of 16 rows, tile n of 8 channels, register e.
template <int kM, class Q>
AVID_DEVICE void query_softmax(Q&& q) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = q(m, 0, 2 * h), sum = 0;
#pragma unroll
      for (int n = 0; n < 4; ++n) top = fmaxf(top, fmaxf(q(m, n, 2 * h), q(m, n, 2 * h + 1)));
      const float from = -kLog2E * quad_max(top);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        q(m, n, 2 * h) = exp2_flushed(fmaf(q(m, n, 2 * h), kLog2E, from));
        q(m, n, 2 * h + 1) = exp2_flushed(fmaf(q(m, n, 2 * h + 1), kLog2E, from));
        sum += q(m, n, 2 * h) + q(m, n, 2 * h + 1);
      }
      const float scale = __fdividef(1.0f, quad_sum(sum));
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        q(m, n, 2 * h) *= scale;
        q(m, n, 2 * h + 1) *= scale;
      }
    }
}

/// y = x + b_out + out of a warp's rows first_row .. first_row + 16 kM - 1 of a tile that begins at row `row0`, rounded
/// once, through the warp's own rows of xn for 16-byte stores.
template <int kN, int kM, class Out, class Places>
AVID_DEVICE void store_output(
    const LinearTwoPass& p, std::int64_t row0, int rows, int first_row, Out&& out, BFloat16* xn, const Places& places) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const BFloat16* x = p.x.row(row0);
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
        *reinterpret_cast<std::uint32_t*>(xn + places.at(r, n) + 2 * t) =
            pack_bf16x2(out(m, n, 2 * h) + b0 + past.x, out(m, n, 2 * h + 1) + b1 + past.y);
      }
    }
  __syncwarp();
  const int chunks = p.C8 / 8;
  for (int i = lane; i < 16 * kM * chunks; i += 32) {
    const int r = first_row + i / chunks, chunk = i % chunks;
    if (r < rows)
      *reinterpret_cast<uint4*>(p.y.row(row0 + r) + chunk * 8) =
          *reinterpret_cast<const uint4*>(xn + places.at(r, chunk));
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
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 16 * kM;
  const BFloat16* x = p.x.data + (frame * p.S + t0) * p.x.pitch;
  const PitchedPlaces places{p.pitch};
  const auto stage = [&](int head, int buffer) {
    stage_weights(p, w_q + buffer * 32 * p.pitch, head * 32);
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
  normalise_rows(p, x, rows, first_row, 16 * kM, gamma, xn, places);  // a warp reads only rows it wrote
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
    query_softmax<kM>([&](int m, int n, int e) -> float& { return q[m][n][e]; });
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
  store_output<kN, kM>(
      p, frame * p.S + t0, rows, first_row, [&](int m, int n, int e) { return out[m][n][e]; }, xn, places);
}

/// Queues pass 2 on wgmma, a block per 128 positions, instead of linear_attention_pass_b_kernel
/// (linear_attention_wgmma.cu). Hosts ask have_wgmma() first.
void linear_attention_pass_b_wgmma(const Stream& stream, const LinearTwoPass& p, std::int64_t frames);

}  // namespace avid::kernels::AVID_GPU
