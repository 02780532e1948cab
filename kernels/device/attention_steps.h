// kernels/device/attention_steps.h -- the steps around the core of a composed attention block, as launches on a
// stream
#pragma once

#include "kernels/attention_block_plan.h"
#include "kernels/device/gpu.h"
#include "kernels/device/runtime.h"
#include "kernels/linear_layer_norm.h"

namespace avid::kernels::AVID_GPU {

/// Equations: kernels/attention_block.h. Buffers lie in p.workspace as the plan says. fwd: project, core, output.
/// bwd: project, core, output_gradients, d_attention, core's gradient, project_gradients.
template <class Elem>
struct AttentionSteps {
  const Stream& stream;
  const AttentionBlockDeviceArgs<Elem>& p;
  AttentionBlockPlan plan;
  Rows<Elem> h, qkv, a, d_a, d_qkv;

  AttentionSteps(const Stream& s, const AttentionBlockDeviceArgs<Elem>& args, const AttentionBlockPlan& offsets)
      : stream(s), p(args), plan(offsets) {
    h = {at<Elem>(plan.h), plan.h_pitch};
    qkv = {at<Elem>(plan.qkv), plan.qkv_pitch};
    a = {at<Elem>(plan.a), plan.a_pitch};
    d_a = {at<Elem>(plan.d_a), plan.a_pitch};
    d_qkv = {at<Elem>(plan.d_qkv), plan.qkv_pitch};
  }

  template <class T>
  T* at(std::int64_t offset) const {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(p.workspace) + offset);
  }
  LayerNormDeviceArgs<Elem> norm() const {
    return {
        .num_rows = plan.rows,
        .C = p.C,
        .x = p.x,
        .gamma = p.gamma,
        .beta = nullptr,
        .eps = static_cast<float>(kPrenormEps),
        .out = h};
  }

  /// Zeroes what lies behind the last column: products read whole chunks of 16 bytes.
  void zero_gaps(Rows<Elem> rows, std::int64_t cols) const {
    device_zero<Gpu>(
        stream, rows.data + cols, static_cast<std::size_t>(rows.pitch) * sizeof(Elem),
        static_cast<std::size_t>(rows.pitch - cols) * sizeof(Elem), plan.rows);
  }

  /// h = prenorm(x), qkv = h w_qkv^T
  void project() const {
    layer_norm_fwd<Gpu, Elem>(stream, norm());
    linear_fwd<Gpu, Elem>(stream, plan.qkv_size, h, {}, p.w_qkv, nullptr, {}, qkv, at<void>(plan.linear));
    zero_gaps(a, plan.inner);  // cores write heads only
  }
  /// y = x + a w_out^T + b_out
  void output() const {
    linear_fwd<Gpu, Elem>(stream, plan.out_size, a, {}, p.w_out, p.b_out, p.x, p.y, at<void>(plan.linear));
  }
  /// d_w_out = d_y^T a, d_b_out = sum d_y. Reads a: before d_attention where that overwrites it.
  void output_gradients(const AttentionBlockDeviceGrads<Elem>& g) const {
    if (g.d_w_out || g.d_b_out != nullptr)
      linear_bwd_weight<Gpu, Elem>(stream, plan.out_size, g.d_y, a, {}, g.d_w_out, g.d_b_out, at<void>(plan.linear));
  }
  /// d_a = d_y w_out
  void d_attention(const AttentionBlockDeviceGrads<Elem>& g) const {
    linear_bwd_data<Gpu, Elem>(stream, plan.out_size, g.d_y, p.w_out, d_a, {}, at<void>(plan.linear));
  }
  /// Before a core writes d_qkv to a buffer of its own.
  void prepare_d_qkv() const { zero_gaps(d_qkv, 3 * plan.inner); }
  /// d_w_qkv = d_qkv^T h; d_h = d_qkv w_qkv (over h, unless one kernel makes d_x); d_x = d_y + the norm's gradient.
  void project_gradients(const AttentionBlockDeviceGrads<Elem>& g) const {
    if (g.d_w_qkv)
      linear_bwd_weight<Gpu, Elem>(stream, plan.qkv_size, d_qkv, h, {}, g.d_w_qkv, nullptr, at<void>(plan.linear));
    if (!g.d_x && g.d_gamma == nullptr) return;
    linear_layer_norm_bwd<Gpu, Elem>(
        stream, plan.qkv_size, p.w_qkv, norm(),
        {.d_out = d_qkv,
         .d_residual = g.d_y,
         .d_h = h,
         .d_x = g.d_x,
         .d_gamma = g.d_gamma,
         .workspace = at<float>(plan.norm),
         .linear_space = at<void>(plan.linear)});
  }
  /// Whether anything behind the core wants a gradient.
  static bool needs_core(const AttentionBlockDeviceGrads<Elem>& g) {
    return g.d_w_qkv || g.d_x || g.d_gamma != nullptr;
  }
};

}  // namespace avid::kernels::AVID_GPU
