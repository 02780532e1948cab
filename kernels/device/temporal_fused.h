// kernels/device/temporal_fused.h -- rows and products that the fused forward and backward pass of temporal_attention
// share
#pragma once

#include "kernels/attention_block.h"
#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels::AVID_GPU {

constexpr int kFusedFrames = 8, kFusedPixels = 16, kFusedRows = kFusedFrames * kFusedPixels, kFusedThreads = 128;
constexpr float kFusedLog2E = 1.4426950408889634f;

/// Row `tile_row` of a tile of 16 pixels x 8 frames: pixel tile_row / 8, frame tile_row % 8; pixels are counted over
/// all clips.
struct FusedRow {
  std::int64_t row;
  bool valid;
  AVID_DEVICE FusedRow(std::int64_t B, std::int64_t frame_rows, unsigned tile, int tile_row) {
    const unsigned pixel = tile * kFusedPixels + tile_row / kFusedFrames, S = static_cast<unsigned>(frame_rows),
                   clip = pixel / S;
    row = (std::int64_t{clip} * kFusedFrames + tile_row % kFusedFrames) * S + (pixel - clip * S);
    valid = clip < B;
  }
};

/// h = normalised rows of a warp into shared memory, kChunks chunks in rows of kPitch elements; a quad of lanes per
/// row. A copy goes to h_out unless that is absent. Rows that do not exist become zero.
template <int kChunks, int kPitch>
AVID_DEVICE void normalise_rows(
    bf16* rows, Rows<const bf16> x, const float* gamma, int C, std::int64_t B, std::int64_t S, unsigned tile,
    Rows<bf16> h_out, int warp, int g, int t) {
  constexpr int kPerLane = (kChunks + 3) / 4;
  const int chunks = (C + 7) / 8;
  for (int pass = 0; pass < 4; ++pass) {
    const int r = warp * 32 + pass * 8 + g;
    const FusedRow at(B, S, tile, r);
    const bf16* from = x.row(at.row);
    std::uint32_t v[kPerLane][4];
    float sum = 0, squares = 0;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int c = j * 4 + t;
      const uint4 chunk =
          at.valid && c < chunks ? *reinterpret_cast<const uint4*>(from + c * 8) : make_uint4(0, 0, 0, 0);
      v[j][0] = chunk.x, v[j][1] = chunk.y, v[j][2] = chunk.z, v[j][3] = chunk.w;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 pair = unpack_bf16x2(v[j][k]);  // the gap behind a row is zero
        sum += pair.x + pair.y;
      }
    }
    const float mean = quad_sum(sum) / C;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int c = (j * 4 + t) * 8 + 2 * k;
        const float2 pair = unpack_bf16x2(v[j][k]);
        if (c < C) squares = fmaf(pair.x - mean, pair.x - mean, squares);
        if (c + 1 < C) squares = fmaf(pair.y - mean, pair.y - mean, squares);
      }
    }
    const float rstd = rsqrtf(quad_sum(squares) / C + static_cast<float>(kPrenormEps));
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int chunk = j * 4 + t;
      if (chunk >= kChunks) continue;
      std::uint32_t h[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int c = chunk * 8 + 2 * k;
        const float2 pair = unpack_bf16x2(v[j][k]);
        const float first = c < C ? (pair.x - mean) * rstd * gamma[c] : 0.0f;
        const float second = c + 1 < C ? (pair.y - mean) * rstd * gamma[c + 1] : 0.0f;
        h[k] = pack_bf16x2(first, second);
      }
      *reinterpret_cast<uint4*>(rows + r * kPitch + chunk * 8) = make_uint4(h[0], h[1], h[2], h[3]);
      if (h_out && at.valid && chunk < chunks)
        *reinterpret_cast<uint4*>(h_out.row(at.row) + chunk * 8) = make_uint4(h[0], h[1], h[2], h[3]);
    }
  }
}

/// Starts copying slice `index` of the weights: q, k, v and output of head 0, then of head 1, ... Behind the last one
/// only an empty group is committed. `slices` is a ring of kStages slices.
template <class Shape, int kStages>
AVID_DEVICE void load_weight_slice(const TemporalFusedArgs& p, bf16* slices, int index) {
  const int head = index / 4, part = index % 4, chunks = static_cast<int>((p.C + 7) / 8);
  bf16* to = slices + index % kStages * Shape::kSlice;
  if (head < p.N && part < 3) {
    const bf16* from = p.w_qkv.row((part * p.N + head) * p.head_pitch);
    for (int e = threadIdx.x; e < Shape::kHeadRows * Shape::kChunks; e += kFusedThreads) {
      const int r = e / Shape::kChunks, c = e % Shape::kChunks;
      const bool valid = r < p.head_pitch && c < chunks;
      cp_async_16(to + r * Shape::kRowPitch + c * 8, valid ? from + r * p.w_qkv.pitch + c * 8 : from, valid);
    }
  } else if (head < p.N) {
    const bf16* from = p.w_out.data + head * p.head_pitch;
    for (int e = threadIdx.x; e < Shape::kOutRows * 8; e += kFusedThreads) {
      const int r = e / 8, c = e % 8;
      const bool valid = r < p.C && c * 8 < p.head_pitch;
      cp_async_16(to + r * Shape::kOutPitch + c * 8, valid ? from + r * p.w_out.pitch + c * 8 : from, valid);
    }
  }
  cp_async_commit();
}

}  // namespace avid::kernels::AVID_GPU
