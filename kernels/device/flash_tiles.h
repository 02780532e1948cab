// kernels/device/flash_tiles.h -- tiles of one head in shared memory and fragments of their products, bf16 and f32
//
// bf16 uses m16n8k16 and ldmatrix. f32 uses m16n8k8 on TF32 halves (device/tile_products.h) and plain loads.
// A product's result becomes the left operand of the next one without leaving its lane: for bf16 the registers of two
// neighbouring n8 tiles are an A fragment over 16 k. For f32 column 2t + e of an n8 tile takes the place of k = t + 4e;
// the order along k is free as long as the right operand keeps to it (right_from_columns).
#pragma once

#include "kernels/device/gpu.h"
#include "kernels/device/tile_products.h"

namespace avid::kernels::AVID_GPU {

inline constexpr int kFlashRows = 64;  ///< rows of a tile, queries or keys
inline constexpr int kFlashWarps = 4;  ///< each owns 16 rows of the block's tile
inline constexpr int kFlashThreads = 32 * kFlashWarps;

/// Tiles of 64 rows of kD channels (D .. kD-1 zero).
template <class Elem, int kD>
struct FlashTile {
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(Elem));  ///< elements of 16 bytes
  static constexpr int kPitch = kD + kChunk;                          ///< one chunk more: rows start in other banks
  static constexpr int kElems = kFlashRows * kPitch;
  static constexpr int kStep = 2 * kChunk;              ///< channels of one product: 16 or 8
  static constexpr int kSteps = kD / kStep;             ///< products over the channels
  static constexpr int kRowSteps = kFlashRows / kStep;  ///< products over the rows of a tile
  static constexpr int kTiles = kD / 8;                 ///< n8 tiles of the channels
};

/// Starts copying rows first .. of one head into a tile; rows from num_rows on and channels from D on become zero.
/// Commit, wait and a barrier follow.
template <class Elem, int kD>
AVID_DEVICE void load_flash_tile(
    Elem* tile, const Elem* head, std::int64_t pitch, std::int64_t first, std::int64_t num_rows, int D) {
  using Tile = FlashTile<Elem, kD>;
  constexpr int kChunks = kD / Tile::kChunk;
  if (D % Tile::kChunk == 0) {
    // One address that steps: an address of every chunk, kept over the walk, costs wide heads in f32 their registers.
    constexpr int kRowsAtOnce = kFlashThreads / kChunks;
    const int r0 = threadIdx.x / kChunks, c = threadIdx.x % kChunks * Tile::kChunk;
    const std::int64_t rows = c < D ? num_rows - first : 0, step = kRowsAtOnce * pitch;
    const Elem* from = head + (first + r0) * pitch + c;
    Elem* to = tile + r0 * Tile::kPitch + c;
#pragma unroll
    for (int r = r0; r < kFlashRows; r += kRowsAtOnce, from += step, to += kRowsAtOnce * Tile::kPitch)
      cp_async_16(to, r < rows ? from : head, r < rows);
    return;
  }
  for (int e = threadIdx.x; e < kFlashRows * kD; e += kFlashThreads) {  // heads that do not start at 16 bytes
    const int r = e / kD, c = e % kD;
    const bool valid = first + r < num_rows && c < D;
    tile[r * Tile::kPitch + c] = valid ? head[(first + r) * pitch + c] : Elem{};
  }
}

/// A[m][k] = tile[row0 + m][k0 + k], 16 rows.
template <int kPitch>
AVID_DEVICE void left_from_rows(Fragment<bf16, 4>& a, const bf16* tile, int row0, int k0, int lane) {
  ldmatrix_x4(a.r, tile + (row0 + lane % 16) * kPitch + k0 + lane / 16 * 8);
}
template <int kPitch>
AVID_DEVICE void left_from_rows(Fragment<float, 4>& a, const float* tile, int row0, int k0, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int r = 0; r < 4; ++r) a.set(r, tile[(row0 + g + 8 * (r & 1)) * kPitch + k0 + t + 4 * (r >> 1)]);
}

/// B[k][n] = tile[n0 + n][k0 + k] for two n8 tiles, n0 and n0 + 8.
template <int kPitch>
AVID_DEVICE void right_from_rows(Fragment<bf16, 2> (&b)[2], const bf16* tile, int n0, int k0, int lane) {
  std::uint32_t r[4];
  ldmatrix_x4(r, tile + (n0 + lane / 16 * 8 + lane % 8) * kPitch + k0 + lane / 8 % 2 * 8);
#pragma unroll
  for (int i = 0; i < 4; ++i) b[i / 2].r[i % 2] = r[i];
}
template <int kPitch>
AVID_DEVICE void right_from_rows(Fragment<float, 2> (&b)[2], const float* tile, int n0, int k0, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) b[i / 2].set(i % 2, tile[(n0 + i / 2 * 8 + g) * kPitch + k0 + t + 4 * (i % 2)]);
}

/// B[k][n] = tile[k0 + k][n0 + n] for two n8 tiles, k in the order of left_from_result.
template <int kPitch>
AVID_DEVICE void right_from_columns(Fragment<bf16, 2> (&b)[2], const bf16* tile, int k0, int n0, int lane) {
  std::uint32_t r[4];
  ldmatrix_x4_trans(r, tile + (k0 + lane % 16) * kPitch + n0 + lane / 16 * 8);
#pragma unroll
  for (int i = 0; i < 4; ++i) b[i / 2].r[i % 2] = r[i];
}
template <int kPitch>
AVID_DEVICE void right_from_columns(Fragment<float, 2> (&b)[2], const float* tile, int k0, int n0, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) b[i / 2].set(i % 2, tile[(k0 + 2 * t + i % 2) * kPitch + n0 + i / 2 * 8 + g]);
}

/// The left operand over the columns [step * kStep, +kStep) of a result of n8 tiles.
template <int kTiles>
AVID_DEVICE void left_from_result(Fragment<bf16, 4>& a, const float (&c)[kTiles][4], int step) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    a.r[2 * half] = pack_bf16x2(c[2 * step + half][0], c[2 * step + half][1]);
    a.r[2 * half + 1] = pack_bf16x2(c[2 * step + half][2], c[2 * step + half][3]);
  }
}
template <int kTiles>
AVID_DEVICE void left_from_result(Fragment<float, 4>& a, const float (&c)[kTiles][4], int step) {
  a.set(0, c[step][0]);
  a.set(1, c[step][2]);
  a.set(2, c[step][1]);
  a.set(3, c[step][3]);
}

/// acc[16 rows, 64] = A B^T: rows row0 .. of tile `a` with all rows of tile `b`, over the channels.
template <class Elem, int kD>
AVID_DEVICE void multiply_rows(float (&acc)[8][4], const Elem* a, int row0, const Elem* b, int lane) {
  using Tile = FlashTile<Elem, kD>;
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) acc[j][e] = 0;
#pragma unroll
  for (int s = 0; s < Tile::kSteps; ++s) {
    Fragment<Elem, 4> left;
    left_from_rows<Tile::kPitch>(left, a, row0, s * Tile::kStep, lane);
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      Fragment<Elem, 2> right[2];
      right_from_rows<Tile::kPitch>(right, b, j * 8, s * Tile::kStep, lane);
      multiply_add_short(acc[j], left, right[0]);
      multiply_add_short(acc[j + 1], left, right[1]);
    }
  }
}

/// acc[16 rows, kD] += M B: a result of 64 columns with the 64 rows of tile `b`.
template <class Elem, int kD>
AVID_DEVICE void multiply_columns(float (&acc)[kD / 8][4], const float (&m)[8][4], const Elem* b, int lane) {
  using Tile = FlashTile<Elem, kD>;
  if constexpr (sizeof(Elem) == 2) {
#pragma unroll
    for (int s = 0; s < Tile::kRowSteps; ++s) {
      Fragment<Elem, 4> left;
      left_from_result(left, m, s);
#pragma unroll
      for (int j = 0; j < Tile::kTiles; j += 2) {
        Fragment<Elem, 2> right[2];
        right_from_columns<Tile::kPitch>(right, b, s * Tile::kStep, j * 8, lane);
        multiply_add_short(acc[j], left, right[0]);
        multiply_add_short(acc[j + 1], left, right[1]);
      }
    }
  } else {  // the tile's 64 terms from zero in the tensor core, which cuts, then added rounded: acc sums many tiles
#pragma unroll
    for (int j = 0; j < Tile::kTiles; j += 2) {
      float sum[2][4] = {};
#pragma unroll
      for (int s = 0; s < Tile::kRowSteps; ++s) {
        Fragment<Elem, 4> left;
        Fragment<Elem, 2> right[2];
        left_from_result(left, m, s);
        right_from_columns<Tile::kPitch>(right, b, s * Tile::kStep, j * 8, lane);
        multiply_add_short(sum[0], left, right[0]);
        multiply_add_short(sum[1], left, right[1]);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[j][e] += sum[0][e], acc[j + 1][e] += sum[1][e];
      __syncwarp();  // no loads for the next columns before this: there are no registers for them
    }
  }
}

/// Two neighbouring elements of a row as Elem, the second only if it exists. `aligned`: both in one word.
AVID_DEVICE void store_pair(float* to, float a, float b, bool second) {
  to[0] = a;
  if (second) to[1] = b;
}
AVID_DEVICE void store_pair(bf16* to, float a, float b, bool second) {
  if (second && reinterpret_cast<std::uintptr_t>(to) % 4 == 0) {
    *reinterpret_cast<std::uint32_t*>(to) = pack_bf16x2(a, b);
    return;
  }
  to[0] = to_bf16(a);
  if (second) to[1] = to_bf16(b);
}

/// Writes factor * acc, the warp's 16 rows from row0 on, to rows of a head; only rows and channels that exist.
template <class Elem, int kD>
AVID_DEVICE void store_rows(
    Elem* head, std::int64_t pitch, std::int64_t row0, std::int64_t num_rows, int D, const float (&acc)[kD / 8][4],
    float factor0, float factor1, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = row0 + g + 8 * half;
    if (row >= num_rows) continue;
    const float factor = half == 0 ? factor0 : factor1;
#pragma unroll
    for (int j = 0; j < kD / 8; ++j) {
      const int c = j * 8 + 2 * t;
      if (c < D)
        store_pair(head + row * pitch + c, acc[j][2 * half] * factor, acc[j][2 * half + 1] * factor, c + 1 < D);
    }
  }
}

}  // namespace avid::kernels::AVID_GPU
