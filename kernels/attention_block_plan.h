// kernels/attention_block_plan.h -- working memory of an attention block composed of norm, products and a core on a
// device
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention_block.h"
#include "kernels/layer_norm.h"
#include "kernels/linear.h"
#include "kernels/slabs.h"

namespace avid::kernels {

/// Which buffers of a backward pass a core needs besides those of the forward pass.
enum class CoreGradient {
  in_place,  ///< d_a may be written over a, d_qkv over qkv
  apart,     ///< d_a and d_qkv have buffers of their own
};

/// Byte offsets into the workspace, and pitches in elements. A function of sizes and element type only.
struct AttentionBlockPlan {
  std::int64_t rows = 0, inner = 0;  ///< B*T*S; N*D
  std::int64_t h_pitch = 0, qkv_pitch = 0, a_pitch = 0;
  std::int64_t h = 0, qkv = 0, a = 0, d_a = 0, d_qkv = 0, core = 0, folded = 0, linear = 0, norm = 0;
  std::int64_t total_bytes = 0;
  LinearSize qkv_size, out_size;
};

template <class Elem>
AttentionBlockPlan attention_block_plan(
    const AttentionBlockDeviceArgs<Elem>& p, bool backward, CoreGradient gradient, std::int64_t core_bytes = 0) {
  const auto up_to_8 = [](std::int64_t n) { return (n + 7) / 8 * 8; };
  AttentionBlockPlan plan;
  const auto take = [&plan](std::int64_t bytes) {
    const std::int64_t at = plan.total_bytes;
    plan.total_bytes += (bytes + 255) / 256 * 256;
    return at;
  };
  plan.rows = p.B * p.T * p.S;
  plan.inner = p.N * p.D;
  plan.h_pitch = up_to_8(p.C);
  plan.qkv_pitch = up_to_8(3 * plan.inner);
  plan.a_pitch = up_to_8(plan.inner);
  // The type is named because nvcc 13 forgets designators where a braced list is assigned in a template: without it
  // O would land in I2 (tests/house/nvcc_test.cpp).
  plan.qkv_size = LinearSize{.P = plan.rows, .I = p.C, .O = 3 * plan.inner};
  plan.out_size = LinearSize{.P = plan.rows, .I = plan.inner, .O = p.C};
  constexpr std::int64_t kElem = sizeof(Elem);
  plan.h = take(plan.rows * plan.h_pitch * kElem);
  plan.qkv = take(plan.rows * plan.qkv_pitch * kElem);
  plan.a = take(plan.rows * plan.a_pitch * kElem);
  plan.core = take(core_bytes);
  std::int64_t linear_bytes =
      std::max(linear_fwd_workspace_bytes<Elem>(plan.qkv_size), linear_fwd_workspace_bytes<Elem>(plan.out_size));
  if (backward) {
    for (const LinearSize& size : {plan.qkv_size, plan.out_size})
      linear_bytes = std::max(
          {linear_bytes, linear_bwd_data_workspace_bytes<Elem>(size), linear_bwd_weight_workspace_bytes<Elem>(size)});
    const bool apart = gradient == CoreGradient::apart;
    plan.d_a = apart ? take(plan.rows * plan.a_pitch * kElem) : plan.a;
    plan.d_qkv = apart ? take(plan.rows * plan.qkv_pitch * kElem) : plan.qkv;
    plan.norm = take(layer_norm_bwd_workspace(plan.rows, p.C) * 4);
  }
  plan.linear = take(linear_bytes);
  return plan;
}

/// Slabs of 512 positions that the sums over a frame are cut into.
constexpr int linear_attention_slabs(std::int64_t S) { return static_cast<int>((S + 511) / 512); }

/// Of the two-pass forward form of linear attention (device/linear_attention_two_pass.h).
inline constexpr int kTwoPassSlab = 1024;
/// Positions of a slab: fewer where F frames have so few slabs that most multiprocessors would have none.
constexpr int two_pass_slab(std::int64_t F, std::int64_t S) {
  return slab_rows(F, S, kTwoPassSlab, kTwoPassSlab / 4, 64);
}
inline constexpr std::int64_t kTwoPassMaxChannels = 104, kTwoPassWideChannels = 200;

/// Positions of a frame from which the fused forms of linear attention, forward and backward, take wide rows: enough
/// for the work that is done once per frame.
inline constexpr std::int64_t kLinearWidePositions = 256;

template <class Elem>
bool linear_attention_in_two_passes(const AttentionBlockDeviceArgs<Elem>& p) {
  const std::int64_t most = p.S < kLinearWidePositions ? kTwoPassMaxChannels : kTwoPassWideChannels;
  return sizeof(Elem) == 2 && p.D == 32 && p.C <= most && p.b_out != nullptr;
}

/// Elements of a head's part of AttentionBlockDeviceArgs::key_sums.
constexpr std::int64_t linear_attention_sums_of_head(std::int64_t C) { return 32 * ((C + 7) / 8 * 8 + 1); }

/// With the core's contexts: those of slabs, their combination, its gradient. The two-pass form needs sums of
/// slabs and the folded weights only.
template <class Elem>
AttentionBlockPlan linear_attention_plan(const AttentionBlockDeviceArgs<Elem>& p, bool backward) {
  const std::int64_t matrix = p.D * p.D + 2 * p.D, F = p.B * p.T;
  if (!backward && linear_attention_in_two_passes(p)) {
    AttentionBlockPlan plan;
    const std::int64_t slab = two_pass_slab(F, p.S), slabs = (p.S + slab - 1) / slab, width = (p.C + 7) / 8 * 8;
    plan.core = 0;
    plan.folded = (F * p.N * slabs * (32 * width + 64) * 4 + 255) / 256 * 256;
    plan.total_bytes = plan.folded + F * width * p.N * p.D * 2;
    return plan;
  }
  const std::int64_t per_head = (linear_attention_slabs(p.S) + 2) * matrix;
  return attention_block_plan(p, backward, CoreGradient::in_place, F * p.N * per_head * 4);
}

/// With one log-sum and one correction per query and head.
template <class Elem>
AttentionBlockPlan spatial_attention_plan(const AttentionBlockDeviceArgs<Elem>& p, bool backward) {
  return attention_block_plan(p, backward, CoreGradient::apart, backward ? 2 * p.B * p.T * p.S * p.N * 4 : 0);
}

}  // namespace avid::kernels
