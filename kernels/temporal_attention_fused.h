// kernels/temporal_attention_fused.h -- the whole temporal attention block in one kernel, for narrow rows of 8 or 16
// frames
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"
#include "kernels/rows.h"

namespace avid::kernels {

/// How the backward pass stores rows of heads: of each the first `whole` channels, head by head, then the others, head
/// by head. The fused kernel stores groups of 16 channels, which are whole sectors of 32 bytes, and nothing behind the
/// last channel of a head of 50.
struct StoredHeads {
  int heads = 0, width = 0;  ///< channels of a head
  int whole = 0;

  constexpr int columns() const { return heads * width; }
  constexpr int rest() const { return width - whole; }
  constexpr int column(int head, int channel) const {
    return channel < whole ? head * whole + channel : heads * whole + head * rest() + channel - whole;
  }
};

/// Operands of the fused forward pass: those of temporal_attention (kernels/temporal_attention.h), with the tables and
/// head-padded weights of temporal_attention_core.h, for the backward pass in the order of fused_channel(). T is 8 or
/// 16; there is a pixel, B * S > 0.
struct TemporalFusedArgs {
  std::int64_t B = 0, T = 8, S = 0, C = 0, N = 0, D = 0, head_pitch = 0, num_pairs = 0;
  Rows<const BFloat16> x;         ///< [B*T*S,C]
  const float* gamma = nullptr;   ///< [C]
  Rows<const BFloat16> w_qkv;     ///< [2*N*head_pitch,C]: q and k
  Rows<const BFloat16> values;    ///< [N*C,C]: w_out w_v of each head; for the backward pass each is transposed
  const float* bias = nullptr;    ///< [N,T,T]
  const float* rotary = nullptr;  ///< [T,num_pairs,2]
  Rows<BFloat16> y;               ///< [B*T*S,C]; gaps are written as zero
  std::int64_t most_blocks = 0;   ///< of the backward pass
};

/// The fused kernels: rows of up to `channels`, heads of up to `head` channels.
struct TemporalFusedShape {
  std::int64_t channels, head;
};
inline constexpr TemporalFusedShape kTemporalFusedShapes[] = {{32, 32}, {56, 56}, {96, 56}, {104, 64}};

/// The fraction of a kernel's products that sizes must use.
inline constexpr double kTemporalFusedUse = 0.7;

/// Index of the fused kernel that these sizes fill well, or -1: then the block is composed.
int temporal_fused_kernel(DType dtype, std::int64_t T, std::int64_t C, std::int64_t D, std::int64_t R);

/// Tiles of 8 head channels of that kernel.
constexpr int fused_head_tiles(int kernel) { return static_cast<int>(kTemporalFusedShapes[kernel].head / 8); }

/// The channel of a head that lies in row `row` of the backward pass's weights, of which a kernel takes `tiles` tiles:
/// two tiles are dealt to the lanes of a quad so that each ends up with four neighbouring channels, one store of 8
/// bytes.
constexpr int fused_channel(int row, int tiles) {
  const int in_pair = row % 16;
  const bool alone = row / 16 * 2 + 1 >= tiles;
  return alone ? row : row - in_pair + in_pair % 8 / 2 * 4 + in_pair / 8 * 2 + in_pair % 2;
}

/// What the backward pass reads and writes beside the arguments; it does not use y.
struct TemporalFusedGrads {
  Rows<const BFloat16> d_y;  ///< [B*T*S,C]
  Rows<BFloat16> h;          ///< written: [B*T*S,C], gaps up to whole chunks as zero
  Rows<BFloat16> d_qk;       ///< written: rows of N heads of q, then of k, as `stored` says; zeros up to 16 columns
  StoredHeads stored;        ///< of q and k; width is D or head_pitch, even
  /// Written: [B*S][N][T][T], probabilities of pixel, head, query, key. 16 keys lie as a product's operand has them:
  /// 2t, 2t + 1, 2t + 8, 2t + 9 for t = 0, 1, 2, 3.
  BFloat16* prob = nullptr;
  Rows<BFloat16> d_x;                 ///< written: [B*T*S,C], gaps up to whole chunks as zero; or absent
  float* d_gamma_partials = nullptr;  ///< [temporal_fused_partials()][C], each written; or null
  float* d_bias_partials = nullptr;   ///< [temporal_fused_partials()][N,T,T], every element written; or null
};

/// Rows of a tile of the fused kernels, and of the backward kernel on wgmma.
inline constexpr int kFusedRows = 128, kFusedBwdWgmmaRows = 64;

/// Blocks of the backward kernel on wgmma that a multiprocessor holds: their registers are bounded so, but the sums of
/// d_bias of many heads can take the shared memory.
constexpr int fused_bwd_wgmma_resident(std::int64_t T, std::int64_t C, std::int64_t N) {
  return T == 8 && (C <= 56 || (C <= 96 && N <= 6)) ? 3 : 2;
}

/// Blocks of a backward kernel with tiles of `tile_rows` rows, each of which writes one row of the partial sums; T is 8
/// or 16.
std::int64_t temporal_fused_partials(
    std::int64_t B, std::int64_t T, std::int64_t S, std::int64_t tile_rows, std::int64_t most_blocks);

/// The backward pass but for the gradients of weights: h = prenorm(x), the probabilities and the gradients of q and k,
/// from which products over the rows give those of the weights; d_x, and sums for gamma's and the bias's gradients. By
/// the kernel on wgmma where the device has it.
template <class Backend>
void temporal_fused_bwd(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g);

/// The whole forward pass, by the kernel on wgmma where the device has it.
template <class Backend>
void temporal_fused_fwd(const Stream& stream, const TemporalFusedArgs& p);

/// The kernels for compute capability 9.0. GpuError without have_wgmma() (kernels/gather_gemm.h).
template <class Backend>
void temporal_fused_fwd_wgmma(const Stream& stream, const TemporalFusedArgs& p);
template <class Backend>
void temporal_fused_bwd_wgmma(const Stream& stream, const TemporalFusedArgs& p, const TemporalFusedGrads& g);

}  // namespace avid::kernels
