// kernels/temporal_attention_plan.cpp -- how temporal_attention is cut into chunks on a device, and its working memory
#include "kernels/temporal_attention_plan.h"

#include <algorithm>

#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/temporal_attention_core.h"
#include "kernels/temporal_attention_fused.h"
#include "kernels/temporal_attention_value_grad.h"

namespace avid::kernels {
namespace {

/// Rows of one chunk are kept below this: the largest level of the largest network at B = 64 would need 8 GB at once.
/// Every chunk adds up weight gradients of its own, some 30 MB of partial sums written and read: with chunks of a
/// quarter the backward pass of AVID 71M moves a tenth more, in 1,000 launches more (predicted).
constexpr std::int64_t kChunkBytes = std::int64_t{1} << 30;

std::int64_t up_to(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

}  // namespace

int temporal_fused_kernel(DType dtype, std::int64_t T, std::int64_t C, std::int64_t D, std::int64_t R) {
  if (dtype != DType::bf16 || (T != 8 && T != 16) || R > 16) return -1;
  int index = 0;
  for (const TemporalFusedShape& shape : kTemporalFusedShapes) {
    if (C <= shape.channels && D <= shape.head)
      return static_cast<double>(C * D) >= kTemporalFusedUse * static_cast<double>(shape.channels * shape.head) ? index
                                                                                                                : -1;
    ++index;
  }
  return -1;
}

std::int64_t temporal_fused_partials(
    std::int64_t B, std::int64_t T, std::int64_t S, std::int64_t tile_rows, std::int64_t most_blocks) {
  const std::int64_t pixels_of_tile = tile_rows / T;
  return std::clamp<std::int64_t>((B * S + pixels_of_tile - 1) / pixels_of_tile, 1, most_blocks);
}

template <class Elem>
TemporalAttentionPlan temporal_attention_plan(const TemporalAttentionDeviceArgs<Elem>& p, bool backward) {
  TemporalAttentionPlan plan;
  const int kernel = temporal_fused_kernel(dtype_of<Elem>, p.T, p.C, p.D, p.R);
  // The backward kernel keeps sums of d_bias in shared memory: up to 16 heads.
  plan.fused = kernel >= 0 && (!backward || p.N <= 16);
  const bool stores_heads = plan.fused && backward;
  plan.head_pitch = up_to(p.D, 8);
  if (stores_heads) {
    plan.head_tiles = fused_head_tiles(kernel);
    plan.head_pitch = std::min<std::int64_t>(up_to(p.D, 16), plan.head_tiles * 8);
  }
  plan.num_pairs = std::max<std::int64_t>(up_to(p.R, 16), 16);
  plan.inner = p.N * plan.head_pitch;
  plan.h_pitch = up_to(p.C, 8);
  const int width = static_cast<int>(stores_heads ? up_to(p.D, 2) : plan.head_pitch), N = static_cast<int>(p.N);
  plan.o_heads = {.heads = N, .width = width, .whole = stores_heads ? width / 16 * 16 : width};
  plan.qkv_heads = plan.o_heads;
  plan.qkv_heads.heads = stores_heads ? 2 * N : 3 * N;
  plan.qkv_pitch = up_to(plan.qkv_heads.columns(), stores_heads ? 16 : 8);
  plan.o_pitch = up_to(plan.o_heads.columns(), 8);
  const std::int64_t elem = sizeof(Elem), rows_per_clip = p.T * p.S;
  const std::int64_t o_or_prob = stores_heads ? p.N * p.T : plan.o_pitch;
  const std::int64_t clip_bytes =
      std::max<std::int64_t>(1, rows_per_clip * (plan.h_pitch + plan.qkv_pitch + o_or_prob) * elem);
  plan.clips_per_chunk = std::clamp<std::int64_t>(
      p.clips_per_chunk > 0 ? p.clips_per_chunk : kChunkBytes / clip_bytes, 1, std::max<std::int64_t>(1, p.B));
  plan.num_chunks = rows_per_clip > 0 ? (p.B + plan.clips_per_chunk - 1) / plan.clips_per_chunk : 0;
  const std::int64_t rows = plan.clips_per_chunk * rows_per_clip;
  const TemporalCorePlan core =
      temporal_core_plan({plan.clips_per_chunk, p.T, p.S, p.N, p.D, plan.num_pairs}, dtype_of<Elem>, backward);
  plan.num_partials =
      plan.num_chunks *
      (plan.fused ? temporal_fused_partials(plan.clips_per_chunk, p.T, p.S, kFusedBwdWgmmaRows, p.fused_blocks)
                  : core.num_partials);

  const auto take = [&plan](std::int64_t bytes) {
    const std::int64_t at = plan.total_bytes;
    plan.total_bytes += up_to(bytes, 256);
    return at;
  };
  if (plan.head_pitch != p.D || stores_heads) {
    plan.w_qkv = take((plan.fused ? 2 : 3) * plan.inner * plan.h_pitch * elem);
    if (!plan.fused) plan.w_out = take(p.C * plan.inner * elem);
  }
  if (plan.fused) plan.values = take(p.N * p.C * plan.h_pitch * elem);
  plan.rotary = take(p.T * plan.num_pairs * 2 * 4);
  plan.bias = take(p.N * p.T * p.T * 4);
  if (plan.fused && !backward) return plan;
  // What counts a launch's traffic takes all up to its next operand for one tensor, so what is none lies elsewhere.
  const std::int64_t h_bytes = rows * plan.h_pitch * elem, qkv_bytes = rows * plan.qkv_pitch * elem;
  if (stores_heads) {
    plan.prob = take(rows * o_or_prob * elem);
    plan.qkv = take(qkv_bytes);
    plan.h = take(h_bytes);
  } else {
    plan.h = take(h_bytes);
    plan.qkv = take(qkv_bytes);
    plan.o = take(rows * o_or_prob * elem);
  }
  std::int64_t linear_bytes = 0;
  const std::int64_t clips_of_last_chunk = p.B - (plan.num_chunks - 1) * plan.clips_per_chunk;
  for (const std::int64_t num_rows : {rows, clips_of_last_chunk * rows_per_clip}) {
    for (const LinearSize& size :
         {LinearSize{.P = num_rows, .I = p.C, .O = plan.qkv_heads.columns()},
          LinearSize{.P = num_rows, .I = plan.o_heads.columns(), .O = p.C}}) {
      linear_bytes = std::max(linear_bytes, linear_fwd_workspace_bytes<Elem>(size));
      if (!backward) continue;
      linear_bytes = std::max(linear_bytes, linear_bwd_data_workspace_bytes<Elem>(size));
      linear_bytes = std::max(linear_bytes, linear_bwd_weight_workspace_bytes<Elem>(size));
    }
  }
  plan.linear = take(linear_bytes);
  if (!backward) return plan;
  plan.d_w_qkv = take(plan.qkv_heads.columns() * plan.h_pitch * 4);
  if (stores_heads) {
    const std::int64_t of_split = p.N * p.C * plan.h_pitch * 4;
    plan.value_sums = take(temporal_value_splits(p.N, most_value_blocks(p.fused_blocks, 90, p.C, false)) * of_split);
    plan.value_total = take(of_split);
  } else {
    plan.d_w_out = take(p.C * plan.o_pitch * 4);
  }
  plan.d_gamma = take((plan.fused ? plan.num_partials : 1) * p.C * 4);
  plan.d_bias_partials = take(plan.num_partials * p.N * p.T * p.T * 4);
  plan.d_bias = take(p.N * p.T * p.T * 4);
  if (!plan.fused) plan.norm = take(layer_norm_bwd_workspace(rows, p.C) * 4);
  return plan;
}

template <class Elem>
std::int64_t temporal_attention_workspace_bytes(const TemporalAttentionDeviceArgs<Elem>& p, bool backward) {
  return temporal_attention_plan(p, backward).total_bytes;
}

template TemporalAttentionPlan temporal_attention_plan(const TemporalAttentionDeviceArgs<float>&, bool);
template TemporalAttentionPlan temporal_attention_plan(const TemporalAttentionDeviceArgs<BFloat16>&, bool);
template std::int64_t temporal_attention_workspace_bytes(const TemporalAttentionDeviceArgs<float>&, bool);
template std::int64_t temporal_attention_workspace_bytes(const TemporalAttentionDeviceArgs<BFloat16>&, bool);

}  // namespace avid::kernels
