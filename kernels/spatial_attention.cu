// kernels/spatial_attention.cu -- the spatial attention block, composed around its core (contract:
// spatial_attention.h)
//
// Math       one frame of S positions i, j, head n, q scaled by D^-1/2:
//              p_ij = softmax_j(q_i . k_j);  a_i = sum_j p_ij v_j
// Layout     qkv [B*T*S, 3*N*D] as the projection leaves it; a frame is a sequence of attention.h
// Parallel   norm and projections: device/attention_steps.h; the core: attention.cu, on tensor cores
// Traffic    per position: C + 4C (norm, projections) + 8 N*D elements forward; keys once more per 64 queries, from
//            L2
// Numerics   f32 sums, h, qkv, a, d_a, d_qkv and, where it goes through memory, d_h rounded to Elem; the core's:
//            attention.cu
// Limits     D <= 64, 2^31 tiles of 64 positions, frames and heads together
// Measured   never run on a GPU yet
// Predicted  64 clips, 71M on its base: the core with FP32 FMAs fed from shared memory took 1.5 ms of an update on an
//            A100, on tensor cores it is bound by its bytes
// Oracle     spatial_attention_cpu.cpp in f64, tests/sim/spatial_attention_test.cpp
#include "kernels/spatial_attention.h"

#include <cmath>

#include "kernels/attention.h"
#include "kernels/device/attention_steps.h"

namespace avid::kernels {
namespace AVID_GPU {

/// The core's operands as those of an attention over B*T sequences. log_sum: the backward pass's alone.
template <class Elem>
AttentionArgs<Elem> core_arguments(const AttentionSteps<Elem>& steps, bool backward) {
  const auto& p = steps.p;
  const auto part = [&](int i) {
    return Rows<const Elem>{steps.qkv.data + std::int64_t{i} * p.N * p.D, steps.qkv.pitch};
  };
  return {
      .B = p.B * p.T,
      .Q = p.S,
      .K = p.S,
      .N = p.N,
      .D = p.D,
      .scale = 1.0 / std::sqrt(static_cast<double>(p.D)),
      .q = part(0),
      .k = part(1),
      .v = part(2),
      .out = steps.a,
      .log_sum = backward ? steps.template at<float>(steps.plan.core) : nullptr};
}

template <class Elem>
AttentionGrads<Elem> core_gradients(const AttentionSteps<Elem>& steps) {
  const auto& p = steps.p;
  const auto part = [&](int i) {
    return Rows<Elem>{steps.d_qkv.data + std::int64_t{i} * p.N * p.D, steps.d_qkv.pitch};
  };
  return {
      .d_out = steps.d_a,
      .d_q = part(0),
      .d_k = part(1),
      .d_v = part(2),
      .workspace = steps.template at<float>(steps.plan.core) + p.B * p.T * p.N * p.S};
}

}  // namespace AVID_GPU

template <class Backend, class Elem>
void spatial_attention_fwd(
    const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p, const SpatialAttentionCore<Elem>& other) {
  using namespace AVID_GPU;
  const AttentionSteps<Elem> steps(stream, p, spatial_attention_plan(p, false));
  const AttentionArgs<Elem> core = core_arguments(steps, false);
  const auto ours = [&] { attention_fwd<Backend, Elem>(stream, core); };
  steps.project();
  other.fwd ? other.fwd(core, ours) : ours();
  steps.output();
}

template <class Backend, class Elem>
void spatial_attention_bwd(
    const Stream& stream, const AttentionBlockDeviceArgs<Elem>& p, const AttentionBlockDeviceGrads<Elem>& g,
    const SpatialAttentionCore<Elem>& other) {
  using namespace AVID_GPU;
  const AttentionSteps<Elem> steps(stream, p, spatial_attention_plan(p, true));
  if (p.B * p.T * p.S > 0 && (g.d_w_out || steps.needs_core(g))) {
    const AttentionArgs<Elem> core = core_arguments(steps, true);
    const auto ours = [&] { attention_fwd<Backend, Elem>(stream, core); };
    steps.project();
    other.fwd ? other.fwd(core, ours) : ours();
    if (steps.needs_core(g)) {
      const AttentionGrads<Elem> grads = core_gradients(steps);
      const auto our_gradient = [&] { attention_bwd<Backend, Elem>(stream, core, grads); };
      steps.d_attention(g);
      steps.prepare_d_qkv();
      other.bwd ? other.bwd(core, grads, our_gradient) : our_gradient();
    }
  }
  steps.output_gradients(g);
  steps.project_gradients(g);
}

#define AVID_INSTANTIATE(Elem)                                                                      \
  template void spatial_attention_fwd<Gpu, Elem>(                                                   \
      const Stream&, const AttentionBlockDeviceArgs<Elem>&, const SpatialAttentionCore<Elem>&);     \
  template void spatial_attention_bwd<Gpu, Elem>(                                                   \
      const Stream&, const AttentionBlockDeviceArgs<Elem>&, const AttentionBlockDeviceGrads<Elem>&, \
      const SpatialAttentionCore<Elem>&);
AVID_INSTANTIATE(float)
AVID_INSTANTIATE(BFloat16)
#undef AVID_INSTANTIATE

}  // namespace avid::kernels
