// kernels/temporal_attention_fused_bwd.cu -- the first half of temporal attention's backward pass in one kernel
// (contract: temporal_attention_fused.h)
//
// Math       kernels/temporal_attention_cpu.cpp, from x and d_y to h, probabilities and d_qkv
// Parallel   as in temporal_attention_fused.cu: 16 pixels x 8 frames a tile, 4 warps of 32 rows, head by head in
//            registers: q, k, v and d_o = d_y w_out are projected and packed to bf16 (128 registers), the 8x8 matrices
//            of a pixel come from them by m16n8k16 products, and probabilities and three results leave as they are
//            made. Blocks are persistent: each walks over tiles with a grid stride and sums the gradient of the bias
//            per warp in shared memory.
// Traffic    reads x and d_y, writes h, probabilities (16 bytes of a row and head) and d_qkv once; all weights once per
//            tile through L2. Heads without gaps, in whole sectors (StoredHeads): at 6 heads of 50, 100 bytes of each
//            in 4 sectors, before 112 in 7
// Numerics   h, q, k, v, d_o, p, d_logits and the results are rounded to bf16, sums in f32. No atomics.
// Limits     as forward; N <= 16 (sums of the bias in shared memory)
// Compiled   nvcc 13, sm_80 (sm_90), no spills: instructions per product in the loop over heads 4.9 (5.1) for up to
//            104 channels, 5.6 (5.7), 6.9 (7.1), 12.6 (12.9) for 96, 56, 32, the store of an incomplete group
//            beside that of a whole one among them; 254 (244) registers for the first
// Counted    once 7.7 at 96 channels. Copies of weights a constant distance apart saved about 1.2 of them, one scale
//            on the 8x8 gradient of the logits instead of on q, d_q and d_k 0.4, addresses and conditions of the stores
//            0.8. Steps of a projection unrolled by 2 spill 4 to 24 bytes and save 0.1
// Measured   never run on a GPU yet
// Open       turning q, k, v and d_o costs two movmatrix for each product with an 8x8 matrix. On an A100 one block has
//            a multiprocessor to itself: 88 KB of shared memory at 96 channels, where two would need 81
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

constexpr int kFusedFrames = 8, kFusedPixels = kFusedRows / kFusedFrames;

template <int kSteps, int kHeadTiles, int kStages>
struct FusedBwdShape {
  static constexpr int kChunks = 2 * kSteps;
  static constexpr int kRowPitch = (kChunks | 1) * 8;
  static constexpr int kHeadRows = (kHeadTiles * 8 + 15) / 16 * 16;
  static constexpr int kHeadSlices = 3, kSlices = 4;  // of weights: q, k, v and output
  static constexpr int kOutPitch = 9 * 8;
  static constexpr int kOutRows = kChunks * 8;
  static constexpr int kSlice =
      kHeadRows * kRowPitch > kOutRows* kOutPitch ? kHeadRows* kRowPitch : kOutRows* kOutPitch;
  static constexpr int shared_bytes(int N) {
    return (2 * kFusedRows * kRowPitch + kStages * kSlice) * 2 + 4 * N * 64 * 4 + kFusedFrames * kAnglePitch * 8;
  }
};

/// 32 rows (two blocks i of 16) by 64 channels as bf16 pairs: [i][tile of 8 channels][row g or g + 8].
using PackedRows = std::uint32_t[2][8][2];

/// out = 32 rows times a head's weights, [head channel][channel] in rows of kRowPitch, or transposed ([channel][head
/// channel] in rows of kOutPitch); then the rotary code if wanted, and bf16. `left` and `right` are what the lane
/// addresses in ldmatrix.
template <class Shape, int kSteps, int kHeadTiles, bool kTransposed, bool kRotate>
AVID_DEVICE void project_packed(PackedRows& out, shared_address left, shared_address right, const float4* angles) {
  float acc[2][8][4] = {};
#pragma unroll(kSteps >= 4 ? 1 : kSteps)  // unrolled they spill 16 to 48 bytes
  for (int s = 0; s < kSteps; ++s) {
    std::uint32_t a[2][4];
    ldmatrix_x4(a[0], left + s * 32);
    ldmatrix_x4(a[1], left + (16 * Shape::kRowPitch + s * 16) * 2);
#pragma unroll
    for (int j = 0; j < kHeadTiles; j += 2) {
      std::uint32_t b[4];
      if constexpr (kTransposed) {
        ldmatrix_x4_trans(b, right + (s * 16 * Shape::kOutPitch + j * 8) * 2);
      } else {
        ldmatrix_x4(b, right + (j * 8 * Shape::kRowPitch + s * 16) * 2);
      }
      const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mma_bf16_16x8x16(acc[i][j], a[i], b0, acc[i][j]);
        if (j + 1 < kHeadTiles) mma_bf16_16x8x16(acc[i][j + 1], a[i], b1, acc[i][j + 1]);
      }
    }
  }
  float4 angle{};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (kRotate && j < 4 && j % 2 == 0) angle = angles[2 * j];
    const float cosine = j % 2 == 0 ? angle.x : angle.z, sine = j % 2 == 0 ? angle.y : angle.w;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float x = acc[i][j][2 * half], y = acc[i][j][2 * half + 1];
        if (kRotate && j < 4) {
          const float turned = x * cosine - y * sine;
          y = y * cosine + x * sine;
          x = turned;
        }
        out[i][j][half] = pack_bf16x2(x, y);
      }
    }
  }
}

/// The logits' shape of a pair of pixels: s = a b^T of block i.
template <int kHeadTiles>
AVID_DEVICE void packed_products(TokenLogits& s, const std::uint32_t (&a)[8][2], const std::uint32_t (&b)[8][2]) {
  float first[4] = {}, second[4] = {};
#pragma unroll
  for (int k = 0; k < kHeadTiles / 2; ++k) {
    const std::uint32_t left[4] = {a[2 * k][0], a[2 * k][1], a[2 * k + 1][0], a[2 * k + 1][1]};
    const std::uint32_t b0[2] = {b[2 * k][0], b[2 * k + 1][0]}, b1[2] = {b[2 * k][1], b[2 * k + 1][1]};
    mma_bf16_16x8x16(first, left, b0, first);
    mma_bf16_16x8x16(second, left, b1, second);
  }
  if constexpr (kHeadTiles % 2 == 1) {
    constexpr int j = kHeadTiles - 1;
    const std::uint32_t left[2] = {a[j][0], a[j][1]}, b0[1] = {b[j][0]}, b1[1] = {b[j][1]};
    mma_bf16_16x8x8(first, left, b0, first);
    mma_bf16_16x8x8(second, left, b1, second);
  }
  s.v[0][0][0] = first[0], s.v[0][0][1] = first[1];
  s.v[1][1][0] = second[2], s.v[1][1][1] = second[3];
}

/// Stands for the number of a row that does not exist.
constexpr unsigned kNoRow = ~0u;

/// rows = M x for the two pixels of a block, and the inverse rotary code if wanted; stored in the lane's two rows of
/// `to`: whole groups of 16 channels from column whole_at on, what is left of `width` channels from rest_at on. (Row
/// numbers: pointers would take four times the registers.)
template <int kHeadTiles, bool kRotate>
AVID_DEVICE void mix_and_store(
    const std::uint32_t (&m)[4], const std::uint32_t (&x)[8][2], const float4* angles, bf16* to, unsigned pitch,
    const unsigned (&row)[2], int whole_at, int rest_at, int width, int t) {
  bf16* const at[2] = {
      to + (std::size_t{row[0]} * pitch + whole_at + 4 * t), to + (std::size_t{row[1]} * pitch + whole_at + 4 * t)};
  const bool exists[2] = {row[0] != kNoRow, row[1] != kNoRow};
  const int to_rest = rest_at - whole_at - width / 16 * 16;  // from where a channel would lie among the groups
#pragma unroll
  for (int j = 0; j < kHeadTiles; j += 2) {
    if (j >= fewest_tiles(kHeadTiles) && j * 8 >= width) break;
    std::uint32_t packed[2][2];  // [tile][half]
    float4 angle{};
    if (kRotate && j < 4) angle = angles[2 * j];
#pragma unroll
    for (int v = 0; v < 2 && j + v < kHeadTiles; ++v) {
      const std::uint32_t b[2] = {movmatrix(x[j + v][0]), movmatrix(x[j + v][1])};
      float c[4] = {};
      mma_bf16_16x8x16(c, m, b, c);
      const float cosine = v == 0 ? angle.x : angle.z, sine = v == 0 ? angle.y : angle.w;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float u = c[2 * half], w = c[2 * half + 1];
        if (kRotate && j < 4) {
          const float turned = u * cosine + w * sine;
          w = w * cosine - u * sine;
          u = turned;
        }
        packed[v][half] = pack_bf16x2(u, w);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!exists[half]) continue;
      bf16* const group = at[half] + j * 8;
      if (j + 1 == kHeadTiles) {  // alone: the lane has channels 2 t and 2 t + 1
        if (j * 8 + 2 * t < width) *reinterpret_cast<std::uint32_t*>(group + (to_rest - 2 * t)) = packed[0][half];
      } else if (j * 8 + 16 <= fewest_channels(kHeadTiles) || j * 8 + 16 <= width) {
        *reinterpret_cast<uint2*>(group) = make_uint2(packed[0][half], packed[1][half]);
      } else {
#pragma unroll
        for (int v = 0; v < 2; ++v)
          if (j * 8 + 4 * t + 2 * v < width)
            *reinterpret_cast<std::uint32_t*>(group + (to_rest + 2 * v)) = packed[v][half];
      }
    }
  }
}

/// Zeros in the lane's two rows of `to` from column `from` up to the next multiple of kTo, 8 or 16.
template <int kTo>
AVID_DEVICE void zero_row_gaps(const Rows<bf16>& to, const unsigned (&row)[2], int from, int t) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int c = 2 * t; c < kTo; c += 8)
      if (row[half] != kNoRow && c < (kTo - from % kTo) % kTo)
        *reinterpret_cast<std::uint32_t*>(to.row(row[half]) + from + c) = 0u;
  }
}

template <int kSteps, int kHeadTiles, int kStages>
__global__ void __launch_bounds__(kFusedThreads)
    temporal_fused_bwd_kernel(TemporalFusedArgs p, TemporalFusedGrads grads, unsigned num_tiles, float scale) {
  using Shape = FusedBwdShape<kSteps, kHeadTiles, kStages>;
  SharedArena arena;
  bf16* h_tile = arena.take<bf16>(2 * kFusedRows * Shape::kRowPitch, "h and d_y");
  bf16* d_y_tile = h_tile + kFusedRows * Shape::kRowPitch;
  bf16* slices = arena.take<bf16>(kStages * Shape::kSlice, "weights");
  const int N = static_cast<int>(p.N), chunks = static_cast<int>((p.C + 7) / 8);
  float* sums = arena.take<float>(4 * N * 64, "sums of d_bias");  // [warp][head][8][8]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  float* own_sums = sums + warp * N * 64 + g * 8 + 2 * t;
  for (int head = 0; head < N; ++head) own_sums[head * 64] = own_sums[head * 64 + 1] = 0;
  float2* all_angles = arena.take<float2>(kFusedFrames * kAnglePitch, "angles");
  fill_angles<kFusedFrames>(all_angles, p);
  // Two tiles of the lane, j and j + 1, turn by angles[2 j].
  const float4* angles = reinterpret_cast<const float4*>(all_angles + g * kAnglePitch + 2 * t);
  // What the lane addresses in ldmatrix (temporal_attention_fused.cu): rows, weights, transposed weights.
  const std::uint32_t left_lane = (lane % 16 * Shape::kRowPitch + lane / 16 * 8) * 2;
  const std::uint32_t right_lane = ((lane / 16 * 8 + lane % 8) * Shape::kRowPitch + lane / 8 % 2 * 8) * 2;
  const std::uint32_t out_lane = (lane % 16 * Shape::kOutPitch + lane / 16 * 8) * 2;
  const shared_address rows = shared_address(h_tile + warp * 32 * Shape::kRowPitch) + left_lane;
  constexpr std::uint32_t kToDyTile = kFusedRows * Shape::kRowPitch * 2;  // bytes
  const int width = grads.stored.width, whole = grads.stored.whole;
  const unsigned d_pitch = static_cast<unsigned>(grads.d_qkv.pitch);
  for (unsigned tile = blockIdx.x; tile < num_tiles; tile += gridDim.x) {
    __syncthreads();                                           // the last tile's rows and weights are done
    constexpr int kLanes = power_of_two_from(Shape::kChunks);  // a thread keeps to one column of chunks
    for (int r = static_cast<int>(threadIdx.x) / kLanes; r < kFusedRows; r += kFusedThreads / kLanes) {
      const int c = static_cast<int>(threadIdx.x) % kLanes;
      const FusedRow<kFusedFrames> at(p.B, p.S, tile, r);
      const bool valid = at.valid && c < chunks;
      if (c < Shape::kChunks)
        cp_async_16(
            d_y_tile + r * Shape::kRowPitch + c * 8, valid ? grads.d_y.row(at.row) + c * 8 : grads.d_y.data, valid);
    }
    WeightRing<Shape, kStages> ring(p, slices);
    normalise_rows<kFusedFrames, Shape::kChunks, Shape::kRowPitch>(
        h_tile, p.x, p.gamma, static_cast<int>(p.C), p.B, p.S, tile, grads.h, warp, g, t);
    unsigned row[2][2];  // the lane's rows of both blocks
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const FusedRow<kFusedFrames> at(p.B, p.S, tile, warp * 32 + i * 16 + half * 8 + g);
        row[i][half] = at.valid ? static_cast<unsigned>(at.row) : kNoRow;
      }
      zero_row_gaps<16>(grads.d_qkv, row[i], 2 * N * width, t);
      zero_row_gaps<8>(grads.d_qkv, row[i], grads.value_at + N * width, t);
    }
    for (int head = 0; head < N; ++head) {
      PackedRows q, k, v, d_o;
      TokenLogits prob[2] = {}, bias = {};
      const auto weights = [&](const bf16* slice) { return shared_address(slice) + right_lane; };
      project_packed<Shape, kSteps, kHeadTiles, false, true>(q, rows, weights(ring.template next<0>(p, head)), angles);
      project_packed<Shape, kSteps, kHeadTiles, false, true>(k, rows, weights(ring.template next<1>(p, head)), angles);
#pragma unroll
      for (int e = 0; e < 2; ++e)
        bias.v[0][0][e] = bias.v[1][1][e] = p.bias[(head * kFusedFrames + g) * kFusedFrames + 2 * t + e] * kFusedLog2E;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        packed_products<kHeadTiles>(prob[i], q[i], k[i]);
        softmax_tokens<true, true>(prob[i], bias, scale * kFusedLog2E);
      }
      project_packed<Shape, kSteps, kHeadTiles, false, false>(v, rows, weights(ring.template next<2>(p, head)), angles);
      const shared_address out_weights = shared_address(ring.template next<3>(p, head)) + out_lane;
      project_packed<Shape, kSteps, kHeadTiles, true, false>(d_o, rows + kToDyTile, out_weights, angles);
      float sum[2] = {};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        TokenLogits d = {};
        packed_products<kHeadTiles>(d, d_o[i], v[i]);
        softmax_tokens_bwd<true>(prob[i], d);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          sum[e] += d.v[0][0][e] + d.v[1][1][e];
          d.v[0][0][e] *= scale, d.v[1][1][e] *= scale;  // once here instead of on q and all of d_q and d_k
        }
        const auto store = [&]<bool kRotate>(const auto& matrix, const auto& rows_of, int first, int heads, int at) {
          mix_and_store<kHeadTiles, kRotate>(
              matrix, rows_of, angles, grads.d_qkv.data, d_pitch, row[i], first + at * whole,
              first + heads * whole + at * (width - whole), width, t);
        };
        std::uint32_t m[4], turned[4];
        logits_fragment<true>(m, prob[i]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {  // 128 bytes of a pixel
          const unsigned matrix = (tile * kFusedPixels + warp * 4 + i * 2 + half) * N + head;
          if (row[i][half] != kNoRow)
            reinterpret_cast<std::uint32_t*>(grads.prob)[std::size_t{matrix} * 32 + lane] = m[3 * half];
        }
        transpose_fragment<true>(turned, m);
        store.template operator()<false>(turned, d_o[i], grads.value_at, N, head);
        logits_fragment<true>(m, d);
        transpose_fragment<true>(turned, m);
        store.template operator()<true>(turned, q[i], 0, 2 * N, N + head);
        store.template operator()<true>(m, k[i], 0, 2 * N, head);
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
      dim3(static_cast<unsigned>(temporal_fused_partials(p.B, p.S, p.most_blocks))), dim3(kFusedThreads),
      static_cast<std::size_t>(FusedBwdShape<kSteps, kHeadTiles, kStages>::shared_bytes(static_cast<int>(p.N))), stream,
      p, g, static_cast<unsigned>(tiles), 1.0f / std::sqrt(static_cast<float>(p.D)));
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g) {
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
