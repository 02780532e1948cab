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
inline constexpr int kFlashWarps = 4;  ///< each owns 16 rows of a block's tile, or of two tiles
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

/// Copies the rows of one head into tiles, kFlashRows after kFlashRows, this thread's share of them. Rows that do not
/// exist and channels from D on become zero. Commit, wait and a barrier follow.
template <class Elem, int kD>
class FlashRows {
  using Tile = FlashTile<Elem, kD>;
  static constexpr int kChunks = kD / Tile::kChunk, kRowsAtOnce = kFlashThreads / kChunks;

 public:
  /// From row `first` of the head on.
  AVID_DEVICE FlashRows(const Elem* head, std::int64_t pitch, std::int64_t first, int D)
      : from_(head + (first + row()) * pitch + channel()), pitch_(pitch), D_(D) {}

  /// Starts to copy the next rows, of which `num_rows` exist.
  AVID_DEVICE void load(Elem* tile, std::int64_t num_rows) {
    const int rows = num_rows < kFlashRows ? static_cast<int>(num_rows) : kFlashRows;
    if (D_ % Tile::kChunk != 0) return load_elements(tile, rows);
    const int valid = channel() < D_ ? rows : 0;
    const std::int64_t step = kRowsAtOnce * pitch_;
    Elem* to = tile + row() * Tile::kPitch + channel();
#pragma unroll
    for (int r = 0; r < kFlashRows; r += kRowsAtOnce, from_ += step)
      cp_async_16(to + r * Tile::kPitch, from_, r + row() < valid);  // nothing is read past the rows
  }

 private:
  AVID_DEVICE static int row() { return static_cast<int>(threadIdx.x) / kChunks; }
  AVID_DEVICE static int channel() { return static_cast<int>(threadIdx.x) % kChunks * Tile::kChunk; }

  /// Of heads that do not begin at 16 bytes.
  AVID_DEVICE void load_elements(Elem* tile, int rows) {
    const Elem* first = from_ - row() * pitch_ - channel();
#pragma unroll 1
    for (int e = static_cast<int>(threadIdx.x); e < kFlashRows * kD; e += kFlashThreads) {
      const int r = e / kD, c = e % kD;
      tile[r * Tile::kPitch + c] = r < rows && c < D_ ? first[r * pitch_ + c] : Elem{};
    }
    from_ += kFlashRows * pitch_;
  }

  const Elem* from_;  // this thread's first chunk
  std::int64_t pitch_;
  int D_;
};

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

/// 16 rows of a result of kColumns, as mma leaves them over the lanes.
template <int kColumns>
using FlashSums = float[kColumns / 8][4];

/// acc[kBlocks x 16 rows, 64] = A B^T with all rows of tile `b`, over the channels: left(i, s) is the fragment of the
/// i-th 16 rows over step s.
template <class Elem, int kD, int kBlocks, class Left>
AVID_DEVICE void multiply_rows(FlashSums<64> (&acc)[kBlocks], const Left& left, const Elem* b, int lane) {
  using Tile = FlashTile<Elem, kD>;
#pragma unroll
  for (int i = 0; i < kBlocks; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0;
#pragma unroll
  for (int s = 0; s < Tile::kSteps; ++s) {
    Fragment<Elem, 4> rows[kBlocks];
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) rows[i] = left(i, s);
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      Fragment<Elem, 2> right[2];
      right_from_rows<Tile::kPitch>(right, b, j * 8, s * Tile::kStep, lane);
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        multiply_add_short(acc[i][j], rows[i], right[0]);
        multiply_add_short(acc[i][j + 1], rows[i], right[1]);
      }
    }
  }
}

/// `left` of multiply_rows from the rows row0 .. of a tile, whenever they are asked for.
template <class Elem, int kD>
AVID_DEVICE auto rows_of_tile(const Elem* tile, int row0, int lane) {
  return [tile, row0, lane](int i, int s) {
    using Tile = FlashTile<Elem, kD>;
    Fragment<Elem, 4> rows;
    left_from_rows<Tile::kPitch>(rows, tile, row0 + i * 16, s * Tile::kStep, lane);
    return rows;
  };
}

/// acc[kBlocks x 16 rows, kD] += M B: results of 64 columns with the 64 rows of tile `b`.
template <class Elem, int kD, int kBlocks>
AVID_DEVICE void multiply_columns(
    FlashSums<kD> (&acc)[kBlocks], const FlashSums<64> (&m)[kBlocks], const Elem* b, int lane) {
  using Tile = FlashTile<Elem, kD>;
  if constexpr (sizeof(Elem) == 2) {
#pragma unroll
    for (int s = 0; s < Tile::kRowSteps; ++s) {
      Fragment<Elem, 4> left[kBlocks];
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) left_from_result(left[i], m[i], s);
#pragma unroll
      for (int j = 0; j < Tile::kTiles; j += 2) {
        Fragment<Elem, 2> right[2];
        right_from_columns<Tile::kPitch>(right, b, s * Tile::kStep, j * 8, lane);
#pragma unroll
        for (int i = 0; i < kBlocks; ++i) {
          multiply_add_short(acc[i][j], left[i], right[0]);
          multiply_add_short(acc[i][j + 1], left[i], right[1]);
        }
      }
    }
  } else {  // the tile's 64 terms from zero in the tensor core, which cuts, then added rounded: acc sums many tiles
    static_assert(kBlocks == 1);
#pragma unroll
    for (int j = 0; j < Tile::kTiles; j += 2) {
      float sum[2][4] = {};
#pragma unroll
      for (int s = 0; s < Tile::kRowSteps; ++s) {
        Fragment<Elem, 4> left;
        Fragment<Elem, 2> right[2];
        left_from_result(left, m[0], s);
        right_from_columns<Tile::kPitch>(right, b, s * Tile::kStep, j * 8, lane);
        multiply_add_short(sum[0], left, right[0]);
        multiply_add_short(sum[1], left, right[1]);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[0][j][e] += sum[0][e], acc[0][j + 1][e] += sum[1][e];
      __syncwarp();  // no loads for the next columns before this: there are no registers for them
    }
  }
}

/// Two neighbouring elements of a row as Elem, the second only if it exists.
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
