// kernels/temporal_attention_value_grad.cu -- gradients of the weights that values pass, in temporal attention
// (contract: its header)
//
// Math       per head, [C,C]:   sum = (P h)^T d_y    d_w_o = sum^T w_v^T    d_w_v^T = sum w_o
//            Neither o nor the gradient of v is read for it: P of a pixel is 8 x 8 or 16 x 16.
// Parallel   sums: a block has two heads and walks over tiles of 8 pixels x 8 frames or 4 x 16, every gridDim.y-th; a
//            warp has 32 channels of h of a head and all of d_y. (P h)^T of 32 channels by 16 rows is two products per
//            16 channels (P of the two pixels, m16n8k8; or 8 queries each of one pixel's, m16n8k16); its C fragment is
//            the A fragment of the product with d_y. Then one thread per element of w_v.
// Traffic    h, d_y and P once per pair of heads (from L2 but for the first), copied a tile ahead of time; C x C sums
//            of each head per block and chunk of clips, read and written
// Numerics   P h is rounded to bf16, sums in f32: a chunk's in the accumulator, chunks and blocks added in order
// Limits     as the fused backward pass
// Compiled   nvcc 13, sm_80 (sm_90), no spills: 168 registers up to 96 channels, two blocks of 6 warps on an SM; 196
//            (192) up to 104; 2.7 and 2.6 (2.7) instructions per product for 8 frames, as many for 16, whose P is
//            copied in a loop of its own. Before that loop had a known end, 4.7 (4.8) and 4.5 (4.7)
// Measured   never run on a GPU yet
// Predicted  an update of AVID 71M with 64 clips: 5.9 ms on an A100, 3.3 ms on an H200
// Open       on an H200 it is bound by mma.sync; P h in shared memory would let wgmma multiply it
// Oracle     kernels/temporal_attention_cpu.cpp in f64, compared in tests/sim/temporal_attention_test.cpp
#include "kernels/temporal_attention_value_grad.h"

#include "kernels/device/gpu.h"
#include "kernels/device/row_lanes.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels {
namespace AVID_GPU {

template <int kFrames, int kTiles>
struct ValueGradShape {
  static constexpr int kHeads = kValueGradHeads, kRows = 64, kPixels = kRows / kFrames;
  static constexpr int kGroups = kRows / 8;            ///< of 8 frames of a pixel
  static constexpr int kLogits = kFrames * kFrames;    ///< of a pixel and head
  static constexpr int kHeadWarps = (kTiles + 3) / 4;  ///< of 32 channels of h each
  static constexpr int kThreads = kHeads * kHeadWarps * 32;
  static constexpr int kHChunks = kHeadWarps * 4;
  static constexpr int kHPitch = (kHChunks | 1) * 8, kDyPitch = (kTiles | 1) * 8;  ///< ldmatrix meets no bank twice
  static constexpr int kHRows = kRows * kHPitch, kDyRows = kRows * kDyPitch, kProb = kPixels * kHeads * kLogits;
  static constexpr int kProbCopies = (kProb / 8 + kThreads - 1) / kThreads;  ///< of 16 bytes of P per thread
  static constexpr int kStage = kHRows + kDyRows + kProb;
  static_assert(kGroups * (kHChunks + kTiles) <= kThreads, "a thread copies one column of chunks of a group");
};

/// Begins the copies of a tile: h and d_y as [pixel][frame][channel], then P of [pixel][head]. What does not exist
/// becomes zero.
template <class Shape, int kFrames, int kTiles>
AVID_DEVICE void copy_value_tile(const TemporalValueGradArgs& p, unsigned tile, int first_head, bf16* stage) {
  const int N = static_cast<int>(p.N), chunks = static_cast<int>((p.C + 7) / 8);
  constexpr int kColumns = Shape::kHChunks + kTiles;
  if (static_cast<int>(threadIdx.x) < Shape::kGroups * kColumns) {
    const int group = static_cast<int>(threadIdx.x) / kColumns, column = static_cast<int>(threadIdx.x) % kColumns;
    const bool of_h = column < Shape::kHChunks;
    const int chunk = of_h ? column : column - Shape::kHChunks, pitch = of_h ? Shape::kHPitch : Shape::kDyPitch;
    const bf16* const data = of_h ? p.h.data : p.d_y.data;
    const std::int64_t from_pitch = of_h ? p.h.pitch : p.d_y.pitch;
    const FusedRow<kFrames> at(p.B, p.S, tile / 2, (tile % 2 * Shape::kGroups + group) * 8);
    const bool exists = at.valid && chunk < chunks;
    const bf16* const from = exists ? data + at.row * from_pitch + chunk * 8 : data;
    const std::int64_t frame = p.S * from_pitch;
    const shared_address to(stage + (of_h ? 0 : Shape::kHRows) + group * 8 * pitch + chunk * 8);
#pragma unroll
    for (int f = 0; f < 8; ++f) cp_async_16(to + f * pitch * 2, from + f * frame, exists);
  }
#pragma unroll(kFrames == 8 ? Shape::kProbCopies : 1)  // of 16 frames they would spill
  for (int copy = 0; copy < Shape::kProbCopies; ++copy) {
    const int e = copy * Shape::kThreads + static_cast<int>(threadIdx.x);
    if (e >= Shape::kProb / 8) break;
    constexpr int kChunks = Shape::kLogits / 8;  // of a matrix
    const std::int64_t pixel = std::int64_t{tile} * Shape::kPixels + e / (kChunks * Shape::kHeads);
    const int head = first_head + e / kChunks % Shape::kHeads;
    const bool exists = pixel < p.B * p.S && head < N;
    cp_async_16(
        stage + Shape::kHRows + Shape::kDyRows + e * 8,
        exists ? p.prob + (pixel * N + head) * Shape::kLogits + e % kChunks * 8 : p.prob, exists);
  }
  cp_async_commit();
}

template <int kFrames, int kTiles>
__global__ void __launch_bounds__(ValueGradShape<kFrames, kTiles>::kThreads, kTiles < 13 ? 2 : 1)
    temporal_value_sums_kernel(TemporalValueGradArgs p, unsigned num_tiles) {
  using Shape = ValueGradShape<kFrames, kTiles>;
  SharedArena arena;
  bf16* const stages = arena.take<bf16>(2 * Shape::kStage, "h, d_y and P");
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int of_block = warp / Shape::kHeadWarps, channel = warp % Shape::kHeadWarps * 32;
  const int first_head = static_cast<int>(blockIdx.x) * Shape::kHeads, head = first_head + of_block;
  // What the lane addresses in ldmatrix of 16 rows, both transposed: two chunks of h's channels of the first 8 rows,
  // then of the others; a chunk of d_y's channels of all, then the next chunk.
  const std::uint32_t h_lane = ((lane / 16 * 8 + lane % 8) * Shape::kHPitch + lane / 8 % 2 * 8 + channel) * 2;
  const std::uint32_t d_y_lane = (Shape::kHRows + lane % 16 * Shape::kDyPitch + lane / 16 * 8) * 2;
  float acc[2][kTiles][4] = {};
  bf16* stage = stages;
  unsigned tile = blockIdx.y;
  if (tile < num_tiles) copy_value_tile<Shape, kFrames, kTiles>(p, tile, first_head, stage);
  for (; tile < num_tiles; tile += gridDim.y) {
    bf16* const next = stage == stages ? stages + Shape::kStage : stages;
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and everybody is done with the last one
    if (tile + gridDim.y < num_tiles) copy_value_tile<Shape, kFrames, kTiles>(p, tile + gridDim.y, first_head, next);
    const shared_address h = shared_address(stage) + h_lane, d_y = shared_address(stage) + d_y_lane;
    const auto* prob =
        reinterpret_cast<const std::uint32_t*>(stage + Shape::kHRows + Shape::kDyRows + of_block * Shape::kLogits);
#pragma unroll
    for (int block = 0; block < Shape::kRows / 16; ++block) {
      std::uint32_t mixed[2][4];  // (P h)^T
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        std::uint32_t a[4];
        ldmatrix_x4_trans(a, h + (block * 16 * Shape::kHPitch + i * 16) * 2);
#pragma unroll
        for (int queries = 0; queries < 2; ++queries) {
          float c[4] = {};
          if constexpr (kFrames == 8) {  // those of a pixel
            const std::uint32_t left[2] = {a[2 * queries], a[2 * queries + 1]};
            const std::uint32_t right[1] = {prob[(2 * block + queries) * Shape::kHeads * 32 + lane]};
            mma_bf16_16x8x8(c, left, right, c);
          } else {
            const uint2 of_queries =
                reinterpret_cast<const uint2*>(prob)[(block * Shape::kHeads * 2 + queries) * 32 + lane];
            const std::uint32_t right[2] = {of_queries.x, of_queries.y};
            mma_bf16_16x8x16(c, a, right, c);
          }
          mixed[i][2 * queries] = pack_bf16x2(c[0], c[1]), mixed[i][2 * queries + 1] = pack_bf16x2(c[2], c[3]);
        }
      }
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        std::uint32_t b[4] = {};
        if (j + 1 < kTiles) {
          ldmatrix_x4_trans(b, d_y + (block * 16 * Shape::kDyPitch + j * 8) * 2);
        } else {
          std::uint32_t single[2];
          ldmatrix_x2_trans(single, d_y + (block * 16 * Shape::kDyPitch + j * 8) * 2);
          b[0] = single[0], b[1] = single[1];
        }
        const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma_bf16_16x8x16(acc[i][j], mixed[i], b0, acc[i][j]);
          if (j + 1 < kTiles) mma_bf16_16x8x16(acc[i][j + 1], mixed[i], b1, acc[i][j + 1]);
        }
      }
    }
    stage = next;
  }
  if (head >= p.N) return;
  const int C = static_cast<int>(p.C), pitch = (C + 7) / 8 * 8;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = channel + i * 16 + half * 8 + g;
      if (row >= C) continue;
      float* const to = p.sums + ((std::int64_t{blockIdx.y} * p.N + head) * C + row) * pitch + 2 * t;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        if (j * 8 >= pitch) break;
        const float2 past = p.first ? make_float2(0, 0) : *reinterpret_cast<const float2*>(to + j * 8);
        *reinterpret_cast<float2*>(to + j * 8) =
            make_float2(past.x + acc[i][j][2 * half], past.y + acc[i][j][2 * half + 1]);
      }
    }
  }
}

/// d_w_v [N*D,C] and d_w_o [C,N*D], either of which may be absent, from the sums [N][C][pitch]; one thread per element
/// of w_v.
__global__ void temporal_value_weights_kernel(
    const float* sums, int C, int N, int D, Rows<const bf16> w_v, Rows<const bf16> w_o, Rows<float> d_w_v,
    Rows<float> d_w_o) {
  const int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= N * D * C) return;
  const int row = e / C, c = e - row * C, pitch = (C + 7) / 8 * 8;
  const float* const sum = sums + std::int64_t{row / D} * C * pitch;
  float v = 0, o = 0;
  for (int k = 0; k < C; ++k) {
    v = fmaf(sum[c * pitch + k], to_float(w_o.row(k)[row]), v);
    o = fmaf(sum[k * pitch + c], to_float(w_v.row(row)[k]), o);
  }
  if (d_w_v) d_w_v.row(row)[c] = v;
  if (d_w_o) d_w_o.row(c)[row] = o;
}

template <int kFrames, int kTiles>
void launch_value_sums(const Stream& stream, const TemporalValueGradArgs& p) {
  using Shape = ValueGradShape<kFrames, kTiles>;
  launch(
      temporal_value_sums_kernel<kFrames, kTiles>,
      dim3(static_cast<unsigned>((p.N + Shape::kHeads - 1) / Shape::kHeads), static_cast<unsigned>(p.splits)),
      dim3(Shape::kThreads), 2 * Shape::kStage * sizeof(bf16), stream, p,
      static_cast<unsigned>((p.B * p.S + Shape::kPixels - 1) / Shape::kPixels));
}

}  // namespace AVID_GPU

template <class Backend>
void temporal_value_sums(const Stream& stream, const TemporalValueGradArgs& p) {
  AVID_GPU::with_fused_shape("temporal_value_sums", p.T, p.C, p.D, [&]<int kFrames, int kTiles, int kHeadTiles>() {
    AVID_GPU::launch_value_sums<kFrames, kTiles>(stream, p);
  });
}

template <class Backend>
void temporal_value_weight_grads(
    const Stream& stream, const TemporalValueGradArgs& p, Rows<const BFloat16> w_v, Rows<const BFloat16> w_o,
    float* total, Rows<float> d_w_v, Rows<float> d_w_o) {
  const std::int64_t of_block = p.N * p.C * ((p.C + 7) / 8 * 8), elements = p.N * p.D * p.C;
  AVID_GPU::sum_rows(stream, p.sums, p.splits, of_block, of_block, total);
  AVID_GPU::launch(
      AVID_GPU::temporal_value_weights_kernel, dim3(static_cast<unsigned>((elements + 127) / 128)), dim3(128), 0,
      stream, total, static_cast<int>(p.C), static_cast<int>(p.N), static_cast<int>(p.D), w_v, w_o, d_w_v, d_w_o);
}

template void temporal_value_sums<Gpu>(const Stream&, const TemporalValueGradArgs&);
template void temporal_value_weight_grads<Gpu>(
    const Stream&, const TemporalValueGradArgs&, Rows<const BFloat16>, Rows<const BFloat16>, float*, Rows<float>,
    Rows<float>);

}  // namespace avid::kernels
