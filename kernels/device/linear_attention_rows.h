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
//
// On a device of compute capability 9.0 linear_attention_bwd_wgmma.cu does the same.
#pragma once

#include "kernels/device/linear_attention_row_steps.h"

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
  using Places = ChunkPlaces<Tile::kPitch, 8>;
  constexpr int kSlice = 64 * Tile::kPitch, kM = Tile::kM;
  SharedArena arena;
  bf16* h_tile = arena.take<bf16>(kLinearBwdRows * Tile::kPitch, "h");
  bf16* d_y_tile = arena.take<bf16>(kLinearBwdRows * Tile::kPitch, "d_y");
  bf16* slices = arena.take<bf16>(2 * kSlice, "matrices");
  float4* gamma = arena.take<float4>(kN * 2, "gamma");
  float* softmax = arena.take<float>(p.N * 64, "log sums and corrections");
  const std::int64_t frame = blockIdx.x / tiles;
  const GradientRows<kN, kM, Places> rows(
      p, frame, static_cast<int>(blockIdx.x % tiles) * kLinearBwdRows, h_tile, d_y_tile, gamma);
  const auto copy_stage = [&](int stage) {
    copy_matrices<kN, kRowsThreads<kN>, Places>(p, frame, stage, slices + stage % 2 * kSlice);
    cp_async_commit();
  };
  rows.copy_d_y();
  copy_stage(0);
  for (int c = threadIdx.x; c < kN * 8; c += blockDim.x) put_coefficient<kN>(gamma, c, c < p.C ? p.gamma[c] : 0.0f);
  load_softmax(p, frame, softmax);
  __syncthreads();
  rows.normalise();

  const bf16 *h = h_tile + rows.first_row * Tile::kPitch, *d_y = d_y_tile + rows.first_row * Tile::kPitch;
  float d_h[kM][kN][4] = {};
  PackedRows<kM> packed;
  // Waits for a stage's matrices and starts the copy of the next ones.
  const auto next_matrices = [&](int stage) {
    cp_async_wait<0>();
    __syncthreads();
    if (stage + 1 < 2 * p.N) copy_stage(stage + 1);
    return slices + stage % 2 * kSlice;
  };
#pragma unroll 1
  for (int head = 0; head < p.N; ++head) {
    {
      const bf16* matrices = next_matrices(2 * head);
      float q[1][kM][4][4] = {}, d_s[1][kM][4][4] = {};
      project_rows<kN, 1>(q, h, matrices);
      project_rows<kN, 1>(d_s, d_y, matrices + 32 * Tile::kPitch);
      const auto of_q = [&](int m, int n, int e) -> float& { return q[0][m][n][e]; };
      query_gradient<kM>(of_q, [&](int m, int n, int e) { return d_s[0][m][n][e]; });
      pack_rows<kM>(packed, of_q);
#pragma unroll
      for (int u = 0; u < 2; ++u) add_turned_product<kN>(d_h, packed, matrices, u);
      rows.store_packed(packed, head * 32);
    }
    {
      const bf16* matrices = next_matrices(2 * head + 1);
      float both[2][kM][4][4] = {};  // k, which becomes kn; d_kn, which becomes d_k
      project_rows<kN, 2>(both, h, matrices);
      const auto of_k = [&](int m, int n, int e) -> float& { return both[0][m][n][e]; };
      const auto of_d_k = [&](int m, int n, int e) -> float& { return both[1][m][n][e]; };
      key_gradient<kM>(of_k, of_d_k, softmax + head * 64);
      pack_rows<kM>(packed, of_d_k);
#pragma unroll
      for (int u = 0; u < 2; ++u) add_turned_product<kN>(d_h, packed, matrices, u);
      rows.store_packed(packed, (p.N + head) * 32);
      pack_rows<kM>(packed, of_k);
#pragma unroll
      for (int u = 0; u < 2; ++u) add_turned_product<kN>(d_h, packed, matrices + 32 * Tile::kPitch, u);
    }
  }
  rows.finish([&](int m, int n, int e) { return d_h[m][n][e]; }, reinterpret_cast<float*>(slices));
}

}  // namespace avid::kernels::AVID_GPU
