// kernels/device/linear_attention_sums.h -- pass 1 of linear attention's backward pass: sums over positions
//
// For each head, from h = prenorm(x) and d_y in tiles of 64 positions s (kernels/linear_attention_bwd.cu has the
// equations):
//
//   g = sum_s exp(k_s - max) h_s^T     with the maximum and the sum of exponentials of each channel of k
//   d = sum_s softmax(q_s) d_y_s^T     both [32, C]
//
// g only where the forward pass, whose pass 1 sums the same (linear_attention_contexts.h), did not keep it.
//
// A warp has one head and one of the two sums. Its 32 rows of w_qkv stay in registers as the left operand (52 of them
// at 104 channels), so that the result, channels of the head by positions, is after its exponential the left operand of
// the second product, whose right operand is the tile itself, read transposed. Tiles are copied two deep.
//
// Rows of more than 104 channels leave a warp registers for 16 channels of the head: two warps share one. The softmax
// over q's channels then goes over both: each tells the other its maxima and sums (PairSums).
//
// On a device of compute capability 9.0 linear_attention_sums_wgmma.cu does the same where g was kept.
#pragma once

#include "kernels/device/exponential.h"
#include "kernels/device/linear_attention_two_pass.h"
#include "kernels/linear_attention_bwd.h"

namespace avid::kernels::AVID_GPU {

/// Arguments of the three kernels.
struct LinearBwd {
  int S, C, N, slabs;
  int width;  ///< C rounded up to 8
  float scale;
  Rows<const BFloat16> x, d_y, w_qkv, w_out;
  const float* gamma;
  float* partial;  ///< as in LinearBwdPlan, like all that follow
  BFloat16* folded;
  float* softmax;
  float* d_weights;
  const float* key_sums;        ///< as in AttentionBlockDeviceArgs, or null
  Rows<BFloat16> d_qk, h, d_x;  ///< h and d_qk, d_x: absent when nobody wants them
  float* d_gamma;               ///< per block of pass 2, or null
  float* d_b_out;               ///< [frames,slabs,width]: sums of d_y of a slab, or null

  AVID_DEVICE float* partial_of(std::int64_t frame, int slab, int head) const {
    return partial + ((frame * slabs + slab) * N + head) * (64 * width + 64);
  }
};

/// Sizes of the kernels for rows of up to 8 kN channels.
template <int kN>
struct LinearBwdTile {
  static constexpr int kM = kN <= 13 ? 2 : 1;       ///< blocks of 16 rows of a warp: channels of a head, or positions
  static constexpr int kShares = 2 / kM;            ///< warps that share the 32 channels of a head
  static constexpr int kSteps = kN / 2;             ///< of 16 channels; then one of 8 if kN is odd
  static constexpr int kPitch = (kN | 1) * 8;       ///< elements of a row in shared memory, an odd number of chunks
  static constexpr int kLaneChunks = (kN + 7) / 8;  ///< of one of the eight lanes of a row
};

/// Calls f.operator()<kN>() for rows of up to 8 kN channels.
template <class F>
void with_row_chunks(int width, F&& f) {
  if (width <= 56) return f.template operator()<7>();
  if (width <= 96) return f.template operator()<12>();
  if (width <= 104) return f.template operator()<13>();
  if (width <= 184) return f.template operator()<23>();
  f.template operator()<25>();
}

constexpr int kSumsTile = 64;  ///< positions

/// The channel of a head in row (or column) r < 32 of a matrix that was ordered so that lane t of a quad gets channels
/// 8t .. 8t+7 of the four columns 8n + 2t and the next.
AVID_DEVICE int head_channel(int r) { return r % 8 / 2 * 8 + r / 8 * 2 + r % 2; }

/// d[m] += a[m] b for blocks of 16 rows, a = 16 columns of packed results from tile column 2u on, and b = rows
/// 16u .. 16u+15 of `right` ([k][n], read transposed).
template <int kN, int kM>
AVID_DEVICE void add_turned_product(
    float (&d)[kM][kN][4], const std::uint32_t (&packed)[kM][4][2], const bf16* right, int u) {
  constexpr int kPitch = LinearBwdTile<kN>::kPitch;
  const int lane = threadIdx.x % 32;
  std::uint32_t a[kM][4];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int r = 0; r < 4; ++r) a[m][r] = packed[m][2 * u + r / 2][r % 2];
  const bf16* row = right + (u * 16 + (lane & 15)) * kPitch;
#pragma unroll
  for (int pair = 0; pair < kN / 2; ++pair) {
    std::uint32_t b[4];
    ldmatrix_x4_trans(b, row + pair * 16 + (lane >> 4) * 8);
    const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      mma_bf16_16x8x16(d[m][2 * pair], a[m], b0, d[m][2 * pair]);
      mma_bf16_16x8x16(d[m][2 * pair + 1], a[m], b1, d[m][2 * pair + 1]);
    }
  }
  if constexpr (kN % 2 == 1) {
    std::uint32_t b[2];
    ldmatrix_x2_trans(b, row + (kN - 1) * 8);
#pragma unroll
    for (int m = 0; m < kM; ++m) mma_bf16_16x8x16(d[m][kN - 1], a[m], b, d[m][kN - 1]);
  }
}

/// Over lanes that hold the same columns: 4, 8 and 16 apart.
AVID_DEVICE float column_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 4));
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 8));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 16));
}
AVID_DEVICE float column_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 4);
  v += __shfl_xor_sync(0xffffffffu, v, 8);
  return v + __shfl_xor_sync(0xffffffffu, v, 16);
}

/// k(m, n, e), 16 kM channels by 8 kTiles positions of which `valid` exist, become exponentials of what they lie below
/// the largest of their channel so far, and are added to total(m, half), a lane's own. Where a maximum grows, what was
/// summed before shrinks: shrink(m, half, factor) does so to the products.
template <int kM, int kTiles, class K, class Total, class Shrink>
AVID_DEVICE void key_exponentials(K&& k, int valid, float (&largest)[kM][2], Total&& total, Shrink&& shrink) {
  if (valid < 8 * kTiles) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (n * 8 + 2 * t + e % 2 >= valid) k(m, n, e) = -INFINITY;
  }
  float top[kM][2];
  bool grew = false;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v = largest[m][half];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) v = fmaxf(v, fmaxf(k(m, n, 2 * half), k(m, n, 2 * half + 1)));
      top[m][half] = quad_max(v);
      grew = grew || top[m][half] > largest[m][half];
    }
  if (__any_sync(0xffffffffu, grew)) {  // seldom after the first tiles
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float factor = exp2_flushed((largest[m][half] - top[m][half]) * kLog2E);
        largest[m][half] = top[m][half];
        total(m, half) *= factor;
        shrink(m, half, factor);
      }
  }
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float from = -kLog2E * largest[m][half];
      float so_far = total(m, half);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        float &a = k(m, n, 2 * half), &b = k(m, n, 2 * half + 1);
        a = exp2_flushed(fmaf(a, kLog2E, from));
        b = exp2_flushed(fmaf(b, kLog2E, from));
        so_far += a + b;
      }
      total(m, half) = so_far;
    }
}

/// A warp's sums acc(m, n, e) to [16 kM, width].
template <int kN, int kM, class Acc>
AVID_DEVICE void store_sums(Acc&& acc, float* out, int width) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int n = 0; n < kN; ++n)
        if (n * 8 < width)
          *reinterpret_cast<float2*>(out + (m * 16 + half * 8 + g) * width + n * 8 + 2 * t) =
              make_float2(acc(m, n, 2 * half), acc(m, n, 2 * half + 1));
}
/// Maxima of a warp's channels of k; sums, 32 floats further.
template <int kM, class Total>
AVID_DEVICE void store_key_softmax(const float (&largest)[kM][2], Total&& total, float* out) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = quad_sum(total(m, half));
      if (t != 0) continue;
      out[m * 16 + half * 8 + g] = largest[m][half];
      out[32 + m * 16 + half * 8 + g] = sum;
    }
}

/// What the two warps of a head tell each other of q: maximum and sum of exponentials over their 16 channels, of 32
/// positions. By turns in two places, so that one barrier between writing and reading is enough.
struct PairSums {
  float2 *mine, *others;  ///< [2][32] each

  static constexpr std::size_t floats(int warps) { return static_cast<std::size_t>(warps) * 2 * 32 * 2; }
  /// Warps 2 i and 2 i + 1 are a pair.
  AVID_DEVICE explicit PairSums(float* memory) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    mine = reinterpret_cast<float2*>(memory) + warp * 64;
    others = reinterpret_cast<float2*>(memory) + (warp ^ 1) * 64;
  }
  /// Of the lane's two positions in tile n.
  AVID_DEVICE static float4* of_two(float2* of_warp, int turn, int n) {
    return reinterpret_cast<float4*>(of_warp + turn * 32 + n * 8 + threadIdx.x % 4 * 2);
  }
};

/// What a warp keeps. Rows (channels of the head) m*16 + g and + 8 of both products.
///
/// kSpare: the weights of the last 8 channels (kN is odd) and the sums of exponentials lie in shared memory,
/// kSpareWords words a thread, kSpareThreads words apart: where registers do not suffice.
constexpr int kSpareWords = 8, kSpareThreads = 256;
template <int kN, bool kSpare = false>
struct HeadSums {
  using Tile = LinearBwdTile<kN>;
  static constexpr int kM = Tile::kM;
  static_assert(!kSpare || (kN % 2 == 1 && kM == 2));
  static constexpr int kWeights = kSpare ? 2 * kN - 2 : 2 * kN;
  std::uint32_t weights[kM][kWeights];  ///< the left operand, step by step
  float acc[kM][kN][4] = {};
  float sum[kM][2] = {}, largest[kM][2];  ///< of k

  AVID_DEVICE HeadSums() {
#pragma unroll
    for (int m = 0; m < kM; ++m) largest[m][0] = largest[m][1] = -__FLT_MAX__;
  }
  /// The thread's word i of `spare`.
  static AVID_DEVICE float& spare_word(float* spare, int i) { return spare[i * kSpareThreads + threadIdx.x]; }

  /// Rows first .. first + 16 kM - 1 of w_qkv.
  AVID_DEVICE void load_weights(const Rows<const BFloat16>& w_qkv, int C, int first, float* spare = nullptr) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2 * kN; ++r) {
        const int c = r / 2 * 8 + 2 * t;
        const std::uint32_t w =
            c < C ? *reinterpret_cast<const std::uint32_t*>(w_qkv.row(first + m * 16 + g + 8 * (r & 1)) + c) : 0u;
        if (r < kWeights) {
          weights[m][r] = w;
        } else {
          spare_word(spare, 2 * m + r - kWeights) = __uint_as_float(w);
          spare_word(spare, 4 + 2 * m + r - kWeights) = 0;
        }
      }
  }

  /// out = the head's channels by 32 positions; h in shared memory.
  AVID_DEVICE void project(float (&out)[kM][4][4], const bf16* h, float* spare) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int s = 0; s < Tile::kSteps; ++s) {
      const ColumnTiles x(h, Tile::kPitch, s * 16);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const std::uint32_t w[4] = {
            weights[m][4 * s], weights[m][4 * s + 1], weights[m][4 * s + 2], weights[m][4 * s + 3]};
        x.add_product(out[m], w);
      }
    }
    if constexpr (kN % 2 == 1) {
      std::uint32_t x[4];
      ldmatrix_x4(x, h + lane * Tile::kPitch + Tile::kSteps * 16);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        std::uint32_t w[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          if constexpr (kSpare) {
            w[r] = __float_as_uint(spare_word(spare, 2 * m + r));
          } else {
            w[r] = weights[m][4 * Tile::kSteps + r];
          }
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const std::uint32_t b[1] = {x[n]};
          mma_bf16_16x8x8(out[m][n], w, b, out[m][n]);
        }
      }
    }
  }

  /// acc += e right, both of 32 positions.
  AVID_DEVICE void add(const float (&e)[kM][4][4], const bf16* right) {
    std::uint32_t packed[kM][4][2];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        packed[m][n][0] = pack_bf16x2(e[m][n][0], e[m][n][1]);
        packed[m][n][1] = pack_bf16x2(e[m][n][2], e[m][n][3]);
      }
#pragma unroll
    for (int u = 0; u < 2; ++u) add_turned_product<kN>(acc, packed, right, u);
  }

  /// g of 32 positions of which `valid` exist.
  AVID_DEVICE void add_k(const bf16* h, int valid, float* spare = nullptr) {
    float k[kM][4][4] = {};
    project(k, h, spare);
    const auto total = [&](int m, int half) -> float& {
      if constexpr (kSpare) return spare_word(spare, 4 + 2 * m + half);
      return sum[m][half];
    };
    key_exponentials<kM, 4>(
        [&](int m, int n, int e) -> float& { return k[m][n][e]; }, valid, largest, total,
        [&](int m, int half, float factor) {
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            acc[m][n][2 * half] *= factor;
            acc[m][n][2 * half + 1] *= factor;
          }
        });
    add(k, h);
  }

  /// d of 32 positions; d_y is zero in rows that do not exist.
  AVID_DEVICE void add_q(const bf16* h, const bf16* d_y) {
    float q[kM][4][4] = {};
    project(q, h, nullptr);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) scale_column(q, n, e, __fdividef(1.0f, column_exponentials(q, n, e).y));
    add(q, d_y);
  }

  /// The same where two warps share a head, first the exponentials over a warp's own channels ...
  AVID_DEVICE void start_q(float (&q)[kM][4][4], const bf16* h, const PairSums& pair, int turn) const {
    project(q, h, nullptr);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float2 first = column_exponentials(q, n, 0), second = column_exponentials(q, n, 1);
      if (threadIdx.x % 32 < 4) *pair.of_two(pair.mine, turn, n) = make_float4(first.x, first.y, second.x, second.y);
    }
  }
  /// ... then, behind a barrier, d.
  AVID_DEVICE void finish_q(float (&q)[kM][4][4], const bf16* d_y, const PairSums& pair, int turn) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float4 own = *pair.of_two(pair.mine, turn, n), other = *pair.of_two(pair.others, turn, n);
      // An infinite sum: next to the other warp's exponentials, these are nothing.
      scale_column(q, n, 0, __fdividef(1.0f, own.y + other.y * exp2_flushed((other.x - own.x) * kLog2E)));
      scale_column(q, n, 1, __fdividef(1.0f, own.w + other.w * exp2_flushed((other.z - own.z) * kLog2E)));
    }
    add(q, d_y);
  }

  /// Column 2t + e of tile n becomes its exponentials, without the maximum (x); their sum (y).
  static AVID_DEVICE float2 column_exponentials(float (&q)[kM][4][4], int n, int e) {
    float top = fmaxf(q[0][n][e], q[0][n][2 + e]), total = 0;
#pragma unroll
    for (int m = 1; m < kM; ++m) top = fmaxf(top, fmaxf(q[m][n][e], q[m][n][2 + e]));
    top = column_max(top);
    const float from = -kLog2E * top;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      float &a = q[m][n][e], &b = q[m][n][2 + e];
      a = exp2_flushed(fmaf(a, kLog2E, from)), b = exp2_flushed(fmaf(b, kLog2E, from));
      total += a + b;
    }
    return make_float2(top, column_sum(total));
  }
  static AVID_DEVICE void scale_column(float (&q)[kM][4][4], int n, int e, float factor) {
#pragma unroll
    for (int m = 0; m < kM; ++m) q[m][n][e] *= factor, q[m][n][2 + e] *= factor;
  }

  /// acc to [16 kM, width].
  AVID_DEVICE void store(float* out, int width) const {
    store_sums<kN, kM>([&](int m, int n, int e) { return acc[m][n][e]; }, out, width);
  }
  /// Maxima of the warp's channels of k; sums, 32 floats further.
  AVID_DEVICE void store_softmax(float* out, float* spare = nullptr) const {
    store_key_softmax<kM>(
        largest, [&](int m, int half) { return kSpare ? spare_word(spare, 4 + 2 * m + half) : sum[m][half]; }, out);
  }
};

/// The weights of softmax over the slabs of a channel of k: `maxima` and `sums` of slab s lie s * step floats further.
struct SlabSoftmax {
  float top = -__FLT_MAX__, total = 0;
  AVID_DEVICE SlabSoftmax(const float* maxima, const float* sums, std::int64_t step, int slabs) {
    for (int s = 0; s < slabs; ++s) top = fmaxf(top, maxima[s * step]);
    for (int s = 0; s < slabs; ++s) total = fmaf(sums[s * step], __expf(maxima[s * step] - top), total);
  }
};

/// A row of raw channels in shared memory, chunks kChunkStep elements apart, becomes h in place; kL lanes, of which
/// this is the l-th, call.
template <int kN, int kL = 8, int kChunkStep = 8>
AVID_DEVICE void normalise_copied_row(int C, int l, bf16* row, const float4* gamma) {
  constexpr int kK = (kN + kL - 1) / kL;
  Chunk8<BFloat16> chunks[kK];
#pragma unroll
  for (int j = 0; j < kK; ++j) {
    const int chunk = l + kL * j;
    chunks[j] = {chunk < kN ? *reinterpret_cast<const uint4*>(row + chunk * kChunkStep) : make_uint4(0, 0, 0, 0)};
  }
  const RowMoments moments = row_moments<kL, kK, BFloat16>(chunks, l, C, static_cast<float>(kPrenormEps));
#pragma unroll
  for (int j = 0; j < kK; ++j) {
    const int chunk = l + kL * j;
    if (chunk >= kN) continue;
    float v[8], factors[8];
    unpack(chunks[j], v);
    get_coefficients<kN>(gamma, chunk, factors);
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = (v[e] - moments.mean) * moments.rstd * factors[e];
    *reinterpret_cast<uint4*>(row + chunk * kChunkStep) =
        make_uint4(pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]), pack_bf16x2(v[4], v[5]), pack_bf16x2(v[6], v[7]));
  }
}

/// Sums of the columns of d_y in tiles of kSumsTile rows, which all threads of a block share: a thread two columns of
/// every few rows. Kept in shared memory, [threads / (4 kN)] rows of 8 kN floats: there are no registers for more.
template <int kN, class Places = ChunkPlaces<LinearBwdTile<kN>::kPitch, 8>>
struct ColumnSums {
  static constexpr int kPairs = 4 * kN;  ///< of columns
  float2* mine;
  int group, groups;

  AVID_DEVICE explicit ColumnSums(float* memory)
      : group(static_cast<int>(threadIdx.x) / kPairs), groups(static_cast<int>(blockDim.x) / kPairs) {
    mine = reinterpret_cast<float2*>(memory) + threadIdx.x;
    if (group < groups) *mine = make_float2(0, 0);
  }
  /// Floats of memory in a block of `threads`.
  static constexpr int floats(int threads) { return threads / kPairs * kPairs * 2; }

  AVID_DEVICE void add(const bf16* d_y) const {
    if (group >= groups) return;
    float2 sum = *mine;
    const int pair = static_cast<int>(threadIdx.x) % kPairs;
    const bf16* at = d_y + Places::at(0, pair / 4) + pair % 4 * 2;
#pragma unroll 4
    for (int r = group; r < kSumsTile; r += groups) {
      const float2 v = unpack_bf16x2(*reinterpret_cast<const std::uint32_t*>(at + Places::at(r, 0)));
      sum.x += v.x, sum.y += v.y;
    }
    *mine = sum;
  }
  /// Adds the groups in order. Behind a barrier.
  AVID_DEVICE void store(const float* memory, float* out, int width) const {
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
      float sum = 0;
      for (int g = 0; g < groups; ++g) sum += memory[g * 2 * kPairs + c];
      out[c] = sum;
    }
  }
};

/// Grid F * slabs * groups of heads; of each of `heads` heads first the warps that sum over q, then, unless the forward
/// pass kept these sums, those of k.
template <int kN>
__global__ void __launch_bounds__(256, 1) linear_bwd_sums_kernel(LinearBwd p, int heads, int groups) {
  using Tile = LinearBwdTile<kN>;
  constexpr int kTileElems = kSumsTile * Tile::kPitch;
  SharedArena arena;
  bf16* h_tiles = arena.take<bf16>(2 * kTileElems, "h");
  bf16* d_y_tiles = arena.take<bf16>(2 * kTileElems, "d_y");
  float4* gamma = arena.take<float4>(kN * 2, "gamma");
  float* column_memory = arena.take<float>(ColumnSums<kN>::floats(static_cast<int>(blockDim.x)), "sums of d_y");
  constexpr int kShares = Tile::kShares;
  const PairSums pair(kShares > 1 ? arena.take<float>(PairSums::floats(blockDim.x / 32), "sums of pairs") : nullptr);
  const ColumnSums<kN> columns(column_memory);
  const std::int64_t slab_of_all = blockIdx.x / groups, frame = slab_of_all / p.slabs;
  const int slab = static_cast<int>(slab_of_all % p.slabs);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const int sums_of_head = p.key_sums != nullptr ? 1 : 2;
  const int head = static_cast<int>(blockIdx.x % groups) * heads + warp / (sums_of_head * kShares);
  const bool of_k = warp / kShares % sums_of_head == 1, sums_columns = p.d_b_out != nullptr && blockIdx.x % groups == 0;
  const int first_channel = warp % kShares * 16;  // of the head
  const int begin = slab * kLinearBwdSlab, end = min(p.S, begin + kLinearBwdSlab);

  // A warp copies the rows that it will normalise: four at a time.
  const auto copy_tile = [&](int t0, int buffer) {
    for (int four = warp; four < kSumsTile / 4; four += warps)
#pragma unroll 1  // there are no registers for more
      for (int i = lane; i < 4 * kN; i += 32) {
        const int r = four * 4 + i / kN, c = i % kN * 8, at = buffer * kTileElems + r * Tile::kPitch + c;
        const bool exists = t0 + r < end && c < p.C;
        const std::int64_t row = frame * p.S + t0 + r;
        cp_async_16(h_tiles + at, exists ? p.x.row(row) + c : p.x.data, exists);
        cp_async_16(d_y_tiles + at, exists ? p.d_y.row(row) + c : p.d_y.data, exists);
      }
    cp_async_commit();
  };
  copy_tile(begin, 0);
  for (int c = threadIdx.x; c < kN * 8; c += blockDim.x) put_coefficient<kN>(gamma, c, c < p.C ? p.gamma[c] : 0.0f);
  HeadSums<kN> sums;
  if (head < p.N) sums.load_weights(p.w_qkv, p.C, ((of_k ? p.N : 0) + head) * 32 + first_channel);
  __syncthreads();
  int buffer = 0;
  for (int t0 = begin; t0 < end; t0 += kSumsTile, buffer ^= 1) {
    bf16* h = h_tiles + buffer * kTileElems;
    const bf16* d_y = d_y_tiles + buffer * kTileElems;
    cp_async_wait<0>();
    __syncwarp();
    for (int four = warp; four < kSumsTile / 4; four += warps)
      normalise_copied_row<kN>(p.C, lane % 8, h + (four * 4 + lane / 8) * Tile::kPitch, gamma);
    __syncthreads();  // the other buffer is free once all warps are here
    if (t0 + kSumsTile < end) copy_tile(t0 + kSumsTile, buffer ^ 1);
    if (sums_columns) columns.add(d_y);
    if (kShares == 1 && head >= p.N) continue;
#pragma unroll 1
    for (int first = 0; first < min(kSumsTile, end - t0); first += 32) {
      const bf16 *of_h = h + first * Tile::kPitch, *of_d_y = d_y + first * Tile::kPitch;
      if constexpr (kShares == 1) {
        if (of_k) {
          sums.add_k(of_h, end - t0 - first);
        } else {
          sums.add_q(of_h, of_d_y);
        }
      } else {
        float q[Tile::kM][4][4] = {};
        if (!of_k && head < p.N) sums.start_q(q, of_h, pair, first / 32);
        __syncthreads();
        if (head >= p.N) continue;
        if (of_k) {
          sums.add_k(of_h, end - t0 - first);
        } else {
          sums.finish_q(q, of_d_y, pair, first / 32);
        }
      }
    }
  }
  if (sums_columns) {
    __syncthreads();
    columns.store(column_memory, p.d_b_out + slab_of_all * p.width, p.width);
  }
  if (head >= p.N) return;
  float* out = p.partial_of(frame, slab, head);
  sums.store(out + ((of_k ? 0 : 32) + first_channel) * p.width, p.width);
  if (of_k) sums.store_softmax(out + 64 * p.width + first_channel);
}

/// Queues pass 1 on wgmma instead of linear_bwd_sums_kernel, for sums that the forward pass kept (p.key_sums;
/// linear_attention_sums_wgmma.cu). Hosts ask have_wgmma() first.
void linear_bwd_sums_wgmma(const Stream& stream, const LinearBwd& p, std::int64_t frames);

}  // namespace avid::kernels::AVID_GPU
