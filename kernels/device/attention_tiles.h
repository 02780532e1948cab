// kernels/device/attention_tiles.h -- tiles of one head in shared memory as f32, for cores of any head width up to 64
//
// kD is the capacity, 32 or 64; channels D .. kD-1 are zero. A row of a tile belongs to kD/8 neighbouring lanes with
// eight channels each, so that a block of 256 threads holds 2048/kD rows and sums over a row are two or three
// shuffles.
#pragma once

#include "kernels/device/gpu.h"

namespace avid::kernels::AVID_GPU {

inline constexpr int kCoreBlock = 256;  ///< threads of a block of the core kernels

template <int kD>
struct HeadTile {
  static constexpr int kLanes = kD / 8;              ///< threads of a row
  static constexpr int kRows = kCoreBlock / kLanes;  ///< rows of a tile
  static constexpr int kPitch = kD + 4;              ///< floats; 16-byte rows, neighbours four banks apart
  static constexpr int kFloats = kRows * kPitch;
  static constexpr int kMatrixFloats = kD * kPitch;  ///< of a [D,D] matrix
};

template <class Elem>
AVID_DEVICE float exp_of(float v) {
  if constexpr (sizeof(Elem) == 2) return __expf(v);
  return expf(v);
}

/// Four neighbouring elements; `from` lies at a multiple of four of them.
AVID_DEVICE float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }
AVID_DEVICE float4 load4(const BFloat16* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const float2 low = unpack_bf16x2(bits.x), high = unpack_bf16x2(bits.y);
  return make_float4(low.x, low.y, high.x, high.y);
}
AVID_DEVICE void store4(float* to, float a, float b, float c, float d) {
  *reinterpret_cast<float4*>(to) = make_float4(a, b, c, d);
}
AVID_DEVICE void store4(BFloat16* to, float a, float b, float c, float d) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16x2(a, b), pack_bf16x2(c, d));
}

/// tile[r][c] = from[r * pitch + c] for r < num_rows, c < D, zero elsewhere; the whole block takes part. No barrier.
template <int kD, class Elem>
AVID_DEVICE void load_tile(float* tile, const Elem* from, std::int64_t pitch, int num_rows, int D) {
  using Tile = HeadTile<kD>;
  for (int i = threadIdx.x; i < Tile::kRows * (kD / 4); i += kCoreBlock) {
    const int r = i / (kD / 4), c = i % (kD / 4) * 4;
    float4 v = make_float4(0, 0, 0, 0);
    if (r < num_rows && c < D) {
      const Elem* at = from + r * pitch + c;
      if (D % 4 == 0) {
        v = load4(at);
      } else {
        v.x = to_float(at[0]);
        if (c + 1 < D) v.y = to_float(at[1]);
        if (c + 2 < D) v.z = to_float(at[2]);
        if (c + 3 < D) v.w = to_float(at[3]);
      }
    }
    *reinterpret_cast<float4*>(tile + r * Tile::kPitch + c) = v;
  }
}

/// Eight channels c0 .. c0+7 of a row in memory, zero from D on.
template <class Elem>
AVID_DEVICE void load8(float (&v)[8], const Elem* row, int c0, int D) {
  if (D % 4 == 0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int c = c0 + 4 * half;
      const float4 four = c < D ? load4(row + c) : make_float4(0, 0, 0, 0);
      v[4 * half] = four.x, v[4 * half + 1] = four.y, v[4 * half + 2] = four.z, v[4 * half + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = c0 + e < D ? to_float(row[c0 + e]) : 0.0f;
  }
}
template <class Elem>
AVID_DEVICE void store8(const float (&v)[8], Elem* row, int c0, int D) {
  if (D % 4 == 0) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (c0 + 4 * half < D)
        store4(row + c0 + 4 * half, v[4 * half], v[4 * half + 1], v[4 * half + 2], v[4 * half + 3]);
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (c0 + e < D) {
        if constexpr (sizeof(Elem) == 2)
          row[c0 + e] = to_bf16(v[e]);
        else
          row[c0 + e] = v[e];
      }
    }
  }
}
/// Eight floats of shared memory at a multiple of four.
AVID_DEVICE void get8(float (&v)[8], const float* from) {
  const float4 low = *reinterpret_cast<const float4*>(from), high = *reinterpret_cast<const float4*>(from + 4);
  v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}
AVID_DEVICE void put8(float* to, const float (&v)[8]) {
  *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
  *reinterpret_cast<float4*>(to + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
/// out[e] += sum_j row[j] * matrix[j][c0+e], j < kN; `row` and `matrix` in shared memory.
template <int kN, int kMatrixPitch>
AVID_DEVICE void add_row_product(float (&out)[8], const float* row, const float* matrix, int c0) {
#pragma unroll 4
  for (int j = 0; j < kN; ++j) {
    float m[8];
    get8(m, matrix + j * kMatrixPitch + c0);
#pragma unroll
    for (int e = 0; e < 8; ++e) out[e] = fmaf(row[j], m[e], out[e]);
  }
}

template <int kLanes>
AVID_DEVICE float row_sum(float v) {
#pragma unroll
  for (int o = 1; o < kLanes; o <<= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
template <int kLanes>
AVID_DEVICE float row_max(float v) {
#pragma unroll
  for (int o = 1; o < kLanes; o <<= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

/// softmax over the D channels of a row that kD/8 lanes hold; channels from D on become zero.
template <int kD, class Elem>
AVID_DEVICE void softmax_channels(float (&v)[8], int c0, int D) {
  float largest = v[0];
#pragma unroll
  for (int e = 1; e < 8; ++e) largest = c0 + e < D ? fmaxf(largest, v[e]) : largest;
  largest = row_max<kD / 8>(c0 < D ? largest : -__FLT_MAX__);
  float sum = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    v[e] = c0 + e < D ? exp_of<Elem>(v[e] - largest) : 0.0f;
    sum += v[e];
  }
  const float scale = 1.0f / row_sum<kD / 8>(sum);
#pragma unroll
  for (int e = 0; e < 8; ++e) v[e] *= scale;
}

/// Calls f.operator()<kD>() with the capacity for heads of D <= 64 channels.
template <class F>
void with_head_capacity(std::int64_t D, F&& f) {
  D <= 32 ? f.template operator()<32>() : f.template operator()<64>();
}

}  // namespace avid::kernels::AVID_GPU
