// kernels/device/temporal_fused_fwd.h -- what the fused forward kernels of temporal attention do with 16 rows of a head
//
// The kernels differ in how rows are projected: temporal_attention_fused.cu, temporal_attention_fused_wgmma.cu. Either
// way a warp gets blocks of 16 rows as C fragments, tiles j of 8 channels, in pairs: of row g (half 0) and g + 8 (half
// 1) channels 8j + 2t and 8j + 2t + 1. 16 rows are two pixels of 8 frames (kPair), or one of 16.
#pragma once

#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"
#include "kernels/device/temporal_fused.h"

namespace avid::kernels::AVID_GPU {

/// The rotary code of frames, 16 pairs of channels: in registers for 8 frames, in shared memory for 16.
template <int kFrames>
class RotaryCode {
 public:
  static constexpr int kSharedBytes = kFrames == 8 ? 0 : kFrames * kAnglePitch * 8;

  /// The block's first barrier must come between this and the first use.
  AVID_DEVICE RotaryCode(SharedArena& arena, const TemporalFusedArgs& p, int g, int t)
      : shared_(arena.take<float2>(kSharedBytes / 8, "angles")), g_(g), t_(t) {
    if constexpr (kFrames == 8) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* angle = p.rotary + (g * p.num_pairs + j * 4 + t) * 2;
        turns_[j] = make_float2(angle[0], angle[1]);
      }
    } else {
      fill_angles<kFrames>(shared_, p);
    }
  }

  /// The pair of tile j, row half, turned: in channels 0 .. 31 lane t holds pair 4j + t.
  AVID_DEVICE float2 turned(int j, int half, float2 v) const {
    if (j >= 4) return v;
    const float2 turn = kFrames == 8 ? turns_[j] : shared_[(half * 8 + g_) * kAnglePitch + j * 4 + t_];
    return make_float2(v.x * turn.x - v.y * turn.y, v.y * turn.x + v.x * turn.y);
  }

 private:
  float2 turns_[4];
  float2* shared_;
  int g_, t_;
};

/// prob = softmax of factor q k^T + bias over the keys of a pixel, as a left operand; zero where pixels differ.
template <bool kPair, int kTiles>
AVID_DEVICE void attend(
    std::uint32_t (&prob)[4], const RowTiles<kTiles>& q, const RowTiles<kTiles>& k, const TokenLogits& bias,
    float factor) {
  float first[4] = {}, second[4] = {};  // logits with the keys of the first and last 8 rows
#pragma unroll
  for (int j = 0; j + 1 < kTiles; j += 2) {
    const std::uint32_t a[4] = {q[j][0], q[j][1], q[j + 1][0], q[j + 1][1]}, b0[2] = {k[j][0], k[j + 1][0]},
                        b1[2] = {k[j][1], k[j + 1][1]};
    mma_bf16_16x8x16(first, a, b0, first);
    mma_bf16_16x8x16(second, a, b1, second);
  }
  if constexpr (kTiles % 2 == 1) {
    const std::uint32_t a[2] = {q[kTiles - 1][0], q[kTiles - 1][1]}, b0[1] = {k[kTiles - 1][0]},
                        b1[1] = {k[kTiles - 1][1]};
    mma_bf16_16x8x8(first, a, b0, first);
    mma_bf16_16x8x8(second, a, b1, second);
  }
  TokenLogits s = {};
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    s.v[0][0][e] = first[e], s.v[1][1][e] = second[2 + e];
    if (!kPair) s.v[1][0][e] = first[2 + e], s.v[0][1][e] = second[e];
  }
  softmax_tokens<kPair, true>(s, bias, factor);
  logits_fragment<kPair>(prob, s);
}

/// y += P u, of kTiles tiles of channels.
template <int kTiles>
AVID_DEVICE void add_values(float (*y)[4], const std::uint32_t (&prob)[4], const RowTiles<kTiles>& u) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const std::uint32_t tokens[2] = {movmatrix(u[j][0]), movmatrix(u[j][1])};
    mma_bf16_16x8x16(y[j], prob, tokens, y[j]);
  }
}

/// y + x of a warp's 32 rows leave in whole chunks, through `stage`: 32 rows of kPitch elements in shared memory that
/// are the warp's alone. Row r of them is row tile_row(r) of the block's tile. Gaps are zero in a row of NaN, too.
template <int kFrames, int kTiles, int kPitch, class TileRow>
AVID_DEVICE void store_rows(
    const TemporalFusedArgs& p, const float (&y)[2][kTiles][4], bf16* stage, int lane, TileRow&& tile_row) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<std::uint32_t*>(stage + (i * 16 + half * 8 + g) * kPitch + j * 8 + 2 * t) =
            pack_bf16x2(y[i][j][2 * half], y[i][j][2 * half + 1]);
    }
  }
  __syncwarp();
  const int C = static_cast<int>(p.C), chunks = (C + 7) / 8;
  for (int e = lane; e < 32 * chunks; e += 32) {
    const int r = e / chunks, c = e - r * chunks;
    const FusedRow<kFrames> at(p.B, p.S, blockIdx.x, tile_row(r));
    if (!at.valid) continue;
    const uint4 a = *reinterpret_cast<const uint4*>(stage + r * kPitch + c * 8);
    const uint4 b = *reinterpret_cast<const uint4*>(p.x.row(at.row) + c * 8);
    const auto sum = [&](int pair, std::uint32_t u, std::uint32_t w) {
      const float2 x = unpack_bf16x2(u), z = unpack_bf16x2(w);
      const int first = c * 8 + 2 * pair;
      return pack_bf16x2(first < C ? x.x + z.x : 0.0f, first + 1 < C ? x.y + z.y : 0.0f);
    };
    *reinterpret_cast<uint4*>(p.y.row(at.row) + c * 8) =
        make_uint4(sum(0, a.x, b.x), sum(1, a.y, b.y), sum(2, a.z, b.z), sum(3, a.w, b.w));
  }
}

}  // namespace avid::kernels::AVID_GPU
