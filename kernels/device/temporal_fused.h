// kernels/device/temporal_fused.h -- rows and products that the fused forward and backward pass of temporal_attention
// share
#pragma once

#include "kernels/attention_block.h"
#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"

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

}  // namespace avid::kernels::AVID_GPU
