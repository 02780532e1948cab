// kernels/device/linear_attention_matrices.h -- between the passes of linear attention's backward pass: the matrices of
// a frame and head
//
// From the sums g and d of pass 1, [32, C], and the head's weights (kernels/linear_attention_bwd.cu has the equations):
//
//   context = g w_v^T        d_context = a d w_o^T      [32, 32]
//   m = a context w_o        r = d_context w_v          [32, C], of a frame: bf16, for pass 2, and
//   correction_i = sum_c r[i,c] g[i,c]                  with r as rounded
//   d_w_v += d_context^T g   d_w_o += a context^T d     [32, C], over the frames of a chunk
//
// A block has a head and a chunk of frames. Frame by frame its sums come to shared memory, each number as two bf16
// (high + low, 2^-17), and the products are of tensor cores: low and high times weights, which are bf16, one after the
// other; low x low of two sums is left out. A warp has 16 x 16 of a context, then every other 16 columns of one of the
// four products below; the gradients of weights stay in its registers.
//
// Shared    50 KB at 96 channels, 93 KB at 200
// Numerics  against f64 from the same sums (tests/sim/linear_attention_bwd_test.cpp): the correction and the gradients
//           of weights 2e-6 to 7e-6, as f32 on FP32 units 1e-7 to 6e-7; m and r as near as bf16 has it
// Predicted all of an update of AVID 71M with 64 clips: A100 0.62 ms, H200 0.36, bound by memory and by instructions;
//           on FP32 units, bound by shared memory, 1.37 and 0.77
#pragma once

#include "kernels/device/linear_attention_head.h"
#include "kernels/device/linear_attention_sums.h"

namespace avid::kernels::AVID_GPU {

constexpr int kMatricesThreads = 256;
constexpr int kContextPitch = 40;  ///< elements of a row of [32, 32] in shared memory, an odd number of chunks

/// Matrices [32, C] of a head in shared memory, up to 8 kN columns and zeros behind them. Column 8q + 2t + e of 16 is
/// channel 4t + 2q + e: of a product with two tiles of eight, lane t of a quad gets four neighbouring channels.
template <int kN>
struct HeadColumns {
  static constexpr int kPairs = (kN + 1) / 2, kColumns = 16 * kPairs;
  static constexpr int kPitch = kColumns + 8, kElems = 32 * kPitch;  // an odd number of chunks
  /// Where channel c of row i lies, and c + 1 if c is even.
  static AVID_DEVICE int at(int i, int c) { return i * kPitch + c / 16 * 16 + c / 2 % 2 * 8 + c / 4 % 4 * 2 + c % 2; }
};

/// A matrix in shared memory, each number as two bf16 (2^-17).
struct SplitMatrix {
  bf16 *high, *low;
  AVID_DEVICE void put(int at, float a, float b) const {
    split_bf16x2(a, b, *reinterpret_cast<std::uint32_t*>(high + at), *reinterpret_cast<std::uint32_t*>(low + at));
  }
  AVID_DEVICE float2 get(int at) const {
    const float2 h = unpack_bf16x2(*reinterpret_cast<const std::uint32_t*>(high + at));
    const float2 l = unpack_bf16x2(*reinterpret_cast<const std::uint32_t*>(low + at));
    return make_float2(h.x + l.x, h.y + l.y);
  }
};

/// A [32, 32] matrix, or its transpose, as left operand: [16 rows][16 columns].
struct LeftMatrix {
  std::uint32_t r[2][2][4];
  AVID_DEVICE LeftMatrix(const bf16* from, bool transposed) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int u = 0; u < 2; ++u)
        if (transposed) {
          ldmatrix_x4_trans(r[m][u], b_tiles(from, kContextPitch, u * 16, m * 16));
        } else {
          ldmatrix_x4(r[m][u], a_tile(from, kContextPitch, m * 16, u * 16));
        }
  }
};

/// out += left times 16 columns of a matrix [32][kPitch], for each of the left operands in turn.
template <int kPitch, class... Left>
AVID_DEVICE void add_columns(float (&out)[2][2][4], const bf16* columns, const Left&... left) {
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    std::uint32_t x[4];
    ldmatrix_x4_trans(x, a_tile(columns, kPitch, u * 16, 0));
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::uint32_t b[2] = {x[2 * n], x[2 * n + 1]};
#pragma unroll
      for (int m = 0; m < 2; ++m) (mma_bf16_16x8x16(out[m][n], left.r[m][u], b, out[m][n]), ...);
    }
  }
}

/// The weights of a head, a block's work: row i of w_v is that of the weights of v, row j of w_o the weights of out of
/// channel j.
template <int kN>
AVID_DEVICE void load_head_weights(const LinearBwd& p, int head, bf16* w_v, bf16* w_o) {
  using Columns = HeadColumns<kN>;
  for (int e = threadIdx.x; e < 16 * Columns::kColumns; e += kMatricesThreads) {
    const int i = e / (Columns::kColumns / 2), c = e % (Columns::kColumns / 2) * 2;
    const auto* from = reinterpret_cast<const std::uint32_t*>(p.w_qkv.row((2 * p.N + head) * 32 + i) + c);
    *reinterpret_cast<std::uint32_t*>(w_v + Columns::at(i, c)) = c < p.C ? *from : 0u;
  }
  for (int e = threadIdx.x; e < 32 * Columns::kColumns; e += kMatricesThreads) {
    const int c = e / 32, j = e % 32;
    w_o[Columns::at(j, c)] = to_bf16(c < p.C ? to_float(p.w_out.row(c)[head * 32 + j]) : 0.0f);
  }
}

/// The sums of a frame and head over all slabs: g, the mean of h under the softmax of k; d times `scale`; and the log
/// of the sums of exponentials of k.
template <int kN>
AVID_DEVICE void load_head_sums(
    const LinearBwd& p, std::int64_t frame, int head, const SplitMatrix& g, const SplitMatrix& d, float* log_sums) {
  using Columns = HeadColumns<kN>;
  for (int e = threadIdx.x; e < 8 * Columns::kColumns; e += kMatricesThreads) {
    const int i = e / (Columns::kColumns / 4), c = e % (Columns::kColumns / 4) * 4;
    float4 of_g = make_float4(0, 0, 0, 0), of_d = make_float4(0, 0, 0, 0);
    if (c < p.width) {
      for (int slab = 0; slab < p.slabs; ++slab) {
        const float4 v = *reinterpret_cast<const float4*>(p.partial_of(frame, slab, head) + (32 + i) * p.width + c);
        of_d.x += v.x, of_d.y += v.y, of_d.z += v.z, of_d.w += v.w;
      }
      float log_sum = 0;
      if (p.key_sums != nullptr) {
        const float* kept = p.key_sums + (frame * p.N + head) * linear_attention_sums_of_head(p.C);
        of_g = *reinterpret_cast<const float4*>(kept + i * p.width + c);
        log_sum = kept[32 * p.width + i];
      } else {
        const float *partial = p.partial_of(frame, 0, head), *maxima = partial + 64 * p.width + i;
        const std::int64_t step = p.partial_of(0, 1, 0) - p.partial;
        const SlabSoftmax softmax(maxima, maxima + 32, step, p.slabs);
        log_sum = softmax.top + logf(softmax.total);
        for (int slab = 0; slab < p.slabs; ++slab) {
          const float weight = __expf(maxima[slab * step] - log_sum);
          const float4 v = *reinterpret_cast<const float4*>(partial + slab * step + i * p.width + c);
          of_g.x = fmaf(v.x, weight, of_g.x), of_g.y = fmaf(v.y, weight, of_g.y);
          of_g.z = fmaf(v.z, weight, of_g.z), of_g.w = fmaf(v.w, weight, of_g.w);
        }
      }
      if (c == 0) log_sums[i] = log_sum;
    }
    const int first = Columns::at(i, c), second = Columns::at(i, c + 2);
    g.put(first, of_g.x, of_g.y), g.put(second, of_g.z, of_g.w);
    d.put(first, of_d.x * p.scale, of_d.y * p.scale), d.put(second, of_d.z * p.scale, of_d.w * p.scale);
  }
}

/// Rows i0 .. i0 + 15, columns j0 .. j0 + 15 of sums w^T, to `to`.
template <int kN>
AVID_DEVICE void put_context(const SplitMatrix& to, const SplitMatrix& sums, const bf16* w, int i0, int j0) {
  using Columns = HeadColumns<kN>;
  float of[2][4] = {};
#pragma unroll
  for (int c = 0; c < Columns::kColumns; c += 16) {
    std::uint32_t high[4], low[4], x[4];
    ldmatrix_x4(high, a_tile(sums.high, Columns::kPitch, i0, c));
    ldmatrix_x4(low, a_tile(sums.low, Columns::kPitch, i0, c));
    ldmatrix_x4(x, b_tiles(w, Columns::kPitch, j0, c));
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::uint32_t b[2] = {x[2 * n], x[2 * n + 1]};
      mma_bf16_16x8x16(of[n], low, b, of[n]);
      mma_bf16_16x8x16(of[n], high, b, of[n]);
    }
  }
  const int at = (i0 + threadIdx.x % 32 / 4) * kContextPitch + j0 + threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    to.put(at + 8 * n, of[n][0], of[n][1]);
    to.put(at + 8 * kContextPitch + 8 * n, of[n][2], of[n][3]);
  }
}

/// From the sums of pass 1 to m, r, the softmax of k and the gradients of w_v and w_out. Grid (chunks, N).
template <int kN>
__global__ void __launch_bounds__(kMatricesThreads, kN <= 12 ? 2 : 1)
    linear_bwd_matrices_kernel(LinearBwd p, std::int64_t frames, std::int64_t frames_of_chunk) {
  using Columns = HeadColumns<kN>;
  constexpr int kPitch = Columns::kPitch, kPairs = Columns::kPairs;
  const int head = static_cast<int>(blockIdx.y), warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = threadIdx.x % 32, row = lane / 4, t = lane % 4;
  SharedArena arena;
  const auto take_split = [&arena](int elems, const char* name) {
    return SplitMatrix{arena.take<bf16>(elems, name), arena.take<bf16>(elems, name)};
  };
  bf16* w_v = arena.take<bf16>(Columns::kElems, "w_v");
  bf16* w_o = arena.take<bf16>(Columns::kElems, "w_o");
  const SplitMatrix g = take_split(Columns::kElems, "g"), d = take_split(Columns::kElems, "d");
  const SplitMatrix context = take_split(32 * kContextPitch, "context");
  const SplitMatrix d_context = take_split(32 * kContextPitch, "d_context");
  float* parts = arena.take<float>(64, "parts of the correction");
  load_head_weights<kN>(p, head, w_v, w_o);

  // Products 0 to 3: m = context w_o, r = d_context w_v; d_w_v = d_context^T g, d_w_o = context^T d, which go on over
  // the frames.
  const int product = warp / 2;
  const bool goes_on = product >= 2, of_context = product == 0 || product == 3;
  const bf16* right = product == 0 ? w_o : product == 1 ? w_v : product == 2 ? g.high : d.high;
  const bf16* right_low = product == 2 ? g.low : d.low;
  float sum[(kPairs + 1) / 2][2][2][4] = {};  // of 16 columns each: [16 rows][8 columns]
  const std::int64_t first = blockIdx.x * frames_of_chunk;
  const std::int64_t last = first + frames_of_chunk < frames ? first + frames_of_chunk : frames;
  for (std::int64_t frame = first; frame < last; ++frame) {
    float* softmax = p.softmax + (frame * p.N + head) * 64;
    load_head_sums<kN>(p, frame, head, g, d, softmax);
    __syncthreads();
    // A quarter of context = g w_v^T or of d_context = d w_o^T.
    const int i0 = warp / 2 % 2 * 16, j0 = warp % 2 * 16;
    if (warp < 4) {
      put_context<kN>(context, g, w_v, i0, j0);
    } else {
      put_context<kN>(d_context, d, w_o, i0, j0);
    }
    __syncthreads();
    const SplitMatrix left = of_context ? context : d_context;
    const LeftMatrix high(left.high, goes_on), low(left.low, goes_on);
    float part[2][2] = {};  // of the correction
#pragma unroll
    for (int i = 0; i < (kPairs + 1) / 2; ++i) {
      const int pair = warp % 2 + 2 * i, c = pair * 16 + 4 * t;
      if (pair >= kPairs) continue;
      if (goes_on) add_columns<kPitch>(sum[i], right_low + pair * 16, high);
      add_columns<kPitch>(sum[i], right + pair * 16, low, high);
      if (goes_on) continue;
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int r = m * 16 + half * 8 + row;
          std::uint32_t rounded[2];
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            float(&v)[4] = sum[i][m][n];
            const float factor = product == 0 ? p.scale : 1.0f;
            rounded[n] = pack_bf16x2(v[2 * half] * factor, v[2 * half + 1] * factor);
            v[2 * half] = v[2 * half + 1] = 0;
            if (product == 0) continue;
            const float2 of_r = unpack_bf16x2(rounded[n]), of_g = g.get(Columns::at(r, c + 2 * n));
            part[m][half] = fmaf(of_r.x, of_g.x, fmaf(of_r.y, of_g.y, part[m][half]));
          }
          if (c < p.width)
            *reinterpret_cast<uint2*>(p.folded + (((frame * p.N + head) * 2 + product) * 32 + r) * p.width + c) =
                make_uint2(rounded[0], rounded[1]);
        }
    }
    if (product == 1) {
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float of_row = quad_sum(part[m][half]);
          if (t == 0) parts[warp % 2 * 32 + m * 16 + half * 8 + row] = of_row;
        }
    }
    __syncthreads();
    if (threadIdx.x < 32) softmax[32 + threadIdx.x] = parts[threadIdx.x] + parts[32 + threadIdx.x];
  }
  if (!goes_on) return;
  float* out = p.d_weights + ((std::int64_t{blockIdx.x} * p.N + head) * 2 + product - 2) * 32 * p.width;
#pragma unroll
  for (int i = 0; i < (kPairs + 1) / 2; ++i) {
    const int c = (warp % 2 + 2 * i) * 16 + 4 * t;
    if (c >= p.width) continue;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float(&v)[2][4] = sum[i][m];
        *reinterpret_cast<float4*>(out + (m * 16 + half * 8 + row) * p.width + c) =
            make_float4(v[0][2 * half], v[0][2 * half + 1], v[1][2 * half], v[1][2 * half + 1]);
      }
  }
}

}  // namespace avid::kernels::AVID_GPU
