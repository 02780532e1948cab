// kernels/gather_gemm.cu -- implicit-GEMM product of gathered rows with weights (contract: gather_gemm.h)
//
// Math      out[r,n] = bias[n] + residual[r,n] + sum_{s,k,c} source_s[row(r,k)][c] * weights[n][s,k,c]
// Layout    rows of 16-byte chunks; the inner dimension is (source, tap, chunk) flattened, 4 chunks a step, so a step
//           may straddle taps and sources and only the very last one is padded
// Parallel  a block owns BM rows x BN columns (conv_tiles.h); grid (row tiles, column tiles, phases of the adjoint).
//           A warp owns WM x WN of them in registers. In the loads four neighbouring threads fetch the 4 chunks of a
//           row; a thread keeps its chunk column and its BM*4/threads windows (gather_geometry.h), and walks the taps
//           by a table in shared memory: no division and no branch per row
// Pipeline  cp.async into kStages buffers, one barrier a step. Rows of 64 bytes with chunk index XOR (row/2 mod 4):
//           free of bank conflicts for the copies and for ldmatrix
// Traffic   each block reads its source rows once per tap (from the cache after the first) and its weights once
//           normed rows (gather_norm.h): each result once instead of three times
// Numerics  bf16: products exact, sums f32, one rounding at the store (sums start at the bias, the residual is added
//           last). f32: three TF32 products (tile_products.h), about 2^-21 of the largest term each, in steps of 8 that
//           f32 additions sum; an infinite operand gives NaN
// Limits    2^31 rows; 2^32 chunks per source and for the weights (64 GiB); 9 taps in t, 11 in y and x;
//           65534 chunks of channels
// Measured  never run on a GPU yet
// Predicted 0.75 of the dense bf16 peak of an A100 for the wide tiles (conv_tiles.h)
// Elsewhere gather_gemm_halo.cu: windows in a plane; gather_gemm_wgmma.cu, gather_gemm_halo_wgmma.cu: compute
//           capability 9.0
// Oracle    kernels/{conv3d,conv_transpose3d,linear}_cpu.cpp in f64, compared in tests/sim/
#include "kernels/gather_gemm.h"

#include <string>
#include <type_traits>

#include "kernels/device/conv_tiles.h"
#include "kernels/device/gather_layer_norm_grad.h"
#include "kernels/device/gather_norm_grad.h"
#include "kernels/device/gpu.h"
#include "kernels/device/tile_products.h"

namespace avid::kernels {
namespace AVID_GPU {

constexpr int kStepChunks = 4;               // chunks per row and step of the inner dimension
constexpr int kRowBytes = 16 * kStepChunks;  // a row of a stage

template <class Tile>
constexpr int kPaddedBN = (Tile::BN + 15) / 16 * 16;  // ldmatrix takes 16 rows of weights at a time

template <class Tile>
constexpr std::size_t gather_gemm_shared_bytes(int tap_table_size) {
  return gather_stage_bytes<Tile>() + Tile::BM * sizeof(int) + tap_table_size * sizeof(Tap);
}

/// End: PlainRows or NormedRows (gather_norm.h), NormGradRows (gather_norm_grad.h), or LayerNormGradRows
/// (gather_layer_norm_grad.h).
template <class Elem, class Tile, class End>
__global__ void __launch_bounds__(Tile::kThreads, 2) gather_gemm_kernel(GatherGemm<Elem> p) {
  constexpr int kRowStep = Tile::kThreads / kStepChunks;  // rows between two loads of a thread; a multiple of 8
  constexpr int kLoadsA = Tile::BM / kRowStep, kLoadsB = (kPaddedBN<Tile> + kRowStep - 1) / kRowStep;
  constexpr int kTilesM = Tile::WM / 16, kTilesN = Tile::WN / 8;
  constexpr int kStageA = Tile::BM * kRowBytes, kStageB = kPaddedBN<Tile> * kRowBytes;
  static_assert(Tile::BM % kRowStep == 0 && kRowStep % 8 == 0, "the swizzle is the same for all loads of a thread");
  static_assert(Tile::kWarpsN == 1 || (Tile::WN % 16 == 0 && std::is_same_v<End, PlainRows>));

  const GatherView g(p, p.adjoint, static_cast<int>(blockIdx.z));
  const int M = p.B * g.rows_per_clip(), m0 = static_cast<int>(blockIdx.x) * Tile::BM;
  const int n0 = static_cast<int>(blockIdx.y) * Tile::BN;
  if (m0 >= M) return;  // phases differ in size

  SharedArena arena;
  unsigned char* stages_a = arena.take<unsigned char>(Tile::kStages * (kStageA + kStageB), "stages");
  unsigned char* stages_b = stages_a + Tile::kStages * kStageA;
  int* out_row = arena.take<int>(Tile::BM, "out_row");
  Tap* taps = arena.take<Tap>(tap_table_size(p), "taps");

  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int load_column = thread % kStepChunks, load_row = thread / kStepChunks;

  Window window[kLoadsA];
#pragma unroll
  for (int i = 0; i < kLoadsA; ++i) {
    const int r = load_row + i * kRowStep, m = m0 + r;
    if (m < M) {
      const RowPosition at(g, m);
      window[i] = window_at(g, at.b, at.t, at.y, at.x);
      if (load_column == 0) out_row[r] = result_row(g, at);
    } else if (load_column == 0) {
      out_row[r] = -1;
    }
  }

  const int num_taps = g.t.taps * g.y.taps * g.x.taps;
  for (int i = thread; i < 2 * num_taps + 1; i += Tile::kThreads) taps[i] = tap_at(p, g, num_taps, i);
  __syncthreads();

  const int num_weight_rows = min(Tile::BN, p.num_weight_rows - n0);  // of this block; rows past them are zero
  InnerCursor<Elem, kStepChunks> inner(p, taps, load_column);
  const shared_address load_a = shared_address(stages_a) + swizzled_64(load_row, load_column);
  const shared_address load_b = shared_address(stages_b) + swizzled_64(load_row, load_column);
  const std::uint32_t weight_row = static_cast<std::uint32_t>(n0 + load_row) * p.weight_row;
  const auto load = [&](int stage) {
#pragma unroll
    for (int i = 0; i < kLoadsA; ++i) {
      const bool valid = (window[i].inside & inner.bits) == inner.bits;
      const std::uint32_t at = valid ? window[i].origin * inner.pitch + inner.offset : 0;
      cp_async_16(
          load_a + (stage * kStageA + i * kRowStep * kRowBytes), inner.data + std::size_t{at} * kChunk<Elem>, valid);
    }
    std::uint32_t at = weight_row + static_cast<std::uint32_t>(inner.weight);
    const int weight_rows = inner.done() ? 0 : num_weight_rows;
#pragma unroll
    for (int i = 0; i < kLoadsB; ++i, at += kRowStep * p.weight_row) {
      const int r = load_row + i * kRowStep;
      if (kPaddedBN<Tile> % kRowStep != 0 && r >= kPaddedBN<Tile>) break;
      const shared_address to = load_b + (stage * kStageB + i * kRowStep * kRowBytes);
      cp_async_16(to, p.weights + std::size_t{at} * kChunk<Elem>, r < weight_rows);  // nothing is read past the rows
    }
    inner.advance();
  };

  const int inner_chunks = num_taps * (p.source[0].chunks + p.source[1].chunks);
  const int steps = (inner_chunks + kStepChunks - 1) / kStepChunks;
#pragma unroll
  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < steps) load(s);
    cp_async_commit();
  }

  const int warp_m = warp / Tile::kWarpsN * Tile::WM, warp_n = warp % Tile::kWarpsN * Tile::WN;
  float acc[kTilesM][kTilesN][4];
  start_at_bias<kTilesM, Tile::WN>(p, n0 + warp_n, lane, [&](int i, int j, int e) -> float& { return acc[i][j][e]; });
  // ldmatrix: lane i addresses a row of block i/8. A: rows 0-7, 8-15 of the first chunk, then of the second.
  // B: first and second chunk of columns 0-7, then of columns 8-15.
  const int row_a = warp_m + (lane & 15), row_b = warp_n + (lane >> 4) * 8 + (lane & 7);
  int stage = 0;
  for (int left = steps; left > 0; --left) {
    cp_async_wait<Tile::kStages - 2>();
    __syncthreads();  // this stage is complete for everybody, and the one before it is free
    if (left >= Tile::kStages) load(stage == 0 ? Tile::kStages - 1 : stage - 1);
    cp_async_commit();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const shared_address a_at =
          shared_address(stages_a) + (stage * kStageA + swizzled_64(row_a, half * 2 + (lane >> 4)));
      const shared_address b_at =
          shared_address(stages_b) + (stage * kStageB + swizzled_64(row_b, half * 2 + ((lane >> 3) & 1)));
      Fragment<Elem, 4> a[kTilesM];
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        std::uint32_t r[4];
        ldmatrix_x4(r, a_at + i * 16 * kRowBytes);
#pragma unroll
        for (int k = 0; k < 4; ++k) a[i].set(k, r[k]);
      }
#pragma unroll
      for (int j = 0; j < kTilesN; j += 2) {
        std::uint32_t r[4];
        ldmatrix_x4(r, b_at + j * 8 * kRowBytes);
        Fragment<Elem, 2> b[2];
#pragma unroll
        for (int k = 0; k < 4; ++k) b[k / 2].set(k % 2, r[k]);
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
          multiply_add(acc[i][j], a[i], b[0]);
          if (j + 1 < kTilesN) multiply_add(acc[i][j + 1], a[i], b[1]);
        }
      }
    }
    stage = stage + 1 == Tile::kStages ? 0 : stage + 1;
  }
  cp_async_wait<0>();
  __syncthreads();  // the stages are free for the epilogue

  // Epilogue: 16 rows of a warp at a time through its own shared memory, then whole chunks.
  constexpr int kPitch = staged_pitch(Tile::WN);
  constexpr std::size_t kStagedBytes = staged_bytes(Tile::kThreads / 32, Tile::WN);
  static_assert(kStagedBytes <= gather_stage_bytes<Tile>(), "staging fits into the stages");
  if constexpr (std::is_same_v<End, LayerNormGradRows>) {
    return end_in_layer_norm_grad<Tile::BN, Tile::kThreads / 32, kTilesM>(
        p, stages_a, thread, [&](int i) { return out_row + warp_m + i * 16; },
        [&](int i, int j, int e) { return acc[i][j][e]; }, [] { __syncthreads(); });
  }
  if constexpr (std::is_same_v<End, NormGradRows>) {
    return end_in_norm_grad<Tile::BN, Tile::kThreads / 32, kTilesM>(
        p, stages_a, m0, thread, [&](int i) { return out_row + warp_m + i * 16; },
        [&](int i, int j, int e) { return acc[i][j][e]; }, [] { __syncthreads(); });
  }
  NormTable table{};
  if constexpr (End::kNorm) {
    table = fill_norm_table<Tile::BN>(p, stages_a + kStagedBytes, m0, thread, Tile::kThreads);
    __syncthreads();
  }
  float* staged = reinterpret_cast<float*>(stages_a) + warp * 16 * kPitch;
  store_fragments<End, Elem, Tile::WN, kPitch, kTilesM>(
      p, staged, (n0 + warp_n) / kChunk<Elem>, lane, table, [&](int i) { return out_row + warp_m + i * 16; },
      [&](int i, int j, int e) { return acc[i][j][e]; });
}

// ---- weights into the product's layout ----

/// One thread per chunk of the result (contract: PackWeights). Neighbours read neighbours: transposed, the channels of
/// one row of w, i.e. rows n of the result; otherwise the chunks of one row.
template <class Elem>
__global__ void __launch_bounds__(256) pack_weights_kernel(PackWeights<Elem> p) {
  const std::int64_t i = std::int64_t{blockIdx.x} * 256 + threadIdx.x, rows = p.to_rows(),
                     row_chunks = p.to_row_chunks();
  if (i >= rows * row_chunks) return;
  const std::int64_t n = p.transposed ? i % rows : i / row_chunks;
  std::int64_t c = p.transposed ? i / rows : i % row_chunks;
  Elem* to = p.to + (n * row_chunks + c) * kChunk<Elem>;
  float v[kChunk<Elem>];
  if (p.transposed) {
    // n is a column of the first block, or of the second behind whole chunks of the first; c runs over (tap, channel
    // o).
    const std::int64_t first = chunks_of<Elem>(p.columns(0)) * kChunk<Elem>;
    const int block = n < first ? 0 : 1;
    const std::int64_t column = block == 0 ? n : n - first;
    const std::int64_t tap = c / chunks_of<Elem>(p.O), o = c % chunks_of<Elem>(p.O) * kChunk<Elem>;
#pragma unroll
    for (int k = 0; k < kChunk<Elem>; ++k)
      v[k] = column < p.columns(block) && o + k < p.O
                 ? to_float(p.from.row((o + k) * p.taps + tap)[(block == 0 ? 0 : p.I) + column])
                 : 0.0f;
  } else {
    const std::int64_t first = p.taps * chunks_of<Elem>(p.I);
    const int block = c < first ? 0 : 1;
    if (block == 1) c -= first;
    const std::int64_t channels = block == 0 ? p.I : p.I2, chunks = chunks_of<Elem>(channels);
    const std::int64_t tap = c / chunks, channel = c % chunks * kChunk<Elem>;
    const Elem* from = p.from.row(n * p.taps + tap) + (block == 0 ? 0 : p.I) + channel;
#pragma unroll
    for (int k = 0; k < kChunk<Elem>; ++k) v[k] = channel + k < channels ? to_float(from[k]) : 0.0f;
  }
  store_chunk(to, v);
}

}  // namespace AVID_GPU

namespace {

struct ProductSize {
  std::int64_t M, N;  // M of the largest phase
  int phases;
};

template <class Elem>
ProductSize size_of(const GatherGemm<Elem>& p) {
  const auto rows = [&](const GatherAxis& a) { return p.adjoint ? (a.result + a.stride - 1) / a.stride : a.result; };
  return {
      std::int64_t{p.B} * rows(p.t) * rows(p.y) * rows(p.x),
      std::int64_t{p.out[0].chunks + p.out[1].chunks} * kChunk<Elem>,
      p.adjoint ? p.t.stride * p.y.stride * p.x.stride : 1};
}

/// By shape and kind of device, unless p names a tile.
template <class Backend, class Elem>
int tile_of(const GatherGemm<Elem>& p, const ProductSize& size) {
  const std::int64_t rows = size.M * size.phases;
  int tile = p.tile;
  if constexpr (sizeof(Elem) == 2) {
    if (tile == kChooseTile)
      tile = have_wgmma<Backend>() ? choose_hopper_tile(p, rows, size.N) : choose_halo_tile(p, rows, size.N);
  }
  return tile == kChooseTile ? GatherGemmTiles<Elem>::best(rows, size.N).index : tile;
}

}  // namespace

template <class Backend>
NormSumBlocks norm_blocks(const GatherGemm<BFloat16>& p) {
  const ProductSize size = size_of(p);
  return size.M > 0 && size.N > 0 ? norm_blocks(p, tile_of<Backend>(p, size)) : NormSumBlocks{};
}

template <class Backend>
std::int64_t layer_norm_grad_blocks(const GatherGemm<BFloat16>& p) {
  const ProductSize size = size_of(p);
  if (size.M == 0 || size.N == 0) return 0;
  const int rows = layer_norm_grad_rows(p, tile_of<Backend>(p, size));
  return rows > 0 ? (size.M + rows - 1) / rows : 0;
}

template <class Backend, class Elem>
void gather_gemm(const Stream& stream, const GatherGemm<Elem>& problem) {
  GatherGemm<Elem> p = problem;
  const ProductSize size = size_of(p);
  const std::int64_t M = size.M, N = size.N;
  const int phases = size.phases;
  if (M == 0 || N == 0) return;
  for (const ChunkRows<const Elem>& source : p.source)
    if (source.chunks >= 0xffff)
      throw GpuError(
          "gather_gemm: channels: at most " + std::to_string(0xfffe * kChunk<Elem>) + " on a device, got " +
          std::to_string(source.chunks * kChunk<Elem>));
  const int tile = tile_of<Backend>(p, size);
  if constexpr (sizeof(Elem) == 2) {
    if (p.norm.gamma != nullptr) p.norm.frames_per_block = norm_blocks(p, tile).frames;
    if (p.norm.gamma != nullptr && p.norm.frames_per_block == 0)
      throw GpuError(
          "gather_gemm: norm: tile " + std::to_string(tile) + " does not hold rows of " + std::to_string(p.norm.C) +
          " columns with their frames' coefficients | ask norm_blocks first");
    if (p.layer_norm.gamma != nullptr && layer_norm_grad_rows(p, tile) == 0)
      throw GpuError(
          "gather_gemm: layer_norm: tile " + std::to_string(tile) + " does not hold rows of " +
          std::to_string(p.layer_norm.C) + " columns | ask layer_norm_grad_blocks first");
    if (tile >= kFirstHaloMmaTile) return gather_gemm_halo<Backend>(stream, p, tile - kFirstHaloMmaTile);
    if (tile >= kFirstHaloTile) return gather_gemm_halo_wgmma<Backend>(stream, p, tile - kFirstHaloTile);
    if (tile >= kFirstWgmmaTile) return gather_gemm_wgmma<Backend>(stream, p, M, phases, tile - kFirstWgmmaTile);
  }
  GatherGemmTiles<Elem>::with(tile, [&]<class Tile>() {
    const auto run = [&]<class End>(End) {
      const dim3 grid(
          static_cast<unsigned>((M + Tile::BM - 1) / Tile::BM), static_cast<unsigned>((N + Tile::BN - 1) / Tile::BN),
          static_cast<unsigned>(phases));
      AVID_GPU::launch(
          AVID_GPU::gather_gemm_kernel<Elem, Tile, End>, grid, dim3(Tile::kThreads),
          AVID_GPU::gather_gemm_shared_bytes<Tile>(AVID_GPU::tap_table_size(p)), stream, p);
    };
    if constexpr (sizeof(Elem) == 2 && Tile::kWarpsN == 1) {
      if (p.norm.x.chunks > 0) return run(AVID_GPU::NormGradRows{});
      if (p.norm.gamma != nullptr) return run(AVID_GPU::NormedRows{});
      if (p.layer_norm.gamma != nullptr) return run(AVID_GPU::LayerNormGradRows{});
    }
    run(AVID_GPU::PlainRows{});
  });
}

template <class Backend, class Elem>
void pack_weights(const Stream& stream, const PackWeights<Elem>& p) {
  const std::int64_t chunks = p.to_rows() * p.to_row_chunks();
  if (chunks == 0) return;
  AVID_GPU::launch(
      AVID_GPU::pack_weights_kernel<Elem>, dim3(static_cast<unsigned>((chunks + 255) / 256)), dim3(256), 0, stream, p);
}

template NormSumBlocks norm_blocks<Gpu>(const GatherGemm<BFloat16>&);
template std::int64_t layer_norm_grad_blocks<Gpu>(const GatherGemm<BFloat16>&);
template void gather_gemm<Gpu, float>(const Stream&, const GatherGemm<float>&);
template void gather_gemm<Gpu, BFloat16>(const Stream&, const GatherGemm<BFloat16>&);
template void pack_weights<Gpu, float>(const Stream&, const PackWeights<float>&);
template void pack_weights<Gpu, BFloat16>(const Stream&, const PackWeights<BFloat16>&);

}  // namespace avid::kernels
