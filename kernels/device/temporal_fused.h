// kernels/device/temporal_fused.h -- rows and products that the fused forward and backward pass of temporal_attention
// share
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/attention_block.h"
#include "kernels/device/gpu.h"
#include "kernels/device/temporal_fragments.h"
#include "kernels/temporal_attention_fused.h"

namespace avid::kernels::AVID_GPU {

constexpr int kFusedThreads = 128;
constexpr float kFusedLog2E = 1.4426950408889634f;

/// Row `tile_row` of a tile of kRows rows, 128 are 16 pixels x 8 frames, or 8 x 16: pixel tile_row / kFrames, frame
/// tile_row % kFrames; pixels are counted over all clips.
template <int kFrames, int kRows = kFusedRows>
struct FusedRow {
  std::int64_t row;
  bool valid;
  AVID_DEVICE FusedRow(std::int64_t B, std::int64_t frame_rows, unsigned tile, unsigned tile_row) {
    const unsigned pixel = tile * (kRows / kFrames) + tile_row / kFrames, S = static_cast<unsigned>(frame_rows),
                   clip = pixel / S;
    row = (std::int64_t{clip} * kFrames + tile_row % kFrames) * S + (pixel - clip * S);
    valid = clip < B;
  }
};

/// Channels that a head of a kernel for `head_tiles` has at least, and tiles of 8 (temporal_fused_kernel).
constexpr int fewest_channels(int head_tiles) { return static_cast<int>(kTemporalFusedUse * head_tiles * 8 + 0.999); }
constexpr int fewest_tiles(int head_tiles) { return (fewest_channels(head_tiles) + 7) / 8; }

constexpr int kAnglePitch = 24;  ///< pairs of a frame's row of the rotary table: 16, and 8 against bank conflicts

/// The rotary code of (frame, pair) in shared memory: the registers of the head's loop are all in use.
template <int kFrames>
AVID_DEVICE void fill_angles(float2* angles, const TemporalFusedArgs& p) {
  for (int e = threadIdx.x; e < kFrames * 16; e += kFusedThreads) {
    const float* angle = p.rotary + (e / 16 * p.num_pairs + e % 16) * 2;
    angles[e / 16 * kAnglePitch + e % 16] = make_float2(angle[0], angle[1]);
  }
}

/// h = normalised rows of a warp, kWarpRows of four times as many, into shared memory, kChunks chunks; kPitch elements
/// from a row to the next, kChunkPitch from a chunk to the next. A quad of lanes per row. A copy goes to h_out, mean
/// and 1 / deviation to moments, unless that is absent. Rows that do not exist become zero.
template <int kFrames, int kChunks, int kPitch, int kChunkPitch = 8, int kWarpRows = 32>
AVID_DEVICE void normalise_rows(
    bf16* rows, Rows<const bf16> x, const float* gamma, int C, std::int64_t B, std::int64_t S, unsigned tile,
    Rows<bf16> h_out, int warp, int g, int t, float2* moments = nullptr) {
  constexpr int kPerLane = (kChunks + 3) / 4;
  const int chunks = (C + 7) / 8;
  for (int pass = 0; pass < kWarpRows / 8; ++pass) {
    const int r = warp * kWarpRows + pass * 8 + g;
    const FusedRow<kFrames, 4 * kWarpRows> at(B, S, tile, r);
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
    if (moments != nullptr && t == 0) moments[r] = make_float2(mean, rstd);
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
      *reinterpret_cast<uint4*>(rows + r * kPitch + chunk * kChunkPitch) = make_uint4(h[0], h[1], h[2], h[3]);
      if (h_out && at.valid && chunk < chunks)
        *reinterpret_cast<uint4*>(h_out.row(at.row) + chunk * 8) = make_uint4(h[0], h[1], h[2], h[3]);
    }
  }
}

/// 16 rows in bf16: of tile j the lane's pair of row g, and of row g + 8. Two tiles are a left operand over 16
/// channels, one half of two tiles a right operand with the rows as columns.
template <int kTiles>
using RowTiles = std::uint32_t[kTiles][2];

/// From the pairs pair(j, half).
template <int kTiles, class Pair>
AVID_DEVICE void round_tiles(RowTiles<kTiles>& rows, Pair&& pair) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 v = pair(j, half);
      rows[j][half] = pack_bf16x2(v.x, v.y);
    }
  }
}

/// The lane's part of a head's bias, in units of log 2; `of_row`: of query g, from key 2t on.
template <int kFrames>
AVID_DEVICE TokenLogits bias_of_head(const float* of_row) {
  TokenLogits bias = {};
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    bias.v[0][0][e] = of_row[e] * kFusedLog2E;
    if (kFrames == 8) {
      bias.v[1][1][e] = bias.v[0][0][e];
    } else {
      bias.v[0][1][e] = of_row[8 + e] * kFusedLog2E;
      bias.v[1][0][e] = of_row[8 * kFrames + e] * kFusedLog2E;
      bias.v[1][1][e] = of_row[8 * kFrames + 8 + e] * kFusedLog2E;
    }
  }
  return bias;
}

constexpr int power_of_two_from(int n) { return n <= 1 ? 1 : 2 * power_of_two_from((n + 1) / 2); }

/// Rows of kTiles x 8 channels and heads of kHeadTiles x 8 channels in shared memory.
template <int kTiles, int kHeadTiles>
struct FusedTiles {
  static constexpr int kChunks = kTiles;
  static constexpr int kSteps = kTiles / 2;            ///< of 16 channels,
  static constexpr bool kHalf = kTiles % 2 == 1;       ///< and one of 8
  static constexpr int kRowPitch = (kChunks | 1) * 8;  ///< an odd number of chunks: ldmatrix meets no bank twice
  static constexpr int kHeadRows = (kHeadTiles * 8 + 15) / 16 * 16;  ///< rows of a slice of q or k weights
  static constexpr int kValueSlices = (kTiles + 7) / 8;              ///< slices of values, 64 rows each
  /// Tiles of 8 channels of a slice of values, and its rows: steps of 16 channels take two tiles, of 8 channels four.
  static constexpr int value_tiles(int slice) { return kTiles - slice * 8 < 8 ? kTiles - slice * 8 : 8; }
  static constexpr int value_rows(int slice) {
    return kHalf ? (value_tiles(slice) + 3) / 4 * 32 : (value_tiles(slice) + 1) / 2 * 16;
  }
  static constexpr int kSlice = (kHeadRows > value_rows(0) ? kHeadRows : value_rows(0)) * kRowPitch;
  static_assert(!kHalf || kHeadRows % 32 == 0, "a step of 8 takes 32 rows of weights at a time");
};

/// Calls f.operator()<kFrames, kTiles, kHeadTiles>() with the shape of the fused kernels that these sizes fill: tiles
/// of 8 channels of a row, and of a head. Throws std::invalid_argument, naming `op`, where there is none.
template <class F>
void with_fused_shape(const char* op, std::int64_t T, std::int64_t C, std::int64_t D, F&& f) {
  const auto with = [&]<int kKernel>() {
    constexpr int kTiles = static_cast<int>(kTemporalFusedShapes[kKernel].channels / 8);
    constexpr int kHeadTiles = fused_head_tiles(kKernel);
    T == 8 ? f.template operator()<8, kTiles, kHeadTiles>() : f.template operator()<16, kTiles, kHeadTiles>();
  };
  switch (temporal_fused_kernel(DType::bf16, T, C, D, 0)) {
    case 0: return with.template operator()<0>();
    case 1: return with.template operator()<1>();
    case 2: return with.template operator()<2>();
    case 3: return with.template operator()<3>();
  }
  throw std::invalid_argument(
      std::string(op) + ": no kernel for T = " + std::to_string(T) + ", C = " + std::to_string(C) +
      ", D = " + std::to_string(D));
}

constexpr int kFusedStages = 3;

/// kRows rows of kChunks chunks to shared memory, by copies that are begun here; kPitch elements from a row to the
/// next, kChunkPitch from a chunk to the next. Of these `rows` rows and of their chunks `chunks` exist, the others
/// become zero. A thread keeps to one column of chunks, so that its copies are a constant distance apart.
template <int kRows, int kChunks, int kPitch, int kChunkPitch = 8>
AVID_DEVICE void copy_weights(bf16* slice, const Rows<const bf16>& weights, const bf16* from, int rows, int chunks) {
  constexpr int kLanes = power_of_two_from(kChunks), kRowStep = kFusedThreads / kLanes;
  const int c = static_cast<int>(threadIdx.x) % kLanes, r = static_cast<int>(threadIdx.x) / kLanes;
  if (kChunks < kLanes && c >= kChunks) return;
  const unsigned pitch = static_cast<unsigned>(weights.pitch);
  const shared_address to = shared_address(slice) + (r * kPitch + c * kChunkPitch) * 2;
  from += std::size_t{static_cast<unsigned>(r)} * pitch + c * 8;
  const int left = c < chunks ? rows - r : 0;  // rows from this thread's first on
#pragma unroll
  for (int i = 0; i < (kRows + kRowStep - 1) / kRowStep; ++i) {
    if (kRows % kRowStep != 0 && r + i * kRowStep >= kRows) break;
    cp_async_16(to + i * kRowStep * kPitch * 2, from + std::size_t{pitch} * (i * kRowStep), i * kRowStep < left);
  }
}

/// The weights of a block's heads on their way through shared memory: Shape::kSlices slices of head 0, then of head 1,
/// ..., kFusedStages of them at a time, all in rows of Shape::kRowPitch: q and k, [head channel][channel]; values,
/// [channel][channel], 64 rows at a time; and q and k once more if Shape::kSlices says so.
template <class Shape>
struct WeightRing {
  bf16* slices;
  int used = 0, filled = 0;  ///< where the next slice lies, and goes

  /// Starts the first copies.
  AVID_DEVICE WeightRing(const TemporalFusedArgs& p, bf16* shared) : slices(shared) {
    load<0>(p, 0);
    load<1>(p, 0);
  }

  /// Slice kPart of `head`, for the whole block; the buffer that is free takes the slice that is two ahead.
  template <int kPart>
  AVID_DEVICE const bf16* next(const TemporalFusedArgs& p, int head) {
    cp_async_wait<kFusedStages - 2>();
    __syncthreads();
    constexpr int kAhead = kPart + kFusedStages - 1;
    load<kAhead % Shape::kSlices>(p, head + kAhead / Shape::kSlices);
    const bf16* slice = slices + used;
    used = after(used);
    return slice;
  }

 private:
  static constexpr int kBehindValues = 2 + Shape::kValueSlices;

  AVID_DEVICE static int after(int at) { return at == (kFusedStages - 1) * Shape::kSlice ? 0 : at + Shape::kSlice; }

  /// Behind the last head only an empty group is committed.
  template <int kPart>
  AVID_DEVICE void load(const TemporalFusedArgs& p, int head) {
    if (head < p.N) {
      const int C = static_cast<int>(p.C);
      if constexpr (kPart < 2 || kPart >= kBehindValues) {
        constexpr int kOfQ = kPart < 2 ? kPart : kPart - kBehindValues;
        const int pitch = static_cast<int>(p.head_pitch), first = (kOfQ * static_cast<int>(p.N) + head) * pitch;
        copy<Shape::kHeadRows>(p.w_qkv, p.w_qkv.row(first), pitch, (C + 7) / 8);
      } else {
        constexpr int kFirst = (kPart - 2) * 64;
        copy<Shape::value_rows(kPart - 2)>(p.values, p.values.row(head * C + kFirst), C - kFirst, (C + 7) / 8);
      }
    }
    cp_async_commit();
    filled = after(filled);
  }

  template <int kRows>
  AVID_DEVICE void copy(const Rows<const bf16>& weights, const bf16* from, int rows, int chunks) {
    copy_weights<kRows, Shape::kChunks, Shape::kRowPitch>(slices + filled, weights, from, rows, chunks);
  }
};

/// Two rows blocks of 16 (i) by 8 tiles of 8 channels (j).
using HeadAccumulators = float[2][8][4];

/// acc = 32 rows times kHeadTiles x 8 rows of weights. `left`, `right`: what the lane addresses in ldmatrix of either
/// in a step of 16 channels; left_half, right_half: in one of 8.
template <class Shape, int kHeadTiles>
AVID_DEVICE void project_rows(
    HeadAccumulators& acc, shared_address left, shared_address right, shared_address left_half,
    shared_address right_half) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0;
#pragma unroll(Shape::kUnrolled)
  for (int s = 0; s < Shape::kSteps; ++s) {
    std::uint32_t a[2][4];
    ldmatrix_x4(a[0], left + s * 32);
    ldmatrix_x4(a[1], left + (16 * Shape::kRowPitch + s * 16) * 2);
#pragma unroll
    for (int j = 0; j < kHeadTiles; j += 2) {
      std::uint32_t b[4];
      ldmatrix_x4(b, right + (j * 8 * Shape::kRowPitch + s * 16) * 2);
      const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        mma_bf16_16x8x16(acc[i][j], a[i], b0, acc[i][j]);
        if (j + 1 < kHeadTiles) mma_bf16_16x8x16(acc[i][j + 1], a[i], b1, acc[i][j + 1]);
      }
    }
  }
  if constexpr (Shape::kHalf) {
    std::uint32_t a[4];
    ldmatrix_x4(a, left_half + Shape::kSteps * 32);
    const std::uint32_t rows[2][2] = {{a[0], a[1]}, {a[2], a[3]}};
#pragma unroll
    for (int j = 0; j < kHeadTiles; j += 4) {
      std::uint32_t b[4];
      const shared_address column_of_weights = right_half + (j * 8 * Shape::kRowPitch + Shape::kSteps * 16) * 2;
      if constexpr (kHeadTiles > 2) {
        ldmatrix_x4(b, column_of_weights);
      } else {
        std::uint32_t few[2];  // these may be the last rows of a slice
        ldmatrix_x2(few, column_of_weights);
        b[0] = few[0], b[1] = few[1];
      }
#pragma unroll
      for (int n = 0; n < 4 && j + n < kHeadTiles; ++n) {
        const std::uint32_t column[1] = {b[n]};
#pragma unroll
        for (int i = 0; i < 2; ++i) mma_bf16_16x8x8(acc[i][j + n], rows[i], column, acc[i][j + n]);
      }
    }
  }
}

}  // namespace avid::kernels::AVID_GPU
