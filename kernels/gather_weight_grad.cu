// kernels/gather_weight_grad.cu -- weight gradient of the gathered product, and column sums (contract: gather_gemm.h)
//
// Math      d_w[n,(k,c)] = sum_r rows[r,n] * source[row(r,k)][c];  d_bias[n] = sum_r rows[r,n], the gradient of a
//           source of ones;  sums[c] = sum_r rows[r,c]
// Layout    as gather_gemm; both operands lie with the position outermost, so fragments come through ldmatrix.trans
//           (bf16) or single words (f32). M is (tap, chunk of channels) flattened, one source per block; N the columns
//           of rows. A packed tile has, behind the whole chunks of all taps, the words of two channels of their last
//           chunks, and M along the columns of its products (weight_grad_tiles.h)
// Parallel  grid (M tiles of both sources, N tiles, splits of the positions). A block steps through its positions 32 at
//           a time; every thread copies one fixed chunk column of some of the positions, and every warp now and then
//           puts the windows of one step (advanced with carries, never divided) into shared memory, all warps at once
// Traffic   each block reads its positions' d_out once and its taps' source rows once per tap tile; partial sums of a
//           split are written and read once (f32). The bias costs no read where the last tile has a column to spare
//           (weight_grad_ones.h), which nine taps of 90, 180, 360 or 720 channels leave
// Numerics  f32 sums within a split, splits added in index order: the same bits in every run on one kind of device. f32
//           as in gather_gemm. d_bias: 6e-7 off for 40,000 positive terms in one split, 1.6e-5 with 128x184 (simulator)
// Limits    those of gather_gemm; tile and splits by shape and kind of device (gather_weight_grad.cpp)
// Compiled  nvcc 13, no spills, at most 255 registers; instructions per mma in the loop, bf16, sm_80: 448x96 3.6;
//           416x96, packed, 4.4; 384x96 3.8; 128x184 3.3; 128x128 3.8; 128x104 4.5; 128x96 4.8; 128x56 7.1. About 80
//           instructions of it write windows, every fourth step only (those of 384 and more: every eighth)
// Counted   90 of 318 instructions saved (128x128, sm_80): windows multiplied once per position instead of once per
//           column, addresses of d_out that advance, those of ldmatrix constant from one base, no divisions
// Measured  never run on a GPU yet
// Predicted the packed tile, 3x3 weight gradients of an update of AVID 71M with 64 clips on an A100: 57.6 to 56.4
//           ms; it has 832 rows of M for 810, where whole chunks take 896, and reads a sector more for every six
// Open      lost: 384x120, 192x240 and 192x120, which would leave no columns of 360 and 720 empty (2 %) and read less;
//           with 180 sums a thread they spill 66 to 114 bytes on sm_80
//           left out: blocks that go on with the next tile where positions end, so that the last wave is full: 1.1 ms
//           of such an update on an A100 and 0.35 on an H200 at most (predicted), for a second loop around this kernel
//           and partial sums whose number differs from tile to tile
//           taps of one row of the image could share one tile of the source in shared memory (a third of the copies),
//           as they do in gather_weight_grad_wgmma.cu
// Oracle    kernels/{conv3d,conv_transpose3d,linear}_cpu.cpp in f64, compared in tests/sim/
#include "kernels/device/gather_geometry.h"
#include "kernels/device/gpu.h"
#include "kernels/device/row_lanes.h"
#include "kernels/device/tile_products.h"
#include "kernels/device/weight_grad_ones.h"
#include "kernels/device/weight_grad_plan.h"
#include "kernels/gather_gemm.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kPositions = kWeightGradPositions;  // per step: one per lane of a warp

struct Splits {
  int count = 0, steps_per_split = 0;
  int ones = -1;  ///< behind which source's columns stand those of the bias; -1: there are none
};

/// Chunks between rows of a tile of `chunks`: for bf16 odd, so that ldmatrix meets all banks; for f32 two more, so that
/// the 4 x 8 words of a fragment do.
template <class Elem>
constexpr int padded_chunks(int chunks) {
  return sizeof(Elem) == 2 ? chunks | 1 : chunks + 2;
}

template <class Elem, class Tile>
struct WeightGradShape {
  static constexpr int kChunksM = Tile::BM / kChunk<Elem>, kChunksN = Tile::BN / kChunk<Elem>;
  static constexpr int kPitchM = padded_chunks<Elem>(kChunksM), kPitchN = padded_chunks<Elem>(kChunksN);
  static constexpr int kStageM = kPositions * kPitchM * 16, kStageN = kPositions * kPitchN * 16;  // bytes
  static constexpr int kWindowSteps = 2 * Tile::kThreads / 32;  ///< steps whose windows are kept: two for each warp
  static constexpr std::size_t kSharedBytes =
      std::size_t{Tile::kStages} * (kStageM + kStageN) + kWindowSteps * kPositions * sizeof(Window);
};

/// Fragments of one step of the inner dimension from tiles [position][channel]. `at` is the tile's first byte and what
/// the lane adds for rows or columns from `column` on: rows_at or columns_at; all else is constant.
template <class Elem, int kPitchChunks>
struct PositionMajor;

template <int kPitchChunks>
struct PositionMajor<bf16, kPitchChunks> {
  static constexpr int kStep = 16;  // positions
  AVID_DEVICE static int rows_at(int column, int lane) {
    return (((lane >> 4) * 8 + (lane & 7)) * kPitchChunks + column / 8 + ((lane >> 3) & 1)) * 16;
  }
  AVID_DEVICE static int columns_at(int column, int lane) {
    return ((lane & 15) * kPitchChunks + column / 8 + (lane >> 4)) * 16;
  }
  AVID_DEVICE static void rows16(Fragment<bf16, 4>& f, const unsigned char* at, int position, int column) {
    ldmatrix_x4_trans(f.r, at + (position * kPitchChunks + column / 8) * 16);
  }
  AVID_DEVICE static void columns16(Fragment<bf16, 2> (&f)[2], const unsigned char* at, int position, int column) {
    std::uint32_t r[4];
    ldmatrix_x4_trans(r, at + (position * kPitchChunks + column / 8) * 16);
#pragma unroll
    for (int k = 0; k < 4; ++k) f[k / 2].r[k % 2] = r[k];
  }
  AVID_DEVICE static void columns8(Fragment<bf16, 2>& f, const unsigned char* at, int position, int column) {
    ldmatrix_x2_trans(f.r, at + (position * kPitchChunks + column / 8) * 16);  // lanes 0 to 15 address
  }
};

template <int kPitchChunks>
struct PositionMajor<float, kPitchChunks> {
  static constexpr int kStep = 8;
  AVID_DEVICE static float word(const unsigned char* at, int position, int column) {
    return reinterpret_cast<const float*>(at)[position * kPitchChunks * 4 + column];
  }
  AVID_DEVICE static int rows_at(int column, int lane) {
    return ((lane & 3) * kPitchChunks * 4 + column + (lane >> 2)) * 4;
  }
  AVID_DEVICE static int columns_at(int column, int lane) { return rows_at(column, lane); }
  AVID_DEVICE static void rows16(Fragment<float, 4>& f, const unsigned char* at, int position, int column) {
    f.set(0, word(at, position, column));
    f.set(1, word(at, position, column + 8));
    f.set(2, word(at, position + 4, column));
    f.set(3, word(at, position + 4, column + 8));
  }
  AVID_DEVICE static void columns8(Fragment<float, 2>& f, const unsigned char* at, int position, int column) {
    f.set(0, word(at, position, column));
    f.set(1, word(at, position + 4, column));
  }
  AVID_DEVICE static void columns16(Fragment<float, 2> (&f)[2], const unsigned char* at, int position, int column) {
    columns8(f[0], at, position, column);
    columns8(f[1], at, position, column + 8);
  }
};

/// Writes partial[split][n][m] with m over (source, tap, chunk, channel).
template <class Elem, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, kGradBlocks<Tile>)
    gather_weight_grad_kernel(GatherWeightGrad<Elem> p, Splits splits, int tiles_of_first) {
  using S = WeightGradShape<Elem, Tile>;
  // A product's rows are (tap, channel) and its columns those of `rows`; packed: the other way round.
  constexpr bool kPacked = kIsPacked<Tile>;
  constexpr int kTilesRows = (kPacked ? Tile::WN : Tile::WM) / 16, kTilesColumns = (kPacked ? Tile::WM : Tile::WN) / 8;
  constexpr int kLanesM = lanes_of(S::kChunksM), kLanesN = lanes_of(S::kChunksN);
  constexpr int kRowStepM = Tile::kThreads / kLanesM, kLoadsM = kPositions / kRowStepM;
  constexpr int kRowStepN = Tile::kThreads / kLanesN, kLoadsN = (kPositions + kRowStepN - 1) / kRowStepN;
  static_assert(kRowStepM > 0 && kPositions % kRowStepM == 0 && kRowStepN > 0);
  static_assert(kPacked || Tile::kWarpsN == 1 || Tile::WN % 16 == 0);

  SharedArena arena;
  unsigned char* stages_m = arena.take<unsigned char>(Tile::kStages * S::kStageM, "source");
  unsigned char* stages_n = arena.take<unsigned char>(Tile::kStages * S::kStageN, "rows");
  Window* windows = arena.take<Window>(S::kWindowSteps * kPositions, "windows");  // origins in chunks

  const GatherView g(p, false, 0);
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int num_positions = p.B * g.rows_per_clip();
  const int first_step = static_cast<int>(blockIdx.z) * splits.steps_per_split;
  const int all_steps = (num_positions + kPositions - 1) / kPositions;
  const int steps = min(splits.steps_per_split, all_steps - first_step);

  // This thread's chunk column of the source, or packed, its word: fixed, so the tap is worked out once.
  const int s = static_cast<int>(blockIdx.x) < tiles_of_first ? 0 : 1;
  const int tile_m = static_cast<int>(blockIdx.x) - (s == 0 ? 0 : tiles_of_first);
  const ChunkRows<const Elem> source = p.source[s];
  const GradChunks chunks = grad_chunks(p, s, kPacked);
  const int num_chunks = chunks.all(), row_m = thread / kLanesM;
  int column_m = thread % kLanesM, flat = tile_m * S::kChunksM + column_m, word = -1;  // word: of all taps
  if constexpr (kPacked) {
    // Threads from `first` on are those of words, four to a chunk; behind them those of the chunks that are left.
    const int first = max(chunks.first_word(), tile_m * S::kChunksM);
    const int num_words = 4 * max(min(num_chunks, (tile_m + 1) * S::kChunksM) - first, 0);
    if (const int behind = flat - first; behind >= 0) {
      if (behind < num_words) word = behind + (first - chunks.first_word()) * 4;
      flat = behind < num_words ? first + behind / 4 : flat - num_words / 4 * 3;
      column_m = flat - tile_m * S::kChunksM;
    }
  }
  std::uint32_t offset_m = 0, bits_m = kNoTap;
  bool copies_m = column_m < S::kChunksM;
  if (word < 0 ? flat < chunks.first_word() : word < chunks.taps * chunks.words) {
    const int tap = word < 0 ? flat / chunks.whole : word / chunks.words, ix = tap % p.x.taps,
              iy = tap / p.x.taps % p.y.taps, it = tap / p.x.taps / p.y.taps;
    offset_m = static_cast<std::uint32_t>((it * g.y_in + iy) * g.x_in + ix) * source.pitch +
               static_cast<std::uint32_t>(word < 0 ? flat % chunks.whole : chunks.whole);
    bits_m = tap_bits(it, iy, ix);
  } else if (copies_m && s == splits.ones && flat == num_chunks) {
    copies_m = false;  // these stay
    for (int stage = 0; stage < Tile::kStages; ++stage)
      for (int row = row_m; row < kPositions; row += kRowStepM)
        store_ones<Elem>(
            stages_m + stage * S::kStageM + (row * S::kPitchM + column_m) * 16,
            (stage * kPositions + row) / PositionMajor<Elem, 1>::kStep);
  }
  const int column_n = thread % kLanesN, row_n = thread / kLanesN;
  const int n0 = static_cast<int>(blockIdx.y) * Tile::BN, chunk_n = n0 / kChunk<Elem> + column_n;
  // Threads past the tile's columns or rows copy nothing; columns past the last are filled with zeros.
  const bool copies_n =
      (S::kChunksN == kLanesN || column_n < S::kChunksN) && (kRowStepN <= kPositions || row_n < kPositions);
  const int first_position = first_step * kPositions;
  const Elem* from_n =
      p.rows.data + (static_cast<std::size_t>(first_position + row_n) * p.rows.pitch + chunk_n) * kChunk<Elem>;
  int left_n = chunk_n < p.rows.chunks ? num_positions - first_position - row_n : 0;  // from this thread's first row on
  const Elem* const from_m = source.data + (word < 0 ? 0 : word % chunks.words * 2);
  const shared_address to_m =
      shared_address(stages_m) + ((row_m * S::kPitchM + column_m) * 16 + (word < 0 ? 0 : word % 4 * 4));
  const shared_address to_n = shared_address(stages_n) + (row_n * S::kPitchN + column_n) * 16;

  // Steps are loaded in order.
  const auto load = [&](int step, int stage) {
    const auto copy_m = [&](const auto& copy) {
      const Window* in_step = windows + step % S::kWindowSteps * kPositions + row_m;
      constexpr int kAtOnce = kPacked ? 4 : kLoadsM;  // packed, there are no registers for more
#pragma unroll 1
      for (int first = 0; first < kLoadsM; first += kAtOnce) {
        Window window[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) window[i] = in_step[(first + i) * kRowStepM];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          // Outside of the window the address means nothing, and nothing is read.
          const std::uint32_t at = window[i].origin + offset_m;
          copy(
              to_m + (stage * S::kStageM + (first + i) * kRowStepM * S::kPitchM * 16),
              from_m + std::size_t{at} * kChunk<Elem>, (window[i].inside & bits_m) == bits_m);
        }
      }
    };
    if (kPacked && word >= 0)
      copy_m([](shared_address to, const Elem* from, bool valid) { cp_async_4(to, from, valid); });
    else if (copies_m)
      copy_m([](shared_address to, const Elem* from, bool valid) { cp_async_16(to, from, valid); });
    if (copies_n) {
#pragma unroll
      for (int i = 0; i < kLoadsN; ++i)
        cp_async_16(
            to_n + (stage * S::kStageN + i * kRowStepN * S::kPitchN * 16),
            from_n + std::size_t{p.rows.pitch} * (i * kRowStepN * kChunk<Elem>), i * kRowStepN < left_n);
    }
    from_n += std::size_t{p.rows.pitch} * (kPositions * kChunk<Elem>);
    left_n -= kPositions;
  };

  // Every warp writes the windows of one step of the next kWarps, all at the same time, one barrier before they are
  // used or more. With kStages - 1 steps on their way, these are step + kStages and the following.
  constexpr int kWarps = Tile::kThreads / 32;
  static_assert(Tile::kStages <= S::kWindowSteps);
  WindowWalker walker(g, first_position + warp * kPositions + lane, kWarps * kPositions);
  int window_step = warp;
  const auto write_windows = [&] {
    Window w = walker.window(g, first_position + window_step * kPositions + lane < num_positions);
    w.origin *= source.pitch;
    windows[window_step % S::kWindowSteps * kPositions + lane] = w;
    walker.advance(g);
    window_step += kWarps;
  };
  for (int j = 0; j < Tile::kStages; j += kWarps) write_windows();
  __syncthreads();
  for (int j = 0; j < Tile::kStages - 1; ++j) {
    if (j < steps) load(j, j);
    cp_async_commit();
  }

  float acc[kTilesRows][kTilesColumns][4] = {};
  const int warp_m = warp / Tile::kWarpsN * Tile::WM, warp_n = warp % Tile::kWarpsN * Tile::WN;
  using RowsOf = PositionMajor<Elem, kPacked ? S::kPitchN : S::kPitchM>;
  using ColumnsOf = PositionMajor<Elem, kPacked ? S::kPitchM : S::kPitchN>;
  const unsigned char* rows_at = (kPacked ? stages_n : stages_m) + RowsOf::rows_at(kPacked ? warp_n : warp_m, lane);
  const unsigned char* columns_at =
      (kPacked ? stages_m : stages_n) + ColumnsOf::columns_at(kPacked ? warp_m : warp_n, lane);
  // f(m, n, sum) for all results whose eights of m, from `first` on, has(first).
  const auto for_results = [&](const auto& has, const auto& f) {
#pragma unroll
    for (int a = 0; a < Tile::WM / 8; ++a) {
      const int first = tile_m * Tile::BM + warp_m + a * 8;
      if (!has(first)) continue;
#pragma unroll
      for (int b = 0; b < Tile::WN / 8; ++b)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int row = lane >> 2, column = (lane & 3) * 2 + e;  // of 8 x 8
          f(first + (kPacked ? column : row), n0 + warp_n + b * 8 + (kPacked ? row : column),
            kPacked ? acc[b / 2][a][b % 2 * 2 + e] : acc[a / 2][b][a % 2 * 2 + e]);
        }
    }
  };
  // The ones, if this block has them: their sums are put by now and then, where there are registers for it.
  constexpr bool kPutsBy = Tile::WM * Tile::WN / 32 <= 176;
  const int end_m = num_chunks * kChunk<Elem>;
  const bool has_ones = s == splits.ones && tile_m == num_chunks / S::kChunksM;
  const int steps_at_once = kPutsBy && has_ones ? kOnesPositions / kPositions : steps;
  int stage = 0, fill = Tile::kStages - 1;
  for (int step = 0; step < steps;) {
    const int from = step;
    for (const int end = min(steps, step + steps_at_once); step < end; ++step) {
      cp_async_wait<Tile::kStages - 2>();
      __syncthreads();
      if (step + Tile::kStages - 1 < steps) load(step + Tile::kStages - 1, fill);
      cp_async_commit();
      if ((step + Tile::kStages) % kWarps == 0) write_windows();
      const unsigned char* tile_a = rows_at + stage * (kPacked ? S::kStageN : S::kStageM);
      const unsigned char* tile_b = columns_at + stage * (kPacked ? S::kStageM : S::kStageN);
#pragma unroll
      for (int k = 0; k < kPositions; k += RowsOf::kStep) {
        Fragment<Elem, 4> a[kTilesRows];
#pragma unroll
        for (int i = 0; i < kTilesRows; ++i) RowsOf::rows16(a[i], tile_a, k, i * 16);
#pragma unroll
        for (int j = 0; j < kTilesColumns; j += 2) {
          Fragment<Elem, 2> b[2];
          if (j + 1 < kTilesColumns)
            ColumnsOf::columns16(b, tile_b, k, j * 8);
          else
            ColumnsOf::columns8(b[0], tile_b, k, j * 8);
#pragma unroll
          for (int i = 0; i < kTilesRows; ++i) {
            multiply_add(acc[i][j], a[i], b[0]);
            if (j + 1 < kTilesColumns) multiply_add(acc[i][j + 1], a[i], b[1]);
          }
        }
      }
      stage = stage + 1 == Tile::kStages ? 0 : stage + 1;
      fill = fill + 1 == Tile::kStages ? 0 : fill + 1;
    }
    if (!has_ones) continue;
    float* sums = bias_partials(p, splits.count, static_cast<int>(blockIdx.z));
    for_results(
        [&](int first) { return first == end_m / 8 * 8; },
        [&](int m, int n, float& v) {
          const bool mine = m >= end_m && m < end_m + kChunk<Elem>;
          const bool more = (kPutsBy && from > 0) || (kPacked && m % 2 == 1);  // the other channel of two was put by
          put_bias_by<kPacked>(sums, n, p.num_columns, lane, mine ? v : 0.0f, !more);
          if (kPutsBy && mine) v = 0.0f;
        });
  }
  cp_async_wait<0>();

  const int taps = p.t.taps * p.y.taps * p.x.taps;
  const std::int64_t row = std::int64_t{taps} * (p.source[0].chunks + p.source[1].chunks) * kChunk<Elem>;
  const std::int64_t first_m = std::int64_t{s == 0 ? 0 : taps * p.source[0].chunks} * kChunk<Elem>;
  float* partial = p.workspace + std::int64_t{blockIdx.z} * p.num_columns * row + first_m;
  for_results(
      [&](int first) { return first < end_m; },
      [&](int m, int n, float v) {
        if ((kChunk<Elem> == 8 || m < end_m) && n < p.num_columns) partial[n * row + m] = v;
      });
}

/// d_w from the partial sums, and with p.d_bias that: one thread per element, splits in order. With `packed` these lie
/// as a packed tile left them.
template <class Elem>
__global__ void __launch_bounds__(256) add_splits_kernel(GatherWeightGrad<Elem> p, int splits, bool packed) {
  const int taps = p.t.taps * p.y.taps * p.x.taps, columns = p.source_channels[0] + p.source_channels[1];
  const std::int64_t index = std::int64_t{blockIdx.x} * 256 + threadIdx.x;
  const std::int64_t elements = std::int64_t{p.num_columns} * taps * columns;
  if (index >= elements) {
    if (p.d_bias == nullptr || index >= elements + p.num_columns) return;
    const float* from = bias_partials(p, splits, 0) + (index - elements);
    float sum = 0.0f;
    for (int i = 0; i < splits; ++i) sum += from[std::int64_t{i} * p.num_columns];
    p.d_bias[index - elements] = sum;
    return;
  }
  const std::int64_t row = index / columns;
  const int column = static_cast<int>(index % columns), tap = static_cast<int>(row % taps);
  const int source = column < p.source_channels[0] ? 0 : 1;
  const std::int64_t of_first = std::int64_t{taps} * p.source[0].chunks * kChunk<Elem>;
  const std::int64_t flat = of_first + std::int64_t{taps} * p.source[1].chunks * kChunk<Elem>;
  const int channel = source == 0 ? column : column - p.source_channels[0];
  const std::int64_t m = (source == 0 ? 0 : of_first) + grad_chunks(p, source, packed).at(tap, channel, kChunk<Elem>);
  const std::int64_t at = row / taps * flat + m;
  float sum = 0.0f;
  for (int i = 0; i < splits; ++i) sum += p.workspace[i * p.num_columns * flat + at];  // null without splits
  p.d_w.row(row)[column] = sum;
}

// ---- column sums ----

constexpr int kSumRows = 32, kSumChunks = 8;  // threads of a block

/// partial[split][c]: each block adds its rows, 32 at a time, for 8 chunks of columns.
template <class Elem>
__global__ void __launch_bounds__(kSumRows* kSumChunks) column_sums_kernel(
    std::int64_t num_rows, std::int64_t rows_per_split, int C, ChunkRows<const Elem> rows, float* partial) {
  AVID_SHARED(float, sums, [kSumRows][kSumChunks * kChunk<Elem> + 1]);
  const int lane = static_cast<int>(threadIdx.x) / kSumChunks, column = static_cast<int>(threadIdx.x) % kSumChunks;
  const int chunk = static_cast<int>(blockIdx.y) * kSumChunks + column;
  float v[kChunk<Elem>] = {};
  if (chunk < rows.chunks) {
    const std::int64_t begin = blockIdx.x * rows_per_split;
    const std::int64_t end = begin + rows_per_split < num_rows ? begin + rows_per_split : num_rows;
    for (std::int64_t r = begin + lane; r < end; r += kSumRows) {
      float add[kChunk<Elem>];
      load_chunk(add, rows.data + (r * rows.pitch + chunk) * kChunk<Elem>);
#pragma unroll
      for (int k = 0; k < kChunk<Elem>; ++k) v[k] += add[k];
    }
  }
#pragma unroll
  for (int k = 0; k < kChunk<Elem>; ++k) sums[lane][column * kChunk<Elem> + k] = v[k];
  __syncthreads();
  const int c = static_cast<int>(threadIdx.x), at = static_cast<int>(blockIdx.y) * kSumChunks * kChunk<Elem> + c;
  if (c >= kSumChunks * kChunk<Elem> || at >= C) return;
  float sum = 0.0f;
  for (int i = 0; i < kSumRows; ++i) sum += sums[i][c];
  partial[blockIdx.x * std::int64_t{C} + at] = sum;
}

}  // namespace AVID_GPU

namespace {

template <class Backend, class Elem>
void sum_columns(
    const Stream& stream, std::int64_t num_rows, std::int64_t C, const ChunkRows<const Elem>& rows, float* sums,
    float* workspace) {
  const int splits = static_cast<int>(column_sums_splits(num_rows));
  if (splits > 0) {
    const dim3 grid(
        static_cast<unsigned>(splits),
        static_cast<unsigned>((rows.chunks + AVID_GPU::kSumChunks - 1) / AVID_GPU::kSumChunks));
    AVID_GPU::launch(
        AVID_GPU::column_sums_kernel<Elem>, grid, dim3(AVID_GPU::kSumRows * AVID_GPU::kSumChunks), 0, stream, num_rows,
        (num_rows + splits - 1) / splits, static_cast<int>(C), rows, workspace);
  }
  AVID_GPU::sum_rows(stream, workspace, splits, C, C, sums);
}

}  // namespace

template <class Backend, class Elem>
void gather_weight_grad(const Stream& stream, const GatherWeightGrad<Elem>& given) {
  GatherWeightGrad<Elem> p = given;
  const int taps = p.t.taps * p.y.taps * p.x.taps;
  const bool wgmma = sizeof(Elem) == 2 && (p.tile >= kFirstWgmmaTile || have_wgmma<Backend>());
  const WeightGradPlan plan = plan_weight_grad(p, wgmma ? kGradHopper : kGradAmpere);
  if (plan.ones < 0) p.d_bias = nullptr;  // not in this product
  if constexpr (sizeof(Elem) == 2) {
    if (plan.tile >= kFirstWgmmaTile) gather_weight_grad_wgmma<Backend>(stream, p, plan);
  }
  if (plan.splits > 0 && plan.tile < kFirstWgmmaTile) {
    WeightGradTiles<Elem>::with(plan.tile, [&]<class Tile>() {
      const auto tiles = [&](int s) {
        return (grad_chunks(p, s, plan.packed).all() * kChunk<Elem> + Tile::BM - 1) / Tile::BM;
      };
      const dim3 grid(
          static_cast<unsigned>(tiles(0) + tiles(1)), static_cast<unsigned>((p.num_columns + Tile::BN - 1) / Tile::BN),
          static_cast<unsigned>(plan.splits));
      AVID_GPU::launch(
          AVID_GPU::gather_weight_grad_kernel<Elem, Tile>, grid, dim3(Tile::kThreads),
          AVID_GPU::WeightGradShape<Elem, Tile>::kSharedBytes, stream, p,
          AVID_GPU::Splits{plan.splits, plan.steps_per_split, p.d_bias != nullptr ? plan.ones : -1}, tiles(0));
    });
  }
  const std::int64_t elements = std::int64_t{p.num_columns} * taps * (p.source_channels[0] + p.source_channels[1]);
  const std::int64_t sums = elements + (p.d_bias != nullptr ? p.num_columns : 0);
  if (sums > 0)
    AVID_GPU::launch(
        AVID_GPU::add_splits_kernel<Elem>, dim3(static_cast<unsigned>((sums + 255) / 256)), dim3(256), 0, stream, p,
        plan.splits, plan.packed);
  if (given.d_bias != nullptr && p.d_bias == nullptr)
    sum_columns<Backend>(
        stream, std::int64_t{p.B} * p.t.result * p.y.result * p.x.result, p.num_columns, p.rows, given.d_bias,
        p.workspace);
}

template <class Backend, class Elem>
void column_sums(
    const Stream& stream, std::int64_t num_rows, std::int64_t C, Rows<const Elem> rows, float* sums, float* workspace) {
  if (C > 0) sum_columns<Backend>(stream, num_rows, C, chunk_rows("column_sums", "rows", rows, C), sums, workspace);
}

template void gather_weight_grad<Gpu, float>(const Stream&, const GatherWeightGrad<float>&);
template void gather_weight_grad<Gpu, BFloat16>(const Stream&, const GatherWeightGrad<BFloat16>&);
template void column_sums<Gpu, float>(const Stream&, std::int64_t, std::int64_t, Rows<const float>, float*, float*);
template void column_sums<Gpu, BFloat16>(
    const Stream&, std::int64_t, std::int64_t, Rows<const BFloat16>, float*, float*);

}  // namespace avid::kernels
