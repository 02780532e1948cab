// kernels/gather_gemm.h -- the matrix products under conv3d, conv_transpose3d and linear, on a device
//
// All of them are one product: rows are positions, columns are output channels, and the inner dimension runs over
// (source, tap, channel), where the row of a tap is gathered from the source instead of being copied into an im2col
// buffer. Memory is seen in chunks of 16 bytes (8 bf16 or 4 f32): every row starts at one, channels are rounded up to
// whole ones, and since gaps behind rows are zero a chunk that is half gap adds nothing.
#pragma once

#include <cstdint>

#include "kernels/conv3d.h"
#include "kernels/device/backend.h"
#include "kernels/rms_norm_film_silu.h"

namespace avid::kernels {

/// Channels per chunk of 16 bytes.
template <class Elem>
inline constexpr int kChunk = 16 / static_cast<int>(sizeof(Elem));

template <class Elem>
constexpr std::int64_t chunks_of(std::int64_t channels) {
  return (channels + kChunk<Elem> - 1) / kChunk<Elem>;
}

/// The rule of device/conv_tiles.h picks the tile. Other values name one: for tests of each, and for timing them.
inline constexpr int kChooseTile = -1;
/// Tiles from these numbers on are those of gather_gemm_wgmma (WgmmaTiles), of gather_gemm_halo_wgmma (HaloTiles) and
/// of gather_gemm_halo (HaloMmaTiles); of a weight gradient those of gather_weight_grad_wgmma (WgmmaGradTiles).
inline constexpr int kFirstWgmmaTile = 100, kFirstHaloTile = 200, kFirstHaloMmaTile = 300;

/// One axis of the window. Forward: result j, tap k meet at source j*stride - padding + k. Adjoint: result q, tap k
/// meet at the source p with q = p*stride - padding + k.
struct GatherAxis {
  int source = 1, result = 1, taps = 1, stride = 1, padding = 0;
};

/// Rows of chunks: `chunks` of them are used per row.
template <class Elem>
struct ChunkRows {
  Elem* data = nullptr;
  std::uint32_t pitch = 0;  ///< in chunks
  int chunks = 0;           ///< 0: absent
};

/// What may become of a row of sums before it is stored: rms_norm_film_silu of the row, rounded to Elem first, so that
/// out has the bits that this op makes of the stored row. Needs a block that holds whole rows: norm_blocks().
template <class Elem>
struct RowNorm {
  int F = 0, S = 0, C = 0;       ///< F frames of S rows of C columns
  const float* gamma = nullptr;  ///< [C]; null: no norm
  Rows<const float> film;        ///< [F,2C], scale and shift, or absent
  ChunkRows<Elem> sums;          ///< the rows before the norm, for a backward pass, or absent
  int frames_per_block = 0;      ///< whose coefficients a block keeps; gather_gemm fills it in

  /// With x, rows of sums are the gradient of h = rms_norm_film_silu(x), rounded to Elem, and out[0] is d_x: the bits
  /// that rms_norm_film_silu_bwd makes of the stored rows. Neither `sums` nor a residual. Needs norm_blocks().
  ChunkRows<const Elem> x;       ///< [.,C]
  float* column_sums = nullptr;  ///< [blocks,frames,2,C in whole chunks], all written: per frame of a block, over its
                                 ///< rows, of d_z x/n and of d_z (rms_norm_film_silu.cu)
};

/// What may become of a row d_h of sums instead, where h = LayerNorm(x): out[0] = residual + the norm's gradient, d_h
/// not rounded before. Needs a block that holds whole rows: layer_norm_blocks(). out[1] is absent.
template <class Elem>
struct LayerNormGrad {
  int C = 0;
  float eps = 0;
  const float* gamma = nullptr;  ///< [C]; null: none of this
  ChunkRows<const Elem> x;       ///< [.,C]
  float* d_gamma = nullptr;      ///< [layer_norm_grad_blocks][C in whole chunks] partial sums, all written; or null
};

/// out[r,n] = bias[n] + residual[r,n] + sum over (source s, tap k, chunk c) of source_s[row(r,k)][c] .
/// weights[n][s,k,c]
template <class Elem>
struct GatherGemm {
  int B = 1;
  GatherAxis t, y, x;
  bool adjoint = false;  ///< gathers for the transpose of the convolution (its data gradient)
  ChunkRows<const Elem> source[2];
  int source_channels[2] = {0, 0};  ///< that are not gaps; 0: all of the chunks

  // Weight chunk of (n, s, k, c): n*weight_row + weight_source[s] + k*weight_tap[s] + c; zero for n >= num_weight_rows.
  const Elem* weights = nullptr;
  std::uint32_t weight_row = 0;
  int weight_tap[2] = {0, 0}, weight_source[2] = {0, 0};
  int num_weight_rows = 0;

  const float* bias = nullptr;  ///< [num_bias], or null
  int num_bias = 0;
  ChunkRows<const Elem> residual, residual2;  ///< of the shapes of out[0] and out[1], or absent
  RowNorm<Elem> norm;                         ///< bf16; the residual is added behind it
  LayerNormGrad<Elem> layer_norm;             ///< bf16, not beside norm
  ChunkRows<Elem> out[2];  ///< columns are split: the first out[0].chunks chunks of every row, then the others
  int tile = kChooseTile;  ///< a tile of device/conv_tiles.h by its place in the list, kFirstWgmmaTile + place
};

/// Runs the product. Sums in f32; f32 elements are multiplied as three TF32 products of their halves. Every row of
/// every output is written, gaps of its last chunk as zero.
template <class Backend, class Elem>
void gather_gemm(const Stream& stream, const GatherGemm<Elem>& p);

/// Is the current device one of compute capability 9.0, was the code for it compiled, and is it allowed
/// (device/wgmma_switch.h)? Then gather_gemm takes a tile of WgmmaTiles for bf16 products where that is predicted to be
/// faster.
template <class Backend>
bool have_wgmma();
/// gather_gemm with tile `tile` of WgmmaTiles, for `phases` phases of up to M rows. Throws GpuError unless
/// have_wgmma().
template <class Backend>
void gather_gemm_wgmma(const Stream& stream, const GatherGemm<BFloat16>& p, std::int64_t M, int phases, int tile);
/// gather_gemm with tile `tile` of HaloMmaTiles. Throws GpuError unless this is a window in a plane whose result is as
/// large as its source, or the stride's part of it, and its halo fits (halo_ring_plan).
template <class Backend>
void gather_gemm_halo(const Stream& stream, const GatherGemm<BFloat16>& p, int tile);
/// gather_gemm with tile `tile` of HaloTiles. Throws GpuError unless this is such a window, its halo fits (halo_plan),
/// and have_wgmma().
template <class Backend>
void gather_gemm_halo_wgmma(const Stream& stream, const GatherGemm<BFloat16>& p, int tile);
/// For a device that has wgmma: the number of the tile that is predicted to be fastest for M rows and N columns, with a
/// kernel for the norm where p asks for one that the tile cannot do; below kFirstWgmmaTile where that is one of
/// mma.sync.
int choose_hopper_tile(const GatherGemm<BFloat16>& p, std::int64_t M, std::int64_t N);
/// For other devices: kFirstHaloMmaTile + place, or kChooseTile where a tile of gather_gemm is as fast.
int choose_halo_tile(const GatherGemm<BFloat16>& p, std::int64_t M, std::int64_t N);

/// How a product of which shapes count, norm.F and norm.S among them, is cut into blocks with this tile if they can
/// norm its rows, or, where norm.x has chunks, make the norm's gradient of them: then RowNorm::column_sums lie so.
/// Count 0: a block does not hold whole rows, or so many frames that the coefficients do not fit.
NormSumBlocks norm_blocks(const GatherGemm<BFloat16>& p, int tile);
/// The same with the tile that gather_gemm chooses for p, or that p names: by shapes, and by the kind of device, alone.
template <class Backend>
NormSumBlocks norm_blocks(const GatherGemm<BFloat16>& p);

/// Rows of a block of this tile if it can end p in the gradient of a LayerNorm, else 0.
int layer_norm_grad_rows(const GatherGemm<BFloat16>& p, int tile);
/// Blocks that gather_gemm runs p with if the tile that it chooses can end in the gradient of a LayerNorm, else 0. By
/// shapes, and by the kind of device, alone.
template <class Backend>
std::int64_t layer_norm_grad_blocks(const GatherGemm<BFloat16>& p);

/// Copies weights into the layout that a product wants: to[n][source][tap][chunk], zero in all gaps.
///
/// `from` has rows (o, tap), each holding I + I2 channels. Plain: n = o, the sources are the two column blocks.
/// Transposed: n runs over whole chunks of the first column block, then of the second, and the one source is the
/// channels o. A column block that is not used is left out (transposed only).
template <class Elem>
struct PackWeights {
  Rows<const Elem> from;
  std::int64_t O = 0, taps = 1, I = 0, I2 = 0;
  bool transposed = false;
  bool use_first = true, use_second = true;
  Elem* to = nullptr;

  constexpr std::int64_t columns(int block) const { return block == 0 ? (use_first ? I : 0) : (use_second ? I2 : 0); }
  constexpr std::int64_t to_rows() const {
    return transposed ? (chunks_of<Elem>(columns(0)) + chunks_of<Elem>(columns(1))) * kChunk<Elem> : O;
  }
  constexpr std::int64_t to_row_chunks() const {
    return taps * (transposed ? chunks_of<Elem>(O) : chunks_of<Elem>(I) + chunks_of<Elem>(I2));
  }
  constexpr std::int64_t to_bytes() const { return to_rows() * to_row_chunks() * 16; }
};

template <class Backend, class Elem>
void pack_weights(const Stream& stream, const PackWeights<Elem>& p);

/// d_w[n, (tap, channel)] = sum over positions r of rows[r,n] * source_s[row(r,tap)][channel], in f32, where the
/// geometry is that of a convolution from the sources' space to that of `rows` (never adjoint).
template <class Elem>
struct GatherWeightGrad {
  int B = 1;
  GatherAxis t, y, x;
  ChunkRows<const Elem> source[2];
  int source_channels[2] = {0, 0};
  ChunkRows<const Elem> rows;  ///< d_out of a convolution
  int num_columns = 0;         ///< n < num_columns
  Rows<float> d_w;             ///< rows (n, tap) of source_channels[0] + [1] columns
  float* d_bias = nullptr;     ///< [num_columns] sums of the columns of `rows`, or null
  int tile = kChooseTile;      ///< a tile of device/weight_grad_tiles.h by its place in the list
  int splits = 0;              ///< into how many the positions are cut, about; 0: the rule decides
  float* workspace = nullptr;  ///< gather_weight_grad_workspace_bytes
};

inline constexpr int kWeightGradPositions = 32;  ///< of a step
template <class Elem>
std::int64_t gather_weight_grad_workspace_bytes(const GatherWeightGrad<Elem>& p);

/// Positions are cut into splits by what is asked for and the kind of device alone (device/weight_grad_plan.h), each
/// writes its own partial sums, and a second kernel adds them in order: the same bits in every run. d_bias comes out of
/// the same product where a tile has a column to spare for it, and otherwise from column_sums.
template <class Backend, class Elem>
void gather_weight_grad(const Stream& stream, const GatherWeightGrad<Elem>& p);

struct WeightGradPlan;
/// The partial sums of gather_weight_grad with a plan that names a tile of WgmmaGradTiles. Throws GpuError unless
/// have_wgmma().
template <class Backend>
void gather_weight_grad_wgmma(const Stream& stream, const GatherWeightGrad<BFloat16>& p, const WeightGradPlan& plan);

/// sums[c] = sum over num_rows rows of rows[r,c], in f32, in a fixed order. Workspace: column_sums_workspace_bytes.
template <class Backend, class Elem>
void column_sums(
    const Stream& stream, std::int64_t num_rows, std::int64_t C, Rows<const Elem> rows, float* sums, float* workspace);
std::int64_t column_sums_splits(std::int64_t num_rows);
std::int64_t column_sums_workspace_bytes(std::int64_t num_rows, std::int64_t C);

// ---- from the sizes of a convolution ----

/// Throws GpuError unless the rows start at 16-byte boundaries; `op: name: ...`.
void check_chunk_rows(const char* op, const char* name, const void* data, std::int64_t pitch, std::size_t elem_size);

template <class Elem>
ChunkRows<Elem> chunk_rows(const char* op, const char* name, Rows<Elem> rows, std::int64_t channels) {
  if (!rows) return {};
  check_chunk_rows(op, name, rows.data, rows.pitch, sizeof(Elem));
  return {
      rows.data, static_cast<std::uint32_t>(rows.pitch / kChunk<Elem>), static_cast<int>(chunks_of<Elem>(channels))};
}

/// Axis d (0 t, 1 y, 2 x) of a convolution, or of its adjoint. Throws GpuError when an extent passes this family's
/// limits (2^31 positions; taps up to 9 in t, 11 in y and x).
GatherAxis gather_axis(const char* op, const Conv3dSize& s, int d, bool adjoint);

}  // namespace avid::kernels
