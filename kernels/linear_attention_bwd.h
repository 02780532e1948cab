// kernels/linear_attention_bwd.h -- gradients of the linear attention block without q, k, v and a in memory
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention_block_plan.h"
#include "kernels/device/backend.h"
#include "kernels/linear.h"

namespace avid::kernels {

/// Heads of 32 channels, rows of up to 104 channels, or, where frames are large enough for the work that is done once
/// per frame, 200; sizes of the kernels.
inline constexpr std::int64_t kLinearBwdHead = 32, kLinearBwdMaxChannels = 104, kLinearBwdMaxHeads = 64;
inline constexpr std::int64_t kLinearBwdWideChannels = 200, kLinearBwdWideHeads = 32;
/// Positions that a block sums over, positions of a tile whose rows get their gradients, chunks of frames.
inline constexpr int kLinearBwdSlab = 2048, kLinearBwdRows = 128, kLinearBwdMaxChunks = 64;

/// Whether the fused backward pass serves these sizes.
template <class Elem>
bool linear_attention_bwd_is_fused(const AttentionBlockDeviceArgs<Elem>& p) {
  const bool narrow = p.C <= kLinearBwdMaxChannels && p.N <= kLinearBwdMaxHeads;
  const bool wide = p.C <= kLinearBwdWideChannels && p.N <= kLinearBwdWideHeads && p.S >= kLinearWidePositions;
  return sizeof(Elem) == 2 && p.B * p.T * p.S > 0 && p.D == kLinearBwdHead && (narrow || wide);
}

/// Byte offsets into the workspace, and counts. A function of sizes only.
struct LinearBwdPlan {
  std::int64_t rows = 0, frames = 0;  ///< B*T*S; B*T
  std::int64_t width = 0;             ///< C rounded up to 8
  std::int64_t slabs = 0, tiles = 0;  ///< of a frame
  std::int64_t frames_of_chunk = 0, chunks = 0;
  std::int64_t partial = 0;    ///< f32 [frames,slabs,N][2*32*width + 64]: sums of a slab
  std::int64_t folded = 0;     ///< bf16 [frames,N,2,32,width]: m, r
  std::int64_t softmax = 0;    ///< f32 [frames,N,2,32]: log of the sum of exponentials of k, correction
  std::int64_t d_weights = 0;  ///< f32 [chunks,N,2,32,width]: rows of v in d_w_qkv; d_w_out^T
  std::int64_t d_qk = 0;       ///< bf16 [rows,2*N*32]
  std::int64_t h = 0;          ///< bf16 [rows,width]
  std::int64_t d_gamma = 0;    ///< f32 [frames,tiles,width], then [tiles,width]
  std::int64_t d_b_out = 0;    ///< f32 [frames,slabs,width], then [slabs,width]
  std::int64_t linear = 0, total_bytes = 0;
  LinearSize qk_size;  ///< of the product that is left
};

template <class Elem>
LinearBwdPlan linear_attention_bwd_plan(const AttentionBlockDeviceArgs<Elem>& p) {
  LinearBwdPlan plan;
  const auto take = [&plan](std::int64_t bytes) {
    const std::int64_t at = plan.total_bytes;
    plan.total_bytes += (bytes + 255) / 256 * 256;
    return at;
  };
  const std::int64_t inner = p.N * kLinearBwdHead;
  plan.frames = p.B * p.T;
  plan.rows = plan.frames * p.S;
  plan.width = (p.C + 7) / 8 * 8;
  plan.slabs = (p.S + kLinearBwdSlab - 1) / kLinearBwdSlab;
  plan.tiles = (p.S + kLinearBwdRows - 1) / kLinearBwdRows;
  plan.frames_of_chunk = std::max<std::int64_t>(1, (plan.frames + kLinearBwdMaxChunks - 1) / kLinearBwdMaxChunks);
  plan.chunks = (plan.frames + plan.frames_of_chunk - 1) / plan.frames_of_chunk;
  plan.qk_size = LinearSize{.P = plan.rows, .I = p.C, .O = 2 * inner};
  const std::int64_t matrices = 2 * kLinearBwdHead * plan.width;
  plan.partial = take(plan.frames * plan.slabs * p.N * (matrices + 2 * kLinearBwdHead) * 4);
  plan.folded = take(plan.frames * p.N * matrices * 2);
  plan.softmax = take(plan.frames * p.N * 2 * kLinearBwdHead * 4);
  plan.d_weights = take(plan.chunks * p.N * matrices * 4);
  plan.d_qk = take(plan.rows * 2 * inner * 2);
  plan.h = take(plan.rows * plan.width * 2);
  plan.d_gamma = take((plan.frames + 1) * plan.tiles * plan.width * 4);
  plan.d_b_out = take((plan.frames + 1) * plan.slabs * plan.width * 4);
  plan.linear = take(linear_bwd_weight_workspace_bytes<Elem>(plan.qk_size));
  return plan;
}

/// All gradients of the block that are wanted, from x and d_y. Needs linear_attention_bwd_is_fused(p); p.workspace
/// holds linear_attention_bwd_plan(p).total_bytes. The same bits in every run.
template <class Backend>
void linear_attention_fused_bwd(
    const Stream& stream, const AttentionBlockDeviceArgs<BFloat16>& p, const AttentionBlockDeviceGrads<BFloat16>& g);

}  // namespace avid::kernels
