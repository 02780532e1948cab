// kernels/device/temporal_value_sums.h -- what the two kernels that sum (P h)^T d_y share: tiles in shared memory, P h
// in registers, and the store
//
// They differ in how P h is multiplied with d_y: temporal_attention_value_grad.cu on mma.sync,
// temporal_attention_value_grad_wgmma.cu on wgmma. A tile is 64 rows, 8 pixels x 8 frames or 4 x 16: their chunks (of 8
// channels) of h and then of d_y, row by row, or in planes of one chunk, as wgmma wants them; then P of the block's
// heads.
#pragma once

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fused.h"
#include "kernels/temporal_attention_value_grad.h"

namespace avid::kernels::AVID_GPU {

template <int kNumFrames, int kNumTiles, bool kInPlanes>
struct ValueTile {
  static constexpr int kFrames = kNumFrames, kTiles = kNumTiles;
  static constexpr int kHeads = kValueGradHeads, kRows = 64, kPixels = kRows / kFrames;
  static constexpr int kLogits = kFrames * kFrames;      ///< of a pixel and head
  static constexpr int kHChunks = (kTiles + 3) / 4 * 4;  ///< of h: whole groups of 32 channels
  static constexpr int kChunks = kHChunks + kTiles;      ///< and of d_y
  /// Bytes from a chunk to the next one and from a row to the next: eight lanes copy eight chunks of a row, ldmatrix
  /// reads eight rows of a chunk, and neither meets a bank twice.
  static constexpr int kToChunk = kInPlanes ? kRows * 16 + 16 : 16, kToRow = kInPlanes ? 16 : (kChunks | 1) * 16;
  static constexpr int kFirstProb = (kInPlanes ? kChunks * kToChunk : kRows * kToRow) / 2;  ///< elements before P
  static constexpr int kProb = kPixels * kHeads * kLogits;
  static constexpr int kStage = kFirstProb + kProb;  ///< elements of a tile
};

/// Begins the copies of a tile into `stage` by the kThreads threads of the block: the first ones take 8 rows of a chunk
/// each, the last ones P. What does not exist becomes zero.
template <class Tile, int kThreads>
AVID_DEVICE void copy_value_tile(const TemporalValueGradArgs& p, unsigned tile, int first_head, bf16* stage) {
  const int N = static_cast<int>(p.N), chunks = static_cast<int>((p.C + 7) / 8);
  constexpr int kCopiers = Tile::kRows / 8 * Tile::kChunks;
  static_assert(kCopiers <= kThreads);
  if (static_cast<int>(threadIdx.x) < kCopiers) {
    const int first = static_cast<int>(threadIdx.x) / Tile::kChunks * 8;
    const int chunk_of_row = static_cast<int>(threadIdx.x) % Tile::kChunks;
    const bool of_h = chunk_of_row < Tile::kHChunks;
    const int chunk = of_h ? chunk_of_row : chunk_of_row - Tile::kHChunks;
    const bf16* const data = of_h ? p.h.data : p.d_y.data;
    const std::int64_t pitch = of_h ? p.h.pitch : p.d_y.pitch;
    const FusedRow<Tile::kFrames, Tile::kRows> at(p.B, p.S, tile, first);
    const bool exists = at.valid && chunk < chunks;
    const bf16* const from = exists ? data + at.row * pitch + chunk * 8 : data;
    const std::int64_t frame = p.S * pitch;
    const shared_address to = shared_address(stage) + chunk_of_row * Tile::kToChunk + first * Tile::kToRow;
#pragma unroll
    for (int f = 0; f < 8; ++f) cp_async_16(to + f * Tile::kToRow, from + f * frame, exists);
  }
  constexpr int kProbCopies = (Tile::kProb / 8 + kThreads - 1) / kThreads;  // of 16 bytes of P per thread
#pragma unroll(Tile::kFrames == 8 ? kProbCopies : 1)                        // of 16 frames they would spill
  for (int copy = 1; copy <= kProbCopies; ++copy) {
    const int e = copy * kThreads - 1 - static_cast<int>(threadIdx.x);
    if (e >= Tile::kProb / 8) break;
    constexpr int kChunks = Tile::kLogits / 8;  // of a matrix
    const unsigned pixel = tile * Tile::kPixels + e / (kChunks * Tile::kHeads);
    const int head = first_head + e / kChunks % Tile::kHeads;
    const bool exists = pixel < p.B * p.S && head < N;
    cp_async_16(
        stage + Tile::kFirstProb + e * 8,
        exists ? p.prob + (std::int64_t{pixel} * N + head) * Tile::kLogits + e % kChunks * 8 : p.prob, exists);
  }
}

/// Where the lane's part of the tile's P begins, of the block's head `of_block`.
template <class Tile>
AVID_DEVICE const std::uint32_t* own_probabilities(const bf16* stage, int of_block) {
  return reinterpret_cast<const std::uint32_t*>(stage + Tile::kFirstProb + of_block * Tile::kLogits) +
         threadIdx.x % 32 * (Tile::kFrames == 8 ? 1 : 2);
}

/// What the lane addresses in ldmatrix, transposed, of 16 rows and two chunks, the first of them `chunk`: both of the
/// first 8 rows, then both of the others. Bytes from the beginning of the tile.
template <class Tile>
AVID_DEVICE std::uint32_t own_values(int chunk) {
  const int lane = threadIdx.x % 32;
  return (lane / 8 % 2 + chunk) * Tile::kToChunk + (lane / 16 * 8 + lane % 8) * Tile::kToRow;
}

/// (P h)^T of 16 channels and of rows 16 block .. 16 block + 15 of the tile, as a left operand over these rows: its
/// product, P h's C fragment, lies just so. `h`: own_values of the channels; prob: own_probabilities.
template <class Tile>
AVID_DEVICE void mix_values(std::uint32_t (&mixed)[4], shared_address h, const std::uint32_t* prob, int block) {
  std::uint32_t a[4];
  ldmatrix_x4_trans(a, h + block * 16 * Tile::kToRow);
#pragma unroll
  for (int queries = 0; queries < 2; ++queries) {
    float c[4] = {};
    if constexpr (Tile::kFrames == 8) {  // those of a pixel
      const std::uint32_t left[2] = {a[2 * queries], a[2 * queries + 1]};
      const std::uint32_t right[1] = {prob[(2 * block + queries) * Tile::kHeads * 32]};
      mma_bf16_16x8x8(c, left, right, c);
    } else {
      const uint2 of_queries = *reinterpret_cast<const uint2*>(prob + (block * Tile::kHeads * 2 + queries) * 64);
      const std::uint32_t right[2] = {of_queries.x, of_queries.y};
      mma_bf16_16x8x16(c, a, right, c);
    }
    mixed[2 * queries] = pack_bf16x2(c[0], c[1]), mixed[2 * queries + 1] = pack_bf16x2(c[2], c[3]);
  }
}

/// Stores the sums of 16 channels of h of a head, from `first` on, or adds them to what is there. pair(j, half): the
/// lane's sums of channels 8 j + 2 t, 8 j + 2 t + 1 of d_y in row g + 8 half.
template <class Tile, class Pair>
AVID_DEVICE void store_value_sums(const TemporalValueGradArgs& p, int head, int first, Pair&& pair) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int C = static_cast<int>(p.C), pitch = (C + 7) / 8 * 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + half * 8 + g;
    if (row >= C) continue;
    float* const to = p.sums + ((std::int64_t{blockIdx.y} * p.N + head) * C + row) * pitch + 2 * t;
#pragma unroll
    for (int j = 0; j < Tile::kTiles; ++j) {
      if (j * 8 >= pitch) break;
      const float2 past = p.first ? make_float2(0, 0) : *reinterpret_cast<const float2*>(to + j * 8);
      const float2 sum = pair(j, half);
      *reinterpret_cast<float2*>(to + j * 8) = make_float2(past.x + sum.x, past.y + sum.y);
    }
  }
}

/// Launches one of the kernels, whose blocks are Shape::kThreads threads with Shape::kStages tiles.
template <class Shape, class Kernel>
void launch_value_sums(Kernel kernel, const Stream& stream, const TemporalValueGradArgs& p) {
  launch(
      kernel, dim3(static_cast<unsigned>((p.N + Shape::kHeads - 1) / Shape::kHeads), static_cast<unsigned>(p.splits)),
      dim3(Shape::kThreads), Shape::kStages * Shape::kStage * sizeof(bf16), stream, p,
      static_cast<unsigned>((p.B * p.S + Shape::kPixels - 1) / Shape::kPixels));
}

}  // namespace avid::kernels::AVID_GPU
