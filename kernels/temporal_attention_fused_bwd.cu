// kernels/temporal_attention_fused_bwd.cu -- the first half of temporal attention's backward pass in one kernel
// (contract: temporal_attention_fused.h)
//
// Math       kernels/temporal_attention_cpu.cpp, from x and d_y to h, o and d_qkv
// Parallel   as in temporal_attention_fused.cu: 16 pixels x 8 frames a tile, 4 warps of 32 rows, head by head in
//            registers: q, k, v and d_o = d_y w_out are projected and packed to bf16 (128 registers), the 8x8 matrices
//            of a pixel come from them by m16n8k16 products, and the four results leave as they are made. Blocks are
//            persistent: each walks over tiles with a grid stride and sums the gradient of the bias per warp in shared
//            memory.
// Traffic    reads x and d_y, writes h, o and d_qkv once; all weights once per tile through L2
// Numerics   h, q, k, v, d_o, p, d_logits and the results are rounded to bf16, sums in f32. No atomics.
// Limits     as forward; N <= 16 (sums of the bias in shared memory)
// Measured   never run on a GPU yet
// Open       results leave as 4-byte stores, a sector per quad
// Oracle     kernels/temporal_attention_cpu.cpp in f64, compared in tests/sim/temporal_attention_test.cpp
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels {
namespace AVID_GPU {

template <int kSteps, int kHeadTiles, int kStages>
struct FusedBwdShape {
  static constexpr int kChunks = 2 * kSteps;
  static constexpr int kRowPitch = (kChunks | 1) * 8;
  static constexpr int kHeadRows = (kHeadTiles * 8 + 15) / 16 * 16;
  static constexpr int kOutPitch = 9 * 8;
  static constexpr int kOutRows = kChunks * 8;
  static constexpr int kSlice =
      kHeadRows * kRowPitch > kOutRows* kOutPitch ? kHeadRows* kRowPitch : kOutRows* kOutPitch;
  static constexpr int shared_bytes(int N) {
    return (2 * kFusedRows * kRowPitch + kStages * kSlice) * 2 + 4 * N * 64 * 4 + 8 * 20 * 8;
  }
};

/// 32 rows (two blocks i of 16) by 64 channels as bf16 pairs: [i][tile of 8 channels][row g or g + 8].
using PackedRows = std::uint32_t[2][8][2];

/// out = 32 rows times a head's weights, [head channel][channel] in rows of kRowPitch, or transposed ([channel][head
/// channel] in rows of kOutPitch); then the rotary code if wanted, a factor, and bf16.
template <class Shape, int kSteps, int kHeadTiles, bool kTransposed, bool kRotate>
AVID_DEVICE void project_packed(
    PackedRows& out, const bf16* rows, const bf16* weights, const float2* angles, float factor, int lane) {
  float acc[2][8][4] = {};
  const bf16* left = rows + lane % 16 * Shape::kRowPitch + lane / 16 * 8;
#pragma unroll(kSteps == 6 ? 1 : 2)  // 6 steps unrolled spill 12 bytes
  for (int s = 0; s < kSteps; ++s) {
    std::uint32_t a[2][4];
    ldmatrix_x4(a[0], left + s * 16);
    ldmatrix_x4(a[1], left + 16 * Shape::kRowPitch + s * 16);
#pragma unroll
    for (int j = 0; j < kHeadTiles; j += 2) {
      std::uint32_t b[4];
      if constexpr (kTransposed) {
        ldmatrix_x4_trans(b, weights + (s * 16 + lane % 16) * Shape::kOutPitch + j * 8 + lane / 16 * 8);
      } else {
        ldmatrix_x4(b, weights + (j * 8 + lane / 16 * 8 + lane % 8) * Shape::kRowPitch + s * 16 + lane / 8 % 2 * 8);
      }
      const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mma_bf16_16x8x16(acc[i][j], a[i], b0, acc[i][j]);
        if (j + 1 < kHeadTiles) mma_bf16_16x8x16(acc[i][j + 1], a[i], b1, acc[i][j + 1]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x = acc[i][j][2 * half], y = acc[i][j][2 * half + 1];
        if (kRotate && j < 4) {
          const float2 angle = angles[4 * j];
          const float turned = x * angle.x - y * angle.y;
          y = y * angle.x + x * angle.y;
          x = turned;
        }
        out[i][j][half] = pack_bf16x2(x * factor, y * factor);
      }
    }
  }
}

/// The logits' shape of a pair of pixels: s = a b^T of block i.
AVID_DEVICE void packed_products(TokenLogits& s, const std::uint32_t (&a)[8][2], const std::uint32_t (&b)[8][2]) {
  float first[4] = {}, second[4] = {};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const std::uint32_t left[4] = {a[2 * k][0], a[2 * k][1], a[2 * k + 1][0], a[2 * k + 1][1]};
    const std::uint32_t b0[2] = {b[2 * k][0], b[2 * k + 1][0]}, b1[2] = {b[2 * k][1], b[2 * k + 1][1]};
    mma_bf16_16x8x16(first, left, b0, first);
    mma_bf16_16x8x16(second, left, b1, second);
  }
  s.v[0][0][0] = first[0], s.v[0][0][1] = first[1];
  s.v[1][1][0] = second[2], s.v[1][1][1] = second[3];
}

constexpr int kAnglePitch = 20;  ///< pairs of a frame's row of the rotary table: 16, and 4 against bank conflicts

/// Stands for the number of a row that does not exist.
constexpr unsigned kNoRow = ~0u;

/// rows = M x for the two pixels of a block, the inverse rotary code if wanted, a factor; stored in the lane's two rows
/// of `to` from `column` on, for the `tiles` of 8 channels that a head has. (Row numbers: pointers would take four
/// times the registers.)
template <int kHeadTiles, bool kRotate>
AVID_DEVICE void mix_and_store(
    const std::uint32_t (&m)[4], const std::uint32_t (&x)[8][2], const float2* angles, float factor, Rows<bf16> to,
    const unsigned (&row)[2], int column, int tiles, int t) {
#pragma unroll
  for (int j = 0; j < kHeadTiles; ++j) {
    if (j >= tiles) break;
    const std::uint32_t b[2] = {movmatrix(x[j][0]), movmatrix(x[j][1])};
    float c[4] = {};
    mma_bf16_16x8x16(c, m, b, c);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float u = c[2 * half], w = c[2 * half + 1];
      if (kRotate && j < 4) {
        const float2 angle = angles[4 * j];
        const float turned = u * angle.x + w * angle.y;
        w = w * angle.x - u * angle.y;
        u = turned;
      }
      if (row[half] != kNoRow)
        *reinterpret_cast<std::uint32_t*>(to.row(row[half]) + column + j * 8 + 2 * t) =
            pack_bf16x2(u * factor, w * factor);
    }
  }
}

template <int kSteps, int kHeadTiles, int kStages>
__global__ void __launch_bounds__(kFusedThreads)
    temporal_fused_bwd_kernel(TemporalFusedArgs p, TemporalFusedGrads grads, unsigned num_tiles, float scale) {
  using Shape = FusedBwdShape<kSteps, kHeadTiles, kStages>;
  SharedArena arena;
  bf16* h_tile = arena.take<bf16>(kFusedRows * Shape::kRowPitch, "h");
  bf16* d_y_tile = arena.take<bf16>(kFusedRows * Shape::kRowPitch, "d_y");
  bf16* slices = arena.take<bf16>(kStages * Shape::kSlice, "weights");
  const int N = static_cast<int>(p.N), chunks = static_cast<int>((p.C + 7) / 8);
  float* sums = arena.take<float>(4 * N * 64, "sums of d_bias");  // [warp][head][8][8]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  float* own_sums = sums + warp * N * 64 + g * 8 + 2 * t;
  for (int head = 0; head < N; ++head) own_sums[head * 64] = own_sums[head * 64 + 1] = 0;
  // Rotary code of (frame, pair) in shared memory: eight registers that the loop has no room for.
  float2* all_angles = arena.take<float2>(kFusedFrames * kAnglePitch, "angles");
  for (int e = threadIdx.x; e < kFusedFrames * 16; e += kFusedThreads) {
    const float* angle = p.rotary + (e / 16 * p.num_pairs + e % 16) * 2;
    all_angles[e / 16 * kAnglePitch + e % 16] = make_float2(angle[0], angle[1]);
  }
  const float2* angles = all_angles + g * kAnglePitch + t;  // tile j of the lane: angles[4 j]
  const int inner = static_cast<int>(p.N * p.head_pitch), tiles = static_cast<int>(p.head_pitch / 8);
  for (unsigned tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    __syncthreads();  // the last tile's rows and weights are done
    for (int e = threadIdx.x; e < kFusedRows * Shape::kChunks; e += kFusedThreads) {
      const int r = e / Shape::kChunks, c = e % Shape::kChunks;
      const FusedRow at(p.B, p.S, tile, r);
      const bool valid = at.valid && c < chunks;
      cp_async_16(
          d_y_tile + r * Shape::kRowPitch + c * 8, valid ? grads.d_y.row(at.row) + c * 8 : grads.d_y.data, valid);
    }
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) load_weight_slice<Shape, kStages>(p, slices, s);
    normalise_rows<Shape::kChunks, Shape::kRowPitch>(
        h_tile, p.x, p.gamma, static_cast<int>(p.C), p.B, p.S, tile, grads.h, warp, g, t);
    int slice = 0;
    const auto next_weights = [&] {
      cp_async_wait<kStages - 2>();
      __syncthreads();
      load_weight_slice<Shape, kStages>(p, slices, slice + kStages - 1);
      return slices + slice++ % kStages * Shape::kSlice;
    };
    const bf16* rows = h_tile + warp * 32 * Shape::kRowPitch;
    const bf16* d_rows = d_y_tile + warp * 32 * Shape::kRowPitch;
    unsigned row[2][2];  // the lane's rows of both blocks
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const FusedRow at(p.B, p.S, tile, warp * 32 + i * 16 + half * 8 + g);
        row[i][half] = at.valid ? static_cast<unsigned>(at.row) : kNoRow;
      }
    }
    for (int head = 0; head < N; ++head) {
      const int column = head * static_cast<int>(p.head_pitch);
      PackedRows q, k, v, d_o;
      TokenLogits prob[2] = {}, bias = {};
      project_packed<Shape, kSteps, kHeadTiles, false, true>(
          q, rows, next_weights(), angles, scale * kFusedLog2E, lane);
      project_packed<Shape, kSteps, kHeadTiles, false, true>(k, rows, next_weights(), angles, 1.0f, lane);
#pragma unroll
      for (int e = 0; e < 2; ++e)
        bias.v[0][0][e] = bias.v[1][1][e] = p.bias[(head * kFusedFrames + g) * kFusedFrames + 2 * t + e] * kFusedLog2E;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        packed_products(prob[i], q[i], k[i]);
        softmax_tokens<true>(prob[i], bias);
      }
      project_packed<Shape, kSteps, kHeadTiles, false, false>(v, rows, next_weights(), angles, 1.0f, lane);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        std::uint32_t m[4];
        logits_fragment<true>(m, prob[i]);
        mix_and_store<kHeadTiles, false>(m, v[i], angles, 1.0f, grads.o, row[i], column, tiles, t);
      }
      project_packed<Shape, kSteps, kHeadTiles, true, false>(d_o, d_rows, next_weights(), angles, 1.0f, lane);
      float sum[2] = {};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        TokenLogits d = {};
        packed_products(d, d_o[i], v[i]);
        softmax_tokens_bwd<true>(prob[i], d);
#pragma unroll
        for (int e = 0; e < 2; ++e) sum[e] += d.v[0][0][e] + d.v[1][1][e];
        std::uint32_t m[4], turned[4];
        logits_fragment<true>(m, prob[i]);
        transpose_fragment<true>(turned, m);
        mix_and_store<kHeadTiles, false>(
            turned, d_o[i], angles, 1.0f, grads.d_qkv, row[i], 2 * inner + column, tiles, t);
        logits_fragment<true>(m, d);
        transpose_fragment<true>(turned, m);  // q carries the factor log2 e
        mix_and_store<kHeadTiles, true>(
            turned, q[i], angles, 1.0f / kFusedLog2E, grads.d_qkv, row[i], inner + column, tiles, t);
        mix_and_store<kHeadTiles, true>(m, k[i], angles, scale, grads.d_qkv, row[i], column, tiles, t);
      }
      own_sums[head * 64] += sum[0];
      own_sums[head * 64 + 1] += sum[1];
    }
    cp_async_wait<0>();
  }
  if (grads.d_bias_partials == nullptr) return;
  __syncthreads();
  for (int e = threadIdx.x; e < N * 64; e += kFusedThreads)
    grads.d_bias_partials[std::int64_t{blockIdx.x} * N * 64 + e] =
        ((sums[e] + sums[N * 64 + e]) + sums[2 * N * 64 + e]) + sums[3 * N * 64 + e];
}

template <int kSteps, int kHeadTiles, int kStages>
void launch_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  const std::int64_t tiles = (p.B * p.S + kFusedPixels - 1) / kFusedPixels;
  if (p.B * p.S * kFusedFrames >= kNoRow)
    throw std::invalid_argument("temporal_fused_bwd: expected fewer than 2^32 rows in a chunk");
  launch(
      temporal_fused_bwd_kernel<kSteps, kHeadTiles, kStages>,
      dim3(static_cast<unsigned>(temporal_fused_partials(p.B, p.S))), dim3(kFusedThreads),
      static_cast<std::size_t>(FusedBwdShape<kSteps, kHeadTiles, kStages>::shared_bytes(static_cast<int>(p.N))), stream,
      p, g, static_cast<unsigned>(tiles), 1.0f / std::sqrt(static_cast<float>(p.D)));
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
  if (p.B * p.S == 0) return;
  switch (temporal_fused_kernel(DType::bf16, 8, p.C, p.D, 0)) {
    case 0: return AVID_GPU::launch_fused_bwd<2, 4, 3>(stream, p, g);
    case 1: return AVID_GPU::launch_fused_bwd<4, 7, 3>(stream, p, g);
    case 2: return AVID_GPU::launch_fused_bwd<6, 7, 2>(stream, p, g);
    case 3: return AVID_GPU::launch_fused_bwd<7, 8, 2>(stream, p, g);
  }
  throw std::invalid_argument(
      "temporal_fused_bwd: no kernel for C = " + std::to_string(p.C) + ", D = " + std::to_string(p.D));
}

template void temporal_fused_bwd<Gpu>(const Stream&, const TemporalFusedArgs&, const TemporalFusedGrads&);

}  // namespace avid::kernels
