// kernels/device/linear_attention_head.h -- the core of composed linear attention on tensor cores: bf16, heads of 32
// channels
//
// A warp holds 16 positions of one head in registers. Lane 4g + t has positions g and g + 8 and channels 8t .. 8t+7:
// one 16-byte load each, the 64 bytes of a position from one quad. Everything fits m16n8k16 without shared memory:
//   rows as left operand     a product may sum channels in any order that both operands share: slot 2t + h of step u
//                            is channel 8t + 4u + h, slot 2t + 8 + h channel 8t + 4u + 2 + h
//   results                  column 2t + e of tile n is channel 8t + 2n + e: they lie as the rows do, so that products
//                            of elements and sums over channels (two shuffles) need no move, and leave as 16 bytes
//   sums over positions      both operands turned by movmatrix: register w of a lane is then channel
//                            8 (g/2) + 2w + g%2 of positions 2t and 2t + 1
// The [32,32] matrices of a head stay in registers as right operands while a warp walks over its positions.
//
// Numerics   matrices as two bf16 (high + low: 2^-17), since an error of theirs is shared by all positions of a frame;
//            what belongs to one position (weights of a softmax) is rounded once, as q, k and v themselves are. Sums of
//            weights are those of the rounded ones, so that weights add up to one.
// Determinism  warps of a block are added in order
#pragma once

#include "kernels/device/attention_tiles.h"
#include "kernels/device/exponential.h"

namespace avid::kernels::AVID_GPU {

constexpr int kHeadWarps = 4;                 ///< of a block
constexpr int kHeadBlock = 32 * kHeadWarps;   ///< threads
constexpr int kMatrixPitch = 36;              ///< floats of a row of [32,32] in shared memory: four banks apart
constexpr std::uint32_t kOnes = 0x3f803f80u;  ///< two bf16

/// 16 positions of a head: [position g, g + 8][channels 8t + 2w, 8t + 2w + 1].
struct HeadRows {
  std::uint32_t r[2][4];

  HeadRows() = default;
  /// Rows from `count` on become `missing`.
  AVID_DEVICE HeadRows(const BFloat16* head, std::int64_t pitch, int count, std::uint32_t missing = 0) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 v = make_uint4(missing, missing, missing, missing);
      if (g + 8 * half < count) v = *reinterpret_cast<const uint4*>(head + (g + 8 * half) * pitch + 8 * t);
      r[half][0] = v.x, r[half][1] = v.y, r[half][2] = v.z, r[half][3] = v.w;
    }
  }
  /// From values that lie as a product's result: [tile n][2 * half + e].
  AVID_DEVICE explicit HeadRows(const float (&v)[4][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < 4; ++n) r[half][n] = pack_bf16x2(v[n][2 * half], v[n][2 * half + 1]);
  }
  AVID_DEVICE void values(float (&v)[4][4]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float2 pair = unpack_bf16x2(r[half][n]);
        v[n][2 * half] = pair.x, v[n][2 * half + 1] = pair.y;
      }
  }
  AVID_DEVICE void store(BFloat16* head, std::int64_t pitch, int count) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (g + 8 * half < count)
        *reinterpret_cast<uint4*>(head + (g + 8 * half) * pitch + 8 * t) =
            make_uint4(r[half][0], r[half][1], r[half][2], r[half][3]);
  }
  /// Positions and channels change places: [positions 2t, 2t + 1 of a half][channel 8 (g/2) + 2w + g%2].
  AVID_DEVICE HeadRows turned() const {
    HeadRows to;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int w = 0; w < 4; ++w) to.r[half][w] = movmatrix(r[half][w]);
    return to;
  }
};

/// Two numbers as two bf16 each: rounded, and what that lost.
AVID_DEVICE void split_bf16x2(float a, float b, std::uint32_t& high, std::uint32_t& low) {
  high = pack_bf16x2(a, b);
  const float2 rounded = unpack_bf16x2(high);
  low = pack_bf16x2(a - rounded.x, b - rounded.y);
}

/// A [32,32] matrix M as right operand, [n][w]: row 8 (g/2) + 2n + g%2, columns 8t + 2w and + 1.
struct HeadMatrix {
  std::uint32_t high[4][4], low[4][4];

  HeadMatrix() = default;
  AVID_DEVICE explicit HeadMatrix(const float* from) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float v[8];
      get8(v, from + (8 * (g / 2) + 2 * n + g % 2) * 32 + 8 * t);
#pragma unroll
      for (int w = 0; w < 4; ++w) split_bf16x2(v[2 * w], v[2 * w + 1], high[n][w], low[n][w]);
    }
  }
  AVID_DEVICE HeadMatrix transposed() const {
    HeadMatrix to;
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        to.high[w][n] = movmatrix(high[n][w]);
        to.low[w][n] = movmatrix(low[n][w]);
      }
    return to;
  }
  /// out += rows M^T
  AVID_DEVICE void add_product(float (&out)[4][4], const HeadRows& rows) const {
    add_product(out, rows, low);
    add_product(out, rows, high);
  }

 private:
  static AVID_DEVICE void add_product(float (&out)[4][4], const HeadRows& rows, const std::uint32_t (&m)[4][4]) {
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const std::uint32_t a[4] = {rows.r[0][2 * u], rows.r[1][2 * u], rows.r[0][2 * u + 1], rows.r[1][2 * u + 1]};
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const std::uint32_t b[2] = {m[n][2 * u], m[n][2 * u + 1]};
        mma_bf16_16x8x16(out[n], a, b, out[n]);
      }
    }
  }
};

/// sums[2 * half] = the sum of a row's channels.
AVID_DEVICE void sum_channels(float (&sums)[4], const HeadRows& rows) {
#pragma unroll
  for (int e = 0; e < 4; ++e) sums[e] = 0;
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    const std::uint32_t a[4] = {rows.r[0][2 * u], rows.r[1][2 * u], rows.r[0][2 * u + 1], rows.r[1][2 * u + 1]};
    const std::uint32_t ones[2] = {kOnes, kOnes};
    mma_bf16_16x8x16(sums, a, ones, sums);
  }
}

/// v = exp(v - the largest channel of its row).
AVID_DEVICE void exp_head(float (&v)[4][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = v[0][2 * half];
#pragma unroll
    for (int n = 0; n < 4; ++n) top = fmaxf(top, fmaxf(v[n][2 * half], v[n][2 * half + 1]));
    top = row_max<4>(top) * kLog2E;
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) v[n][e] = exp2_flushed(fmaf(v[n][e], kLog2E, -top));
  }
}
/// v = scale * softmax over the channels of a row.
AVID_DEVICE void softmax_head(float (&v)[4][4], float scale) {
  exp_head(v);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 4; ++n) sum += v[n][2 * half] + v[n][2 * half + 1];
    const float factor = __fdividef(scale, row_sum<4>(sum));
#pragma unroll
    for (int n = 0; n < 4; ++n) v[n][2 * half] *= factor, v[n][2 * half + 1] *= factor;
  }
}

/// A warp's sum over positions: rows (channels i) 8 (g/2) + 2 (2m + half) + g%2, columns 8t + 2n + e.
struct HeadSum {
  float v[2][4][4] = {};

  /// The lane's row of tile m, half.
  static AVID_DEVICE int row(int m, int half) {
    const int g = threadIdx.x % 32 / 4;
    return 8 * (g / 2) + 4 * m + 2 * half + g % 2;
  }
  /// Left operand of tile m from turned rows.
  static AVID_DEVICE void left(std::uint32_t (&a)[4], const HeadRows& turned, int m) {
    a[0] = turned.r[0][2 * m], a[1] = turned.r[0][2 * m + 1];
    a[2] = turned.r[1][2 * m], a[3] = turned.r[1][2 * m + 1];
  }
  /// v_ij += sum_s x_si y_sj, both turned.
  AVID_DEVICE void add(const HeadRows& x, const HeadRows& y) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      std::uint32_t a[4];
      left(a, x, m);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const std::uint32_t b[2] = {y.r[0][n], y.r[1][n]};
        mma_bf16_16x8x16(v[m][n], a, b, v[m][n]);
      }
    }
  }
  /// Row (m, half) times factor.
  AVID_DEVICE void scale(int m, int half, float factor) {
#pragma unroll
    for (int n = 0; n < 4; ++n) v[m][n][2 * half] *= factor, v[m][n][2 * half + 1] *= factor;
  }
  /// Adds the warps of a block in order; visit(i, j, sum) gets four columns from j on. Eight neighbouring lanes have a
  /// row. scratch: kHeadWarps * 32 * kMatrixPitch floats. One barrier.
  template <class Visit>
  AVID_DEVICE void add_warps(float* scratch, Visit&& visit) const {
    const int t = threadIdx.x % 4;
    float* mine = scratch + threadIdx.x / 32 * 32 * kMatrixPitch;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < 4; n += 2)
          *reinterpret_cast<float4*>(mine + row(m, half) * kMatrixPitch + 8 * t + 2 * n) =
              make_float4(v[m][n][2 * half], v[m][n][2 * half + 1], v[m][n + 1][2 * half], v[m][n + 1][2 * half + 1]);
    __syncthreads();
    for (int e = threadIdx.x; e < 32 * 8; e += kHeadBlock) {
      const int i = e / 8, j = e % 8 * 4;
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = 0; w < kHeadWarps; ++w) {
        const float4 part = *reinterpret_cast<const float4*>(scratch + (w * 32 + i) * kMatrixPitch + j);
        sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
      }
      visit(i, j, sum);
    }
  }
};

}  // namespace avid::kernels::AVID_GPU
