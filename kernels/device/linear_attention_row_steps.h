// kernels/device/linear_attention_row_steps.h -- what both kernels of pass 2 of linear attention's backward pass do
//
// They differ in the products: linear_attention_rows.h on mma.sync, linear_attention_bwd_wgmma.cu on wgmma. Either way
// a block owns 128 positions of a frame, whose h and d_y lie in shared memory, and a warp gets the products of its own
// 16 kM rows with a head's matrices [32, C] as C fragments: of rows g and g + 8 of block m columns 8n + 2t and
// 8n + 2t + 1, which are channels 8t + 2n and the next of the head (head_channel).
#pragma once

#include "kernels/device/linear_attention_sums.h"

namespace avid::kernels::AVID_GPU {

/// The log sums of a frame's heads, and corrections: N * 64 floats in shared memory.
AVID_DEVICE void load_softmax(const LinearBwd& p, std::int64_t frame, float* softmax) {
  for (int i = threadIdx.x; i < p.N * 64; i += blockDim.x) softmax[i] = p.softmax[frame * p.N * 64 + i];
}

/// Begins the copy of a stage's two matrices to 64 rows in shared memory. Stage 2 n of head n: w_q and m; stage
/// 2 n + 1: w_k and r. Row r of a matrix is head_channel(r) of the head.
template <int kN, int kThreads, class Places>
AVID_DEVICE void copy_matrices(const LinearBwd& p, std::int64_t frame, int stage, bf16* to) {
  const int head = stage / 2, half = stage % 2;
  const BFloat16* folded = p.folded + ((frame * p.N + head) * 2 + half) * 32 * p.width;
  const BFloat16* weights = p.w_qkv.row((half * p.N + head) * 32);
  if constexpr (kN > 8) {
    // A thread keeps to one column of chunks, and its rows hold channels a constant distance apart.
    const unsigned pitch = static_cast<unsigned>(p.w_qkv.pitch), width = static_cast<unsigned>(p.width);
    constexpr int kColumns = kN <= 16 ? 16 : 32, kRows = kThreads / kColumns;
    static_assert(kN <= kColumns && kRows % 8 == 0);
    const int r = static_cast<int>(threadIdx.x) / kColumns, chunk = static_cast<int>(threadIdx.x) % kColumns;
    const int c = chunk * 8;
    if (chunk < kN) {
      const unsigned first = static_cast<unsigned>(head_channel(r));
      const shared_address at = shared_address(to) + Places::at(r, chunk) * 2;
#pragma unroll
      for (int i = 0; i < 32 / kRows; ++i) {  // head_channel(r + 8 j) = head_channel(r) + 2 j
        const unsigned channel = first + i * kRows / 4;
        cp_async_16(at + i * kRows * Places::kRowStep * 2, weights + (channel * pitch + c), c < p.C);
        cp_async_16(at + (32 + i * kRows) * Places::kRowStep * 2, folded + (channel * width + c), c < p.C);
      }
    }
  } else {  // three blocks share the registers: there are none for addresses that stay over the loop
    for (int i = threadIdx.x; i < 64 * kN; i += blockDim.x) {
      const int r = i / kN, c = i % kN * 8, channel = head_channel(r % 32);
      const BFloat16* from = (r < 32 ? weights + channel * p.w_qkv.pitch : folded + channel * p.width) + c;
      cp_async_16(to + Places::at(r, i % kN), c < p.C ? from : folded, c < p.C);
    }
  }
}

/// q becomes d_q = s (d_s - s . d_s), s = softmax(q) over a head's channels. q(m, n, e), d_s(m, n, e): tile n, register
/// e.
template <int kM, class Q, class D>
AVID_DEVICE void query_gradient(Q&& q, D&& d_s) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = q(m, 0, 2 * half), sum = 0, along = 0;
#pragma unroll
      for (int n = 0; n < 4; ++n) top = fmaxf(top, fmaxf(q(m, n, 2 * half), q(m, n, 2 * half + 1)));
      const float from = -kLog2E * quad_max(top);
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          q(m, n, e) = exp2_flushed(fmaf(q(m, n, e), kLog2E, from));
          sum += q(m, n, e);
          along = fmaf(q(m, n, e), d_s(m, n, e), along);
        }
      const float factor = __fdividef(1.0f, quad_sum(sum));
      along = quad_sum(along) * factor;
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) q(m, n, e) *= factor * (d_s(m, n, e) - along);
    }
}

/// k becomes kn = exp(k - log sum), d_kn becomes d_k = kn (d_kn - correction). `softmax`: the head's 64 numbers.
template <int kM, class K, class D>
AVID_DEVICE void key_gradient(K&& k, D&& d_kn, const float* softmax) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float from = -kLog2E * softmax[8 * t + 2 * n + e];  // the log of a sum
      const float correction = softmax[32 + 8 * t + 2 * n + e];
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float &a = k(m, n, 2 * half + e), &d = d_kn(m, n, 2 * half + e);
          a = exp2_flushed(fmaf(a, kLog2E, from));
          d = a * (d - correction);
        }
    }
}

/// A head's 32 channels of a warp's rows in bf16: of block m and tile n the lane's pair of row g, and of row g + 8.
template <int kM>
using PackedRows = std::uint32_t[kM][4][2];

/// From v(m, n, e).
template <int kM, class Values>
AVID_DEVICE void pack_rows(PackedRows<kM>& packed, Values&& v) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      packed[m][n][0] = pack_bf16x2(v(m, n, 0), v(m, n, 1));
      packed[m][n][1] = pack_bf16x2(v(m, n, 2), v(m, n, 3));
    }
}

/// The rows of a block in pass 2: h and d_y of 128 positions of a frame, a warp 16 kM of them, eight lanes to a row.
template <int kN, int kM, class Places>
struct GradientRows {
  static constexpr int kK = LinearBwdTile<kN>::kLaneChunks, kWarpRows = 16 * kM;
  static constexpr int kWarps = kLinearBwdRows / kWarpRows, kThreads = 32 * kWarps;
  const LinearBwd& p;
  bf16 *h, *d_y;        ///< in shared memory
  const float4* gamma;  ///< likewise (put_coefficient)
  std::int64_t row0;    ///< the first row of the block
  int rows;             ///< that exist
  int warp, lane, first_row;

  AVID_DEVICE GradientRows(
      const LinearBwd& args, std::int64_t frame, int t0, bf16* h_rows, bf16* d_y_rows, const float4* coefficients)
      : p(args),
        h(h_rows),
        d_y(d_y_rows),
        gamma(coefficients),
        row0(frame * args.S + t0),
        rows(min(kLinearBwdRows, args.S - t0)),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32),
        first_row(warp * kWarpRows) {}

  /// Begins the copy of all rows of d_y.
  AVID_DEVICE void copy_d_y() const {
    for (int i = threadIdx.x; i < kLinearBwdRows * kN; i += kThreads) {
      const int r = i / kN, chunk = i % kN, c = chunk * 8;
      const bool exists = r < rows && c < p.C;
      cp_async_16(d_y + Places::at(r, chunk), exists ? p.d_y.row(row0 + r) + c : p.d_y.data, exists);
    }
  }

  /// Row r of x, its moments. They are kept nowhere: they are cheap to find again.
  AVID_DEVICE RowMoments load_row(int r, Chunk8<BFloat16> (&chunks)[kK]) const {
    const int l = lane % 8;
#pragma unroll
    for (int j = 0; j < kK; ++j) {
      const int c = (l + 8 * j) * 8;
      chunks[j] = load_chunk(p.x.row(row0 + r) + c, r < rows ? p.C - c : 0);
    }
    return row_moments<8, kK, BFloat16>(chunks, l, p.C, static_cast<float>(kPrenormEps));
  }

  /// h of the warp's rows to shared memory, and to p.h where it is wanted.
  AVID_DEVICE void normalise() const {
    const int l = lane % 8;
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
        *reinterpret_cast<uint4*>(h + Places::at(r, l + 8 * j)) = bits;
        if (p.h && r < rows && c < p.width) *reinterpret_cast<uint4*>(p.h.row(row0 + r) + c) = bits;
      }
    }
  }

  /// d_q or d_k of a head to columns `column` .. + 31 of p.d_qk, where it is wanted: channels 8 t .. 8 t + 7 of a row.
  AVID_DEVICE void store_packed(const PackedRows<kM>& packed, int column) const {
    if (!p.d_qk) return;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = first_row + m * 16 + half * 8 + lane / 4;
        if (r < rows)
          *reinterpret_cast<uint4*>(p.d_qk.row(row0 + r) + column + 8 * (lane % 4)) =
              make_uint4(packed[m][0][half], packed[m][1][half], packed[m][2][half], packed[m][3][half]);
      }
  }

  /// d_x and the sums for gamma's gradient. d_h(m, n, e): the gradient of the warp's rows of h, which are no longer
  /// needed: it goes through their place in bf16. `scratch`, kWarps * 8 kN floats, is free when all threads are here.
  template <class D>
  AVID_DEVICE void finish(D&& d_h, float* scratch) const {
    if (!p.d_x && p.d_gamma == nullptr) return;
    const int l = lane % 8, g = lane / 4, t = lane % 4;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          *reinterpret_cast<std::uint32_t*>(h + Places::at(first_row + m * 16 + half * 8 + g, n) + 2 * t) =
              pack_bf16x2(d_h(m, n, 2 * half), d_h(m, n, 2 * half + 1));
    __syncwarp();
    float sums[kK][8] = {};
#pragma unroll 1
    for (int r = first_row + lane / 8; r < first_row + kWarpRows; r += 4) {
      Chunk8<BFloat16> chunks[kK];
      const RowMoments moments = load_row(r, chunks);
      float d_xhat[kK][8], xhat[kK][8], mean_d = 0, mean_dx = 0;
#pragma unroll
      for (int j = 0; j < kK; ++j) {
        const int chunk = l + 8 * j;
        float factors[8] = {};
        if (chunk < kN) get_coefficients<kN>(gamma, chunk, factors);
        unpack(chunks[j], xhat[j]);
        unpack(load_chunk(h + Places::at(r, chunk), chunk < kN && r < rows ? 8 : 0), d_xhat[j]);
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
        const int chunk = l + 8 * j, c = chunk * 8;
        if (c >= p.width) continue;
        float past[8];
        unpack(load_chunk(d_y + Places::at(r, chunk), 8), past);
#pragma unroll
        for (int e = 0; e < 8; ++e) past[e] += moments.rstd * (d_xhat[j][e] - mean_d - xhat[j][e] * mean_dx);
        store_chunk(p.d_x.row(row0 + r) + c, past, p.C - c);
      }
    }
    if (p.d_gamma == nullptr) return;
    // Over the four rows of a warp, then over the warps in order.
    __syncthreads();  // the scratch memory is free
#pragma unroll
    for (int j = 0; j < kK; ++j)
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        float v = sums[j][e];
        v += __shfl_xor_sync(0xffffffffu, v, 8);
        v += __shfl_xor_sync(0xffffffffu, v, 16);
        if (lane < 8 && l + 8 * j < kN) scratch[warp * kN * 8 + (l + 8 * j) * 8 + e] = v;
      }
    __syncthreads();
    for (int c = threadIdx.x; c < p.width; c += kThreads) {
      float sum = scratch[c];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) sum += scratch[w * kN * 8 + c];
      p.d_gamma[std::int64_t{blockIdx.x} * p.width + c] = sum;
    }
  }
};

/// Queues pass 2 on wgmma, a block per 128 positions, instead of linear_bwd_rows_kernel
/// (linear_attention_bwd_wgmma.cu). Hosts ask have_wgmma() first.
void linear_bwd_rows_wgmma(const Stream& stream, const LinearBwd& p, std::int64_t frames, std::int64_t tiles);

}  // namespace avid::kernels::AVID_GPU
