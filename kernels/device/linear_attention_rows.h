// kernels/device/linear_attention_rows.h -- pass 2 of linear attention's backward pass: the gradients of the rows
//
// A block owns 128 positions of a frame, a warp 32 of them, or 16 where rows have more than 104 channels. h and d_y lie
// in shared memory; four matrices of each head [32, C] stream through two buffers, two at a time, and serve twice: by
// rows as they are (32 products of a row of h or d_y), and read transposed (32 factors to C channels). With
// s = softmax(q), kn = exp(k - log sum):
//
//   w_q, m:   q = w_q h,  d_s = m d_y;  d_q = s (d_s - s . d_s);                 d_h += w_q^T d_q
//   w_k, r:   k = w_k h,  d_kn = r h;   d_k = kn (d_kn - correction);            d_h += w_k^T d_k + r^T kn
//
// d_h of a warp's rows stays in registers (104 a lane at 104 channels) until all heads are through, then passes the
// norm's backward. A product may take the head's channels in any order: row n*8 + 2t + e of a matrix in shared memory
// is channel 8t + 2n + e of the head, so that lane t of a quad ends up with channels 8t .. 8t+7, one store of 16 bytes.
#pragma once

#include "kernels/device/linear_attention_sums.h"

namespace avid::kernels::AVID_GPU {

/// out[o] = 16 kM rows of the warp times the 32 rows of matrix o, both in shared memory.
template <int kN, int kOut, int kM>
AVID_DEVICE void project_rows(float (&out)[kOut][kM][4][4], const bf16* rows, const bf16* matrices) {
  using Tile = LinearBwdTile<kN>;
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int s = 0; s < Tile::kSteps; ++s) {
    std::uint32_t a[kM][4];
    ldmatrix_x4(a[0], a_tile(rows, Tile::kPitch, 0, s * 16));
    if constexpr (kM == 2) ldmatrix_x4(a[1], a_tile(rows, Tile::kPitch, 16, s * 16));
#pragma unroll
    for (int o = 0; o < kOut; ++o)
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        std::uint32_t w[4];
        ldmatrix_x4(w, b_tiles(matrices, Tile::kPitch, o * 32 + pair * 16, s * 16));
        const std::uint32_t b0[2] = {w[0], w[1]}, b1[2] = {w[2], w[3]};
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          mma_bf16_16x8x16(out[o][m][2 * pair], a[m], b0, out[o][m][2 * pair]);
          mma_bf16_16x8x16(out[o][m][2 * pair + 1], a[m], b1, out[o][m][2 * pair + 1]);
        }
      }
  }
  if constexpr (kN % 2 == 1) {
    std::uint32_t x[4];
    ldmatrix_x4(x, rows + lane % (16 * kM) * Tile::kPitch + Tile::kSteps * 16);
#pragma unroll
    for (int o = 0; o < kOut; ++o) {
      std::uint32_t w[4];
      ldmatrix_x4(w, matrices + (o * 32 + lane) * Tile::kPitch + Tile::kSteps * 16);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const std::uint32_t a[2] = {x[2 * m], x[2 * m + 1]};
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const std::uint32_t b[1] = {w[n]};
          mma_bf16_16x8x8(out[o][m][n], a, b, out[o][m][n]);
        }
      }
    }
  }
}

template <int kM>
AVID_DEVICE void pack_rows(std::uint32_t (&packed)[kM][4][2], const float (&v)[kM][4][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      packed[m][n][0] = pack_bf16x2(v[m][n][0], v[m][n][1]);
      packed[m][n][1] = pack_bf16x2(v[m][n][2], v[m][n][3]);
    }
}

/// Threads of a block: a warp for 16 kM rows.
template <int kN>
inline constexpr int kRowsThreads = kLinearBwdRows / (16 * LinearBwdTile<kN>::kM) * 32;

/// Grid F * tiles of 128 positions.
template <int kN>
__global__ void __launch_bounds__(
    kRowsThreads<kN>, kN <= 7    ? 3
                      : kN <= 13 ? 2
                                 : 1) linear_bwd_rows_kernel(LinearBwd p, int tiles) {
  using Tile = LinearBwdTile<kN>;
  constexpr int kRows = kLinearBwdRows, kSlice = 64 * Tile::kPitch, kK = Tile::kLaneChunks;
  constexpr int kM = Tile::kM, kWarpRows = 16 * kM, kWarps = kRowsThreads<kN> / 32;
  SharedArena arena;
  bf16* h_tile = arena.take<bf16>(kRows * Tile::kPitch, "h");
  bf16* d_y_tile = arena.take<bf16>(kRows * Tile::kPitch, "d_y");
  bf16* slices = arena.take<bf16>(2 * kSlice, "matrices");
  float4* gamma = arena.take<float4>(kN * 2, "gamma");
  float* softmax = arena.take<float>(p.N * 64, "log sums and corrections");
  const std::int64_t frame = blockIdx.x / tiles;
  const int t0 = static_cast<int>(blockIdx.x % tiles) * kRows, rows = min(kRows, p.S - t0);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first_row = warp * kWarpRows;
  const std::int64_t row0 = frame * p.S + t0;

  // Stage 2 n of head n: w_q and m; stage 2 n + 1: w_k and r.
  const auto copy_matrices = [&](int stage) {
    const int head = stage / 2, half = stage % 2;
    const BFloat16* folded = p.folded + ((frame * p.N + head) * 2 + half) * 32 * p.width;
    const BFloat16* weights = p.w_qkv.row((half * p.N + head) * 32);
    if constexpr (kN > 8) {
      // A thread keeps to one column of chunks, and its rows hold channels a constant distance apart.
      const unsigned pitch = static_cast<unsigned>(p.w_qkv.pitch), width = static_cast<unsigned>(p.width);
      constexpr int kColumns = kRowsThreads<kN> / 8;
      static_assert(kN <= kColumns);
      const int r = static_cast<int>(threadIdx.x) / kColumns, c = static_cast<int>(threadIdx.x) % kColumns * 8;
      if (c < kN * 8) {
        const unsigned first = static_cast<unsigned>(head_channel(r));
        const shared_address to = shared_address(slices + half * kSlice) + (r * Tile::kPitch + c) * 2;
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // head_channel(r + 8 i) = head_channel(r) + 2 i
          const unsigned channel = first + 2 * i;
          cp_async_16(to + i * 8 * Tile::kPitch * 2, weights + (channel * pitch + c), c < p.C);
          cp_async_16(to + (32 + i * 8) * Tile::kPitch * 2, folded + (channel * width + c), c < p.C);
        }
      }
    } else {  // three blocks share the registers: there are none for addresses that stay over the loop
      for (int i = threadIdx.x; i < 64 * kN; i += blockDim.x) {
        const int r = i / kN, c = i % kN * 8, channel = head_channel(r % 32);
        const BFloat16* from = (r < 32 ? weights + channel * p.w_qkv.pitch : folded + channel * p.width) + c;
        cp_async_16(slices + half * kSlice + r * Tile::kPitch + c, c < p.C ? from : folded, c < p.C);
      }
    }
    cp_async_commit();
  };
  for (int i = threadIdx.x; i < kRows * kN; i += blockDim.x) {
    const int r = i / kN, c = i % kN * 8;
    const bool exists = r < rows && c < p.C;
    cp_async_16(d_y_tile + r * Tile::kPitch + c, exists ? p.d_y.row(row0 + r) + c : p.d_y.data, exists);
  }
  copy_matrices(0);
  for (int c = threadIdx.x; c < kN * 8; c += blockDim.x) put_coefficient<kN>(gamma, c, c < p.C ? p.gamma[c] : 0.0f);
  for (int i = threadIdx.x; i < p.N * 64; i += blockDim.x) softmax[i] = p.softmax[frame * p.N * 64 + i];
  __syncthreads();

  // The warp's rows of x, eight lanes a row, normalised with the moments kept nowhere: they are cheap to find again.
  const int l = lane % 8;
  const auto load_row = [&](int r, Chunk8<BFloat16>(&chunks)[kK]) {
#pragma unroll
    for (int j = 0; j < kK; ++j) {
      const int c = (l + 8 * j) * 8;
      chunks[j] = load_chunk(p.x.row(row0 + r) + c, r < rows ? p.C - c : 0);
    }
    return row_moments<8, kK, BFloat16>(chunks, l, p.C, static_cast<float>(kPrenormEps));
  };
#pragma unroll 1
  for (int r = first_row + lane / 8; r < first_row + kWarpRows; r += 4) {
    Chunk8<BFloat16> chunks[kK];
    const RowMoments moments = load_row(r, chunks);
#pragma unroll
    for (int j = 0; j < kK; ++j) {
      const int c = (l + 8 * j) * 8;
      if (c >= kN * 8) continue;
      float v[8], factors[8];
      unpack(chunks[j], v);
      get_coefficients<kN>(gamma, l + 8 * j, factors);
#pragma unroll
      for (int e = 0; e < 8; ++e) v[e] = r < rows ? (v[e] - moments.mean) * moments.rstd * factors[e] : 0.0f;
      const uint4 bits = make_uint4(
          pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]), pack_bf16x2(v[4], v[5]), pack_bf16x2(v[6], v[7]));
      *reinterpret_cast<uint4*>(h_tile + r * Tile::kPitch + c) = bits;
      if (p.h && r < rows && c < p.width) *reinterpret_cast<uint4*>(p.h.row(row0 + r) + c) = bits;
    }
  }

  const bf16 *h = h_tile + first_row * Tile::kPitch, *d_y = d_y_tile + first_row * Tile::kPitch;
  float d_h[kM][kN][4] = {};
  std::uint32_t packed[kM][4][2];
  // Waits for a stage's matrices and starts the copy of the next ones.
  const auto next_matrices = [&](int stage) {
    cp_async_wait<0>();
    __syncthreads();
    if (stage + 1 < 2 * p.N) copy_matrices(stage + 1);
    return slices + stage % 2 * kSlice;
  };
  // d_q or d_k of a head: channels 8 t .. 8 t + 7 of four rows.
  const auto store_packed = [&](int column) {
    if (!p.d_qk) return;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = first_row + m * 16 + half * 8 + g;
        if (r < rows)
          *reinterpret_cast<uint4*>(p.d_qk.row(row0 + r) + column + 8 * t) =
              make_uint4(packed[m][0][half], packed[m][1][half], packed[m][2][half], packed[m][3][half]);
      }
  };
#pragma unroll 1
  for (int head = 0; head < p.N; ++head) {
    {
      const bf16* matrices = next_matrices(2 * head);
      float q[1][kM][4][4] = {}, d_s[1][kM][4][4] = {};
      project_rows<kN, 1>(q, h, matrices);
      project_rows<kN, 1>(d_s, d_y, matrices + 32 * Tile::kPitch);
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float(&v)[4][4] = q[0][m];
          float(&d)[4][4] = d_s[0][m];
          float top = v[0][2 * half], sum = 0, along = 0;
#pragma unroll
          for (int n = 0; n < 4; ++n) top = fmaxf(top, fmaxf(v[n][2 * half], v[n][2 * half + 1]));
          const float from = -kLog2E * quad_max(top);
#pragma unroll
          for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; ++e) {
              v[n][e] = exp2_flushed(fmaf(v[n][e], kLog2E, from));
              sum += v[n][e];
              along = fmaf(v[n][e], d[n][e], along);
            }
          const float factor = __fdividef(1.0f, quad_sum(sum));
          along = quad_sum(along) * factor;
#pragma unroll
          for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; ++e) v[n][e] *= factor * (d[n][e] - along);
        }
      pack_rows(packed, q[0]);
#pragma unroll
      for (int u = 0; u < 2; ++u) add_turned_product<kN>(d_h, packed, matrices, u);
      store_packed(head * 32);
    }
    {
      const bf16* matrices = next_matrices(2 * head + 1);
      float both[2][kM][4][4] = {};  // k, which becomes kn; d_kn, which becomes d_k
      project_rows<kN, 2>(both, h, matrices);
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float from = -kLog2E * softmax[head * 64 + 8 * t + 2 * n + e];  // the log of a sum
          const float correction = softmax[head * 64 + 32 + 8 * t + 2 * n + e];
#pragma unroll
          for (int m = 0; m < kM; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              float &k = both[0][m][n][2 * half + e], &d = both[1][m][n][2 * half + e];
              k = exp2_flushed(fmaf(k, kLog2E, from));
              d = k * (d - correction);
            }
        }
      pack_rows(packed, both[1]);
#pragma unroll
      for (int u = 0; u < 2; ++u) add_turned_product<kN>(d_h, packed, matrices, u);
      store_packed((p.N + head) * 32);
      pack_rows(packed, both[0]);
#pragma unroll
      for (int u = 0; u < 2; ++u) add_turned_product<kN>(d_h, packed, matrices + 32 * Tile::kPitch, u);
    }
  }
  if (!p.d_x && p.d_gamma == nullptr) return;

  // d_h in bf16 over the warp's rows of h, then the norm's backward, eight lanes a row.
  __syncwarp();
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<std::uint32_t*>(h_tile + (first_row + m * 16 + half * 8 + g) * Tile::kPitch + n * 8 + 2 * t) =
            pack_bf16x2(d_h[m][n][2 * half], d_h[m][n][2 * half + 1]);
  __syncwarp();
  float sums[kK][8] = {};
#pragma unroll 1
  for (int r = first_row + lane / 8; r < first_row + kWarpRows; r += 4) {
    Chunk8<BFloat16> chunks[kK];
    const RowMoments moments = load_row(r, chunks);
    float d_xhat[kK][8], xhat[kK][8], mean_d = 0, mean_dx = 0;
#pragma unroll
    for (int j = 0; j < kK; ++j) {
      const int c = (l + 8 * j) * 8;
      float factors[8] = {};
      if (c < kN * 8) get_coefficients<kN>(gamma, l + 8 * j, factors);
      unpack(chunks[j], xhat[j]);
      unpack(load_chunk(h_tile + r * Tile::kPitch + c, c < kN * 8 && r < rows ? 8 : 0), d_xhat[j]);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        xhat[j][e] = (xhat[j][e] - moments.mean) * moments.rstd;
        sums[j][e] = fmaf(d_xhat[j][e], xhat[j][e], sums[j][e]);
        d_xhat[j][e] *= factors[e];
        mean_d += d_xhat[j][e];
        mean_dx = fmaf(d_xhat[j][e], xhat[j][e], mean_dx);
      }
    }
    mean_d = lane_sum<8>(mean_d) / static_cast<float>(p.C);
    mean_dx = lane_sum<8>(mean_dx) / static_cast<float>(p.C);
    if (!p.d_x || r >= rows) continue;
#pragma unroll
    for (int j = 0; j < kK; ++j) {
      const int c = (l + 8 * j) * 8;
      if (c >= p.width) continue;
      float past[8];
      unpack(load_chunk(d_y_tile + r * Tile::kPitch + c, 8), past);
#pragma unroll
      for (int e = 0; e < 8; ++e) past[e] += moments.rstd * (d_xhat[j][e] - mean_d - xhat[j][e] * mean_dx);
      store_chunk(p.d_x.row(row0 + r) + c, past, p.C - c);
    }
  }
  if (p.d_gamma == nullptr) return;
  // Over the four rows of a warp, then over the warps in order.
  float* of_warps = reinterpret_cast<float*>(slices);
  __syncthreads();  // the matrices are done with
#pragma unroll
  for (int j = 0; j < kK; ++j)
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      float v = sums[j][e];
      v += __shfl_xor_sync(0xffffffffu, v, 8);
      v += __shfl_xor_sync(0xffffffffu, v, 16);
      if (lane < 8 && l + 8 * j < kN) of_warps[warp * kN * 8 + (l + 8 * j) * 8 + e] = v;
    }
  __syncthreads();
  for (int c = threadIdx.x; c < p.width; c += blockDim.x) {
    float sum = of_warps[c];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += of_warps[w * kN * 8 + c];
    p.d_gamma[std::int64_t{blockIdx.x} * p.width + c] = sum;
  }
}

}  // namespace avid::kernels::AVID_GPU
