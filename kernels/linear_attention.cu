// kernels/linear_attention.cu -- the linear attention block (contract: linear_attention.h)
//
// Math       one frame of S positions s, head n, channels i, j < D:
//              qn_s = D^-1/2 softmax_i(q_s);  kn_si = exp(k_si - max_i) / sum_i (over the frame's positions)
//              context_ij = sum_s kn_si v_sj;  a_sj = sum_i qn_si context_ij
//            Gradient: d_context = qn^T d_a;  d_v = kn d_context;
//              d_q from d_a context^T through the softmax over channels;
//              d_k = kn (v d_context^T - correction), correction_i = sum_j context_ij d_context_ij: the row sum of
//              the softmax over positions needs no second reduction over positions
// Layout     qkv [B*T*S, 3*N*D] as the projection leaves it
// Parallel   bf16 with D = 32: C <= 104, or C <= 200 and S >= 256: two passes over x (forward:
//            device/linear_attention_contexts.h and linear_attention_two_pass.h, backward: linear_attention_bwd.cu);
//            wider rows: norm, projections, and a core on tensor cores
//            (device/linear_attention_head_kernels.h). f32 and other D <= 64: the core on FP32 units
//            (device/linear_attention_core.h). On compute capability 9.0 the passes are in
//            linear_attention_sums_wgmma.cu and linear_attention_wgmma.cu. Sums over positions are cut into slabs,
//            which are combined in order (as split keys are in flash attention)
// Traffic    of the composed form, per position: C + 4C (norm, projections) + 11 N*D elements forward. The core on
//            tensor cores reads and writes rows once, whole sectors; a head's matrix, 4 KB, once per 256 positions
// Numerics   f32 sums, h, qkv, a, d_a, d_qkv, d_h rounded to Elem; bf16 tensors use the fast exponential. Tensor cores:
//            contexts and their gradients as two bf16, weights of a softmax as one (device/linear_attention_head.h)
// Limits     D <= 64, S < 2^31, frames * slabs < 2^31, N < 65536; on tensor cores frames * slabs * N < 2^31 and
//            frames * ceil(S / 256) * N < 2^32
// Measured   never run on a GPU yet
// Predicted  core on tensor cores, 64 clips, 71M on its base: bound by DRAM (docs/kernels/attention.md)
// Open       rows of more than 200 channels, and small frames of wide rows, in two passes
// Oracle     linear_attention_cpu.cpp in f64, tests/sim/linear_attention_test.cpp
#include "kernels/linear_attention.h"

#include "kernels/device/attention_steps.h"
#include "kernels/device/linear_attention_contexts.h"
#include "kernels/device/linear_attention_core.h"
#include "kernels/device/linear_attention_head_kernels.h"
#include "kernels/device/linear_attention_two_pass.h"
#include "kernels/gather_gemm.h"
#include "kernels/linear_attention_bwd.h"

namespace avid::kernels {
namespace AVID_GPU {

/// Whether the core runs on tensor cores (device/linear_attention_head.h).
template <class Elem>
constexpr bool has_tensor_core_form(std::int64_t D) {
  return sizeof(Elem) == 2 && D == 32;
}

template <class Elem>
LinearCore<Elem> linear_core(const AttentionSteps<Elem>& steps) {
  const auto& p = steps.p;
  LinearCore<Elem> core;
  core.F = p.B * p.T;
  core.S = static_cast<int>(p.S);
  core.N = static_cast<int>(p.N);
  core.D = static_cast<int>(p.D);
  core.slabs = linear_attention_slabs(p.S);  // or fewer
  if (has_tensor_core_form<Elem>(p.D)) core.slabs = (core.S + kHeadSlab - 1) / kHeadSlab;
  core.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.D)));
  core.qkv = steps.qkv;
  core.partial = steps.template at<float>(steps.plan.core);
  core.context = core.partial + core.F * core.slabs * p.N * (p.D * p.D + 2 * p.D);
  core.d_context = core.context + core.F * p.N * (p.D * p.D + 2 * p.D);
  return core;
}

/// Adds slabs in order.
template <class Elem>
void combine(const Stream& stream, const LinearCore<Elem>& core) {
  launch(
      linear_attention_combine_kernel<Elem>, dim3(static_cast<unsigned>(core.F), static_cast<unsigned>(core.N)),
      dim3(kCoreBlock), 0, stream, core);
}
template <class Elem>
void d_combine(const Stream& stream, const LinearCore<Elem>& core) {
  launch(
      linear_attention_d_combine_kernel<Elem>, dim3(static_cast<unsigned>(core.F), static_cast<unsigned>(core.N)),
      dim3(64), 0, stream, core);
}

/// The core on tensor cores.
struct HeadLaunches {
  const Stream& stream;
  const LinearCore<BFloat16>& core;

  dim3 slab_grid() const { return dim3(static_cast<unsigned>(core.F * core.slabs * core.N)); }
  /// Positions that a warp walks over: many, so that loading matrices does not count, unless few warps would be left.
  int part_rows() const { return core.F * core.N * ((core.S + 255) / 256) >= 2048 ? 256 : 64; }
  dim3 part_grid() const {
    const std::int64_t parts = core.F * core.N * ((core.S + part_rows() - 1) / part_rows());
    return dim3(static_cast<unsigned>((parts + kHeadWarps - 1) / kHeadWarps));
  }
  void contexts() const {
    launch(linear_attention_head_context_kernel<4>, slab_grid(), dim3(kHeadBlock), 0, stream, core);
    if (core.slabs > 1) combine(stream, core);
  }
  void apply(Rows<BFloat16> a) const {
    launch(linear_attention_head_apply_kernel<4>, part_grid(), dim3(kHeadBlock), 0, stream, core, a, part_rows());
  }
  void gradient(Rows<const BFloat16> d_a, Rows<BFloat16> d_qkv) const {
    launch(linear_attention_head_d_context_kernel<4>, slab_grid(), dim3(kHeadBlock), 0, stream, core, d_a);
    if (core.slabs > 1) d_combine(stream, core);
    launch(
        linear_attention_head_d_q_kernel<4>, part_grid(), dim3(kHeadBlock), 0, stream, core, d_a, d_qkv, part_rows());
    launch(linear_attention_head_d_kv_kernel<3>, part_grid(), dim3(kHeadBlock), 0, stream, core, d_qkv, part_rows());
  }
};

template <class Elem>
void contexts(const Stream& stream, const LinearCore<Elem>& core) {
  if constexpr (sizeof(Elem) == 2) {
    if (has_tensor_core_form<Elem>(core.D)) return HeadLaunches{stream, core}.contexts();
  }
  with_head_capacity(core.D, [&]<int kD>() {
    launch(
        linear_attention_context_kernel<Elem, kD>,
        dim3(static_cast<unsigned>(core.F * core.slabs), static_cast<unsigned>(core.N)), dim3(kCoreBlock), 0, stream,
        core);
  });
  combine(stream, core);
}

template <class Elem>
void apply(const Stream& stream, const LinearCore<Elem>& core, Rows<Elem> a) {
  if constexpr (sizeof(Elem) == 2) {
    if (has_tensor_core_form<Elem>(core.D)) return HeadLaunches{stream, core}.apply(a);
  }
  with_head_capacity(core.D, [&]<int kD>() {
    const int tiles = (core.S + HeadTile<kD>::kRows - 1) / HeadTile<kD>::kRows;
    launch(
        linear_attention_apply_kernel<Elem, kD>,
        dim3(static_cast<unsigned>(core.F * tiles), static_cast<unsigned>(core.N)), dim3(kCoreBlock), 0, stream, core,
        a, tiles);
  });
}

/// d_qkv from d_a; both may lie over qkv and a.
template <class Elem>
void core_gradient(const Stream& stream, const LinearCore<Elem>& core, Rows<const Elem> d_a, Rows<Elem> d_qkv) {
  if constexpr (sizeof(Elem) == 2) {
    if (has_tensor_core_form<Elem>(core.D)) return HeadLaunches{stream, core}.gradient(d_a, d_qkv);
  }
  const auto heads = static_cast<unsigned>(core.N);
  with_head_capacity(core.D, [&]<int kD>() {
    using Tile = HeadTile<kD>;
    launch(
        linear_attention_d_context_kernel<Elem, kD>, dim3(static_cast<unsigned>(core.F * core.slabs), heads),
        dim3(kCoreBlock), 0, stream, core, d_a);
    d_combine(stream, core);
    const int tiles = (core.S + Tile::kRows - 1) / Tile::kRows;
    launch(
        linear_attention_d_qkv_kernel<Elem, kD>, dim3(static_cast<unsigned>(core.F * tiles), heads), dim3(kCoreBlock),
        (3 * Tile::kMatrixFloats + 3 * Tile::kFloats) * sizeof(float), stream, core, d_a, d_qkv, tiles);
  });
}

/// The forward pass in two passes over x.
void two_passes(const Stream& stream, const AttentionBlockDeviceArgs<BFloat16>& p) {
  const AttentionBlockPlan plan = linear_attention_plan(p, false);
  auto* workspace = static_cast<unsigned char*>(p.workspace);
  LinearContexts sums;
  sums.S = static_cast<int>(p.S);
  sums.C = static_cast<int>(p.C);
  sums.N = static_cast<int>(p.N);
  sums.slab = two_pass_slab(p.B * p.T, p.S);
  sums.slabs = (sums.S + sums.slab - 1) / sums.slab;
  sums.width = (sums.C + 7) / 8 * 8;
  sums.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.D)));
  sums.x = p.x, sums.w_qkv = p.w_qkv, sums.w_out = p.w_out, sums.gamma = p.gamma;
  sums.partial = reinterpret_cast<float*>(workspace + plan.core);
  sums.folded = reinterpret_cast<BFloat16*>(workspace + plan.folded);
  sums.key_sums = p.key_sums;
  const std::int64_t F = p.B * p.T;
  if (have_wgmma<Gpu>()) {
    linear_attention_sums_wgmma(stream, sums, F);
  } else {
    with_row_chunks(sums.width, [&]<int kN>() {
      constexpr int kShares = LinearBwdTile<kN>::kShares, kMostHeads = kContextWarps / kShares;
      const int groups = (sums.N + kMostHeads - 1) / kMostHeads, heads = (sums.N + groups - 1) / groups;
      launch(
          linear_attention_sums_kernel<kN>, dim3(static_cast<unsigned>(F * sums.slabs * groups)),
          dim3(static_cast<unsigned>(32 * kShares * heads)),
          static_cast<std::size_t>(2 * kSumsTile * LinearBwdTile<kN>::kPitch) * sizeof(BFloat16) + kN * 32 +
              (contexts_spare<kN> ? kSpareWords * kSpareThreads * sizeof(float) : 0),
          stream, sums, heads, groups);
    });
  }
  launch(
      linear_attention_fold_kernel<4>, dim3(static_cast<unsigned>(F * sums.N)), dim3(32 * kFoldWarps), 0, stream, sums);

  LinearTwoPass t;
  t.S = sums.S, t.C = sums.C, t.N = sums.N, t.C8 = sums.width;
  t.K = (t.C + 15) / 16 * 16;
  t.pitch = t.K + 8;
  t.x = p.x, t.w_qkv = p.w_qkv, t.gamma = p.gamma, t.b_out = p.b_out, t.y = p.y, t.folded = sums.folded;
  if (have_wgmma<Gpu>()) return linear_attention_pass_b_wgmma(stream, t, F);
  const std::size_t gamma_bytes = static_cast<std::size_t>(t.K) * 4, row_bytes = static_cast<std::size_t>(t.pitch) * 2;
  const int tiles = (t.S + 127) / 128;
  with_row_chunks(t.C8, [&]<int kWidth>() {
    constexpr int kN = kWidth == 12 ? 13 : kWidth, kM = LinearBwdTile<kN>::kM;
    launch(
        linear_attention_pass_b_kernel<kN, kM>, dim3(static_cast<unsigned>(F * tiles)), dim3(256 / kM),
        (128 + 2 * 32) * row_bytes + 2 * ((kN + 1) / 2 * 16) * kFoldedPitch * 2 + gamma_bytes, stream, t, tiles);
  });
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void linear_attention_fwd(const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p) {
  using namespace AVID_GPU;
  if (p.B * p.T * p.S == 0) return;
  if constexpr (sizeof(Elem) == 2) {
    if (linear_attention_in_two_passes(p)) return two_passes(stream, p);
  }
  const AttentionSteps<Elem> steps(stream, p, linear_attention_plan(p, false));
  const LinearCore<Elem> core = linear_core(steps);
  steps.project();
  contexts(stream, core);
  apply(stream, core, steps.a);
  steps.output();
}

template <class Backend, class Elem>
void linear_attention_bwd(
    const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p, const AttentionBlockDeviceGrads<Elem>& g) {
  using namespace AVID_GPU;
  if constexpr (sizeof(Elem) == 2) {
    if (linear_attention_bwd_is_fused(p)) return linear_attention_fused_bwd<Backend>(stream, p, g);
  }
  const AttentionSteps<Elem> steps(stream, p, linear_attention_plan(p, true));
  if (p.B * p.T * p.S > 0) {
    const LinearCore<Elem> core = linear_core(steps);
    if (g.d_w_out || steps.needs_core(g)) {
      steps.project();
      contexts(stream, core);
    }
    if (g.d_w_out) apply(stream, core, steps.a);
    steps.output_gradients(g);
    if (!steps.needs_core(g)) return;
    steps.d_attention(g);
    core_gradient<Elem>(stream, core, steps.d_a, steps.d_qkv);
  } else {
    steps.output_gradients(g);
  }
  steps.project_gradients(g);
}

#define AVID_INSTANTIATE(Elem)                                                                         \
  template void linear_attention_fwd<Gpu, Elem>(const Stream&, const AttentionBlockDeviceArgs<Elem>&); \
  template void linear_attention_bwd<Gpu, Elem>(                                                       \
      const Stream&, const AttentionBlockDeviceArgs<Elem>&, const AttentionBlockDeviceGrads<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
