// kernels/device/linear_attention_head_kernels.h -- kernels of the core of composed linear attention on tensor cores
//
// For bf16 and heads of 32 channels. Sums over positions: a block per (frame, slab of 1024 positions, head), whose four
// warps take turns at 16 positions; a frame of one slab gets its final matrix at once. Outputs: a warp walks over a
// part of a frame alone, the head's matrix in registers, the next positions under way while it computes. q, k, v and
// d_a are read once and go through no shared memory (linear_attention_head.h).
#pragma once

#include "kernels/device/linear_attention_core.h"
#include "kernels/device/linear_attention_head.h"

namespace avid::kernels::AVID_GPU {

constexpr int kHeadSlab = 1024;                          ///< positions of a frame that one block sums
constexpr std::uint32_t kMinusInfinities = 0xff80ff80u;  ///< two bf16

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
      const float offset = top[w / 2][w % 2] * -kLog2E;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 pair = unpack_bf16x2(weights.r[half][w]);
        weights.r[half][w] =
            pack_bf16x2(exp2_flushed(fmaf(pair.x, kLog2E, offset)), exp2_flushed(fmaf(pair.y, kLog2E, offset)));
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
    const float shrink = exp2_flushed((top[m][half] - to) * kLog2E);
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

/// d_context of slabs as linear_attention_d_context_kernel, or of frames with its corrections, where a slab is one.
/// Grid F * slabs * N.
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
    softmax_head(weights, 1.0f);
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
  const float unscale = 1.0f / p.scale;
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= 16) {
    q_at += 16 * p.qkv.pitch, d_at += 16 * d_a.pitch;
    float weights[4][4], d_q[4][4] = {};
    q.values(weights);
    q = HeadRows(q_at, p.qkv.pitch, left - 16);
    context.add_product(d_q, d);
    d = HeadRows(d_at, d_a.pitch, left - 16);
    softmax_head(weights, p.scale);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float along = 0;
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) along = fmaf(d_q[n][e], weights[n][e], along);
      along = row_sum<4>(along) * unscale;
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) d_q[n][e] = weights[n][e] * (d_q[n][e] - along);
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
  // kn = 2^(k log2 e + exponent); with the corrections in shared memory, since registers are full of matrices.
  AVID_SHARED(float, of_channels, [kHeadWarps][2][32]);
  float(&exponent)[32] = of_channels[threadIdx.x / 32][0];
  float(&correction)[32] = of_channels[threadIdx.x / 32][1];
  const float *context = p.context_of(part.frame, part.head), *d_context_at = p.d_context_of(part.frame, part.head);
  const int channel = threadIdx.x % 32, c0 = threadIdx.x % 4 * 8;
  exponent[channel] = kLog2E * (__logf(context[32 * 32 + 32 + channel]) - context[32 * 32 + channel]);
  correction[channel] = d_context_at[32 * 32 + channel];
  __syncwarp();
  const HeadMatrix d_context(d_context_at), d_context_t = d_context.transposed();
#pragma unroll 1
  for (int left = part.rows; left > 0; left -= 16) {
    k_at += 16 * pitch, v_at += 16 * pitch;
    float kn[4][4], d_k[4][4], offset[8];
    k.values(kn);
    k = HeadRows(k_at, pitch, left - 16);
    get8(offset, exponent + c0);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) kn[n][e] = exp2_flushed(fmaf(kn[n][e], kLog2E, offset[2 * n + e % 2]));
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
