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

#include "kernels/device/linear_attention_core.h"

namespace avid::kernels::AVID_GPU {

constexpr int kHeadWarps = 4;                 ///< of a block
constexpr int kHeadBlock = 32 * kHeadWarps;   ///< threads
constexpr int kHeadSlab = 1024;               ///< positions of a frame that one block sums
constexpr int kMatrixPitch = 36;              ///< floats of a row of [32,32] in shared memory: four banks apart
constexpr std::uint32_t kOnes = 0x3f803f80u;  ///< two bf16
constexpr std::uint32_t kMinusInfinities = 0xff80ff80u;

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
      for (int w = 0; w < 4; ++w) {
        high[n][w] = pack_bf16x2(v[2 * w], v[2 * w + 1]);
        const float2 rounded = unpack_bf16x2(high[n][w]);
        low[n][w] = pack_bf16x2(v[2 * w] - rounded.x, v[2 * w + 1] - rounded.y);
      }
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
    top = row_max<4>(top);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) v[n][e] = __expf(v[n][e] - top);
  }
}
/// v = softmax over the channels of a row.
AVID_DEVICE void softmax_head(float (&v)[4][4]) {
  exp_head(v);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 4; ++n) sum += v[n][2 * half] + v[n][2 * half + 1];
    const float factor = __fdividef(1.0f, row_sum<4>(sum));
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

/// A warp's context: sum_s exp(k_si - top_i) v_sj, and with a column of ones for v the sums of the exponentials.
struct RunningHead {
  /// How far an exponent may exceed `top` before sums are scaled anew: e^8 times the 1024 terms of a slab is harmless,
  /// and the first tile's maximum mostly stays.
  static constexpr float kSlack = 8.0f;

  HeadSum context;
  float ones[2][4] = {};
  float top[2][2] = {{-__FLT_MAX__, -__FLT_MAX__}, {-__FLT_MAX__, -__FLT_MAX__}};

  /// weights: k. Both turned; missing rows of k are -inf, of v zero.
  AVID_DEVICE void add(HeadRows weights, const HeadRows& v) {
    float largest[2][2];
    bool grew = false;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const float2 a = unpack_bf16x2(weights.r[0][w]), b = unpack_bf16x2(weights.r[1][w]);
      largest[w / 2][w % 2] = fmaxf(fmaxf(a.x, a.y), fmaxf(b.x, b.y));
      grew |= largest[w / 2][w % 2] > top[w / 2][w % 2] + kSlack;
    }
    if (__any_sync(0xffffffffu, grew)) raise(largest);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const float offset = top[w / 2][w % 2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 pair = unpack_bf16x2(weights.r[half][w]);
        weights.r[half][w] = pack_bf16x2(__expf(pair.x - offset), __expf(pair.y - offset));
      }
    }
    context.add(weights, v);
    const std::uint32_t column[2] = {kOnes, kOnes};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      std::uint32_t a[4];
      HeadSum::left(a, weights, m);
      mma_bf16_16x8x16(ones[m], a, column, ones[m]);
    }
  }
  AVID_DEVICE void raise(const float (&largest)[2][2]) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) raise(m, half, row_max<4>(largest[m][half]));
  }
  /// Scales a row to another maximum, unless that is smaller.
  AVID_DEVICE void raise(int m, int half, float to) {
    to = fmaxf(to, top[m][half]);
    const float shrink = __expf(top[m][half] - to);
    top[m][half] = to;
    context.scale(m, half, shrink);
    ones[m][2 * half] *= shrink, ones[m][2 * half + 1] *= shrink;
  }
};

/// The positions begin .. end-1 of a frame that a block sums; its warps take turns at 16 of them. Heads run fastest:
/// blocks that run together read neighbouring channels.
struct HeadSlab {
  std::int64_t frame;
  int slab, head, begin, end;
  AVID_DEVICE explicit HeadSlab(const LinearCore<BFloat16>& p) {
    const unsigned rest = blockIdx.x / static_cast<unsigned>(p.N);
    head = static_cast<int>(blockIdx.x % static_cast<unsigned>(p.N));
    slab = static_cast<int>(rest % static_cast<unsigned>(p.slabs));
    frame = rest / static_cast<unsigned>(p.slabs);
    begin = slab * kHeadSlab;
    end = min(p.S, begin + kHeadSlab);
  }
};

/// The contexts of slabs as linear_attention_context_kernel, or of frames, where a slab is one. Grid F * slabs * N.
template <int kBlocks>
__global__ void __launch_bounds__(kHeadBlock, kBlocks) linear_attention_head_context_kernel(LinearCore<BFloat16> p) {
  AVID_SHARED(float, scratch, [kHeadWarps * 32 * kMatrixPitch]);
  AVID_SHARED(float, tops, [kHeadWarps][32]);
  AVID_SHARED(float, sums, [kHeadWarps][32]);
  const HeadSlab part(p);
  const int warp = threadIdx.x / 32, t = threadIdx.x % 4;
  RunningHead running;
  int t0 = part.begin + warp * 16;
  const std::int64_t pitch = p.qkv.pitch, step = kHeadWarps * 16 * pitch;
  const BFloat16* k_at = p.at(part.frame * p.S + t0, 1, part.head);
  const BFloat16* v_at = k_at + p.N * 32;
  HeadRows k(k_at, pitch, part.end - t0, kMinusInfinities), v(v_at, pitch, part.end - t0);
#pragma unroll 1
  for (; t0 < part.end; t0 += kHeadWarps * 16) {
    k_at += step, v_at += step;
    const int left = part.end - t0 - kHeadWarps * 16;
    const HeadRows k_turned = k.turned(), v_turned = v.turned();
    k = HeadRows(k_at, pitch, left, kMinusInfinities), v = HeadRows(v_at, pitch, left);  // under way while these add
    running.add(k_turned, v_turned);
  }
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (t == 0) tops[warp][HeadSum::row(m, half)] = running.top[m][half];
  __syncthreads();
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = HeadSum::row(m, half);
      float top = tops[0][i];
#pragma unroll
      for (int w = 1; w < kHeadWarps; ++w) top = fmaxf(top, tops[w][i]);
      running.raise(m, half, top);
      if (t == 0) sums[warp][i] = running.ones[m][2 * half];
    }
  const bool whole = p.slabs == 1;
  float* out = whole ? p.context_of(part.frame, part.head) : p.partial_of(part.frame, part.slab, part.head);
  running.context.add_warps(scratch, [&](int i, int j, float4 sum) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kHeadWarps; ++w) total += sums[w][i];
    const float inverse = 1.0f / total, factor = whole ? inverse : 1.0f;
    *reinterpret_cast<float4*>(out + i * 32 + j) =
        make_float4(sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor);
    if (j == 0) {
      float top = tops[0][i];
#pragma unroll
      for (int w = 1; w < kHeadWarps; ++w) top = fmaxf(top, tops[w][i]);
      out[32 * 32 + i] = top;
      out[32 * 32 + 32 + i] = whole ? inverse : total;
    }
  });
}

/// d_context of slabs as linear_attention_d_context_kernel, or of frames with its corrections, where a slab is one. Grid
/// F * slabs * N.
template <int kBlocks>
__global__ void __launch_bounds__(kHeadBlock, kBlocks)
    linear_attention_head_d_context_kernel(LinearCore<BFloat16> p, Rows<const BFloat16> d_a) {
  AVID_SHARED(float, scratch, [kHeadWarps * 32 * kMatrixPitch]);
  const HeadSlab part(p);
  HeadSum d_context;
  int t0 = part.begin + threadIdx.x / 32 * 16;
  const std::int64_t row = part.frame * p.S + t0;
  const BFloat16* q_at = p.at(row, 0, part.head);
  const BFloat16* d_at = d_a.data + row * d_a.pitch + part.head * 32;
  HeadRows q(q_at, p.qkv.pitch, part.end - t0), d(d_at, d_a.pitch, part.end - t0);
#pragma unroll 1
  for (; t0 < part.end; t0 += kHeadWarps * 16) {
    q_at += kHeadWarps * 16 * p.qkv.pitch, d_at += kHeadWarps * 16 * d_a.pitch;
    const int left = part.end - t0 - kHeadWarps * 16;
    float weights[4][4];
    q.values(weights);
    const HeadRows d_turned = d.turned();  // missing rows are zero here
    q = HeadRows(q_at, p.qkv.pitch, left), d = HeadRows(d_at, d_a.pitch, left);
    softmax_head(weights);
    d_context.add(HeadRows(weights).turned(), d_turned);
  }
  const bool whole = p.slabs == 1;
  const float* context = p.context_of(part.frame, part.head);
  float* out = whole ? p.d_context_of(part.frame, part.head) : p.partial_of(part.frame, part.slab, part.head);
  d_context.add_warps(scratch, [&](int i, int j, float4 sum) {
    const float4 d = make_float4(sum.x * p.scale, sum.y * p.scale, sum.z * p.scale, sum.w * p.scale);
    *reinterpret_cast<float4*>(out + i * 32 + j) = d;
    if (!whole) return;
    const float4 c = *reinterpret_cast<const float4*>(context + i * 32 + j);
    const float correction = row_sum<8>(fmaf(d.x, c.x, d.y * c.y) + fmaf(d.z, c.z, d.w * c.w));
    if (j == 0) out[32 * 32 + i] = correction;
  });
}

/// The positions of one head of a frame that a warp walks over alone. Heads run fastest.
struct HeadPart {
  std::int64_t row;  ///< of the first position
  std::int64_t frame;
  int head, rows;  ///< no rows: nothing to do
  AVID_DEVICE HeadPart(const LinearCore<BFloat16>& p, int part_rows) {
    const unsigned task = blockIdx.x * kHeadWarps + threadIdx.x / 32, rest = task / static_cast<unsigned>(p.N);
    const unsigned parts = static_cast<unsigned>((p.S + part_rows - 1) / part_rows);
    const int begin = static_cast<int>(rest % parts) * part_rows;
    head = static_cast<int>(task % static_cast<unsigned>(p.N));
    frame = rest / parts;
    rows = frame < p.F ? min(part_rows, p.S - begin) : 0;
    row = frame * p.S + begin;
  }
};

/// a = qn context. Grid ceil(F * parts * N / kHeadWarps).
template <int kBlocks>
__global__ void __launch_bounds__(kHeadBlock, kBlocks)
    linear_attention_head_apply_kernel(LinearCore<BFloat16> p, Rows<BFloat16> a, int part_rows) {
  const HeadPart part(p, part_rows);
  if (part.rows == 0) return;
  const BFloat16* from = p.at(part.row, 0, part.head);
  BFloat16* to = a.data + part.row * a.pitch + part.head * 32;
  const std::int64_t pitch = p.qkv.pitch;
  HeadRows q[2] = {HeadRows(from, pitch, part.rows), HeadRows(from + 16 * pitch, pitch, part.rows - 16)};
  from += 32 * pitch;
  const HeadMatrix context = HeadMatrix(p.context_of(part.frame, part.head)).transposed();
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= 32) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float v[4][4], sums[4];
      q[i].values(v);
      q[i] = HeadRows(from, pitch, left - 32 - 16 * i);
      from += 16 * pitch;
      exp_head(v);
      const HeadRows weights(v);
      sum_channels(sums, weights);
      float out[4][4] = {};
      context.add_product(out, weights);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float factor = __fdividef(p.scale, sums[2 * half]);
#pragma unroll
        for (int n = 0; n < 4; ++n) out[n][2 * half] *= factor, out[n][2 * half + 1] *= factor;
      }
      HeadRows(out).store(to, a.pitch, left - 16 * i);
      to += 16 * a.pitch;
    }
  }
}

/// d_q; may overwrite q. Grid as apply.
template <int kBlocks>
__global__ void __launch_bounds__(kHeadBlock, kBlocks) linear_attention_head_d_q_kernel(
    LinearCore<BFloat16> p, Rows<const BFloat16> d_a, Rows<BFloat16> d_qkv, int part_rows) {
  const HeadPart part(p, part_rows);
  if (part.rows == 0) return;
  const BFloat16* q_at = p.at(part.row, 0, part.head);
  const BFloat16* d_at = d_a.data + part.row * d_a.pitch + part.head * 32;
  BFloat16* to = d_qkv.data + part.row * d_qkv.pitch + part.head * 32;
  HeadRows q(q_at, p.qkv.pitch, part.rows), d(d_at, d_a.pitch, part.rows);
  const HeadMatrix context(p.context_of(part.frame, part.head));
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= 16) {
    q_at += 16 * p.qkv.pitch, d_at += 16 * d_a.pitch;
    float weights[4][4], d_q[4][4] = {};
    q.values(weights);
    q = HeadRows(q_at, p.qkv.pitch, left - 16);
    context.add_product(d_q, d);
    d = HeadRows(d_at, d_a.pitch, left - 16);
    softmax_head(weights);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float along = 0;
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) along = fmaf(d_q[n][e], weights[n][e], along);
      along = row_sum<4>(along);
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) d_q[n][e] = p.scale * weights[n][e] * (d_q[n][e] - along);
    }
    HeadRows(d_q).store(to, d_qkv.pitch, left);
    to += 16 * d_qkv.pitch;
  }
}

/// d_k and d_v; may overwrite k and v. Grid as apply.
template <int kBlocks>
__global__ void __launch_bounds__(kHeadBlock, kBlocks)
    linear_attention_head_d_kv_kernel(LinearCore<BFloat16> p, Rows<BFloat16> d_qkv, int part_rows) {
  const HeadPart part(p, part_rows);
  if (part.rows == 0) return;
  const std::int64_t pitch = p.qkv.pitch;
  const BFloat16* k_at = p.at(part.row, 1, part.head);
  const BFloat16* v_at = k_at + p.N * 32;
  BFloat16* to = d_qkv.data + part.row * d_qkv.pitch + (p.N + part.head) * 32;
  HeadRows k(k_at, pitch, part.rows), v(v_at, pitch, part.rows);
  // kn = exp(k - log_sum); with the corrections in shared memory, since registers are full of matrices.
  AVID_SHARED(float, of_channels, [kHeadWarps][2][32]);
  float(&log_sum)[32] = of_channels[threadIdx.x / 32][0];
  float(&correction)[32] = of_channels[threadIdx.x / 32][1];
  const float *context = p.context_of(part.frame, part.head), *d_context_at = p.d_context_of(part.frame, part.head);
  const int channel = threadIdx.x % 32, c0 = threadIdx.x % 4 * 8;
  log_sum[channel] = context[32 * 32 + channel] - __logf(context[32 * 32 + 32 + channel]);
  correction[channel] = d_context_at[32 * 32 + channel];
  __syncwarp();
  const HeadMatrix d_context(d_context_at), d_context_t = d_context.transposed();
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= 16) {
    k_at += 16 * pitch, v_at += 16 * pitch;
    float kn[4][4], d_k[4][4], offset[8];
    k.values(kn);
    k = HeadRows(k_at, pitch, left - 16);
    get8(offset, log_sum + c0);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) kn[n][e] = __expf(kn[n][e] - offset[2 * n + e % 2]);
    get8(offset, correction + c0);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) d_k[n][e] = -offset[2 * n + e % 2];
    d_context.add_product(d_k, v);
    v = HeadRows(v_at, pitch, left - 16);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) d_k[n][e] *= kn[n][e];
    HeadRows(d_k).store(to, d_qkv.pitch, left);
    float d_v[4][4] = {};
    d_context_t.add_product(d_v, HeadRows(kn));
    HeadRows(d_v).store(to + p.N * 32, d_qkv.pitch, left);
    to += 16 * d_qkv.pitch;
  }
}

}  // namespace avid::kernels::AVID_GPU
