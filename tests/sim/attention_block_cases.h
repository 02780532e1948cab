// tests/sim/attention_block_cases.h -- a whole attention block on the simulator against the f64 reference
#pragma once

#include "kernels/attention_block.h"
#include "kernels/device/backend.h"
#include "tests/sim/pitched.h"

namespace avid::test {

struct BlockCase {
  std::int64_t B, T, S, C, N, D;
  bool bias;
  double scale = 1.0;  ///< of x and of the projections
  std::int64_t inner() const { return N * D; }
  std::int64_t rows() const { return B * T * S; }
};

template <class Elem, class Vector = float, class Grad = float>
struct BlockTensors {
  Pitched<Elem> x, d_y, w_qkv, w_out, y, d_x;
  Pitched<Vector> gamma, b_out;
  Pitched<Grad> d_gamma, d_w_qkv, d_w_out, d_b_out;

  explicit BlockTensors(const BlockCase& c)
      : x(random_rows<Elem>(c.rows(), c.C, 1, 2.0 * c.scale)),
        d_y(random_rows<Elem>(c.rows(), c.C, 2)),
        w_qkv(random_rows<Elem>(3 * c.inner(), c.C, 3, 1.5 * c.scale / std::sqrt(static_cast<double>(c.C)))),
        w_out(random_rows<Elem>(c.C, c.inner(), 4, 1.5 / std::sqrt(static_cast<double>(c.inner())))),
        y(poisoned_rows<Elem>(c.rows(), c.C)),
        d_x(poisoned_rows<Elem>(c.rows(), c.C)),
        gamma(random_rows<Vector>(1, c.C, 5, 2.0)),
        b_out(random_rows<Vector>(1, c.C, 6)),
        d_gamma(poisoned_rows<Grad>(1, c.C)),
        d_w_qkv(poisoned_rows<Grad>(3 * c.inner(), c.C)),
        d_w_out(poisoned_rows<Grad>(c.C, c.inner())),
        d_b_out(poisoned_rows<Grad>(1, c.C)) {}
};

/// fwd(args, workspace) and bwd(args, grads); bytes(args, backward) of workspace.
template <class Elem, class Bytes, class Fwd, class Bwd>
BlockTensors<Elem> run_block(const BlockCase& c, Bytes&& bytes, Fwd&& fwd, Bwd&& bwd) {
  BlockTensors<Elem> t(c);
  kernels::AttentionBlockDeviceArgs<Elem> p{
      .B = c.B,
      .T = c.T,
      .S = c.S,
      .C = c.C,
      .N = c.N,
      .D = c.D,
      .x = t.x.view(),
      .gamma = t.gamma.values.data(),
      .w_qkv = t.w_qkv.view(),
      .w_out = t.w_out.view(),
      .b_out = c.bias ? t.b_out.values.data() : nullptr,
      .y = t.y.view()};
  const auto poisoned = [&](bool backward) {  // as aligned as device memory
    std::vector<float> w(
        static_cast<std::size_t>(bytes(p, backward)) / 4 + 64, std::numeric_limits<float>::quiet_NaN());
    return w;
  };
  const auto aligned = [](std::vector<float>& w) {
    return reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(w.data()) + 255) / 256 * 256);
  };
  std::vector<float> workspace = poisoned(false);
  p.workspace = aligned(workspace);
  fwd(p);
  workspace = poisoned(true);
  p.workspace = aligned(workspace);
  bwd(p, kernels::AttentionBlockDeviceGrads<Elem>{
             .d_y = t.d_y.view(),
             .d_x = t.d_x.view(),
             .d_gamma = t.d_gamma.values.data(),
             .d_w_qkv = t.d_w_qkv.view(),
             .d_w_out = t.d_w_out.view(),
             .d_b_out = c.bias ? t.d_b_out.values.data() : nullptr});
  return t;
}

template <class Fwd, class Bwd>
BlockTensors<double, double, double> run_block_reference(const BlockCase& c, Fwd&& fwd, Bwd&& bwd) {
  BlockTensors<double, double, double> t(c);
  kernels::AttentionBlockArgs p;
  p.dtype = DType::f64;
  p.B = c.B, p.T = c.T, p.S = c.S, p.C = c.C, p.N = c.N, p.D = c.D;
  p.x = t.x.values.data(), p.x_pitch = t.x.pitch;
  p.gamma = t.gamma.values.data();
  p.w_qkv = t.w_qkv.values.data(), p.w_qkv_pitch = t.w_qkv.pitch;
  p.w_out = t.w_out.values.data(), p.w_out_pitch = t.w_out.pitch;
  p.b_out = c.bias ? t.b_out.values.data() : nullptr;
  p.y = t.y.values.data(), p.y_pitch = t.y.pitch;
  fwd(p);
  kernels::AttentionBlockGrads g;
  g.d_y = t.d_y.values.data(), g.d_y_pitch = t.d_y.pitch;
  g.d_x = t.d_x.values.data(), g.d_x_pitch = t.d_x.pitch;
  g.d_gamma = t.d_gamma.values.data();
  g.d_w_qkv = t.d_w_qkv.values.data(), g.d_w_qkv_pitch = t.d_w_qkv.pitch;
  g.d_w_out = t.d_w_out.values.data(), g.d_w_out_pitch = t.d_w_out.pitch;
  g.d_b_out = c.bias ? t.d_b_out.values.data() : nullptr;
  bwd(p, g);
  return t;
}

/// Relative errors of everything a block computes.
struct BlockErrors {
  double y, d_x, d_gamma, d_w_qkv, d_w_out, d_b_out;
};
template <class Elem>
BlockErrors errors_of(const BlockTensors<Elem>& t, const BlockTensors<double, double, double>& exact, bool bias) {
  return {
      rel_l2(t.y, exact.y),
      rel_l2(t.d_x, exact.d_x),
      rel_l2(t.d_gamma, exact.d_gamma),
      rel_l2(t.d_w_qkv, exact.d_w_qkv),
      rel_l2(t.d_w_out, exact.d_w_out),
      bias ? rel_l2(t.d_b_out, exact.d_b_out) : 0.0};
}

template <class Elem>
bool same_results(const BlockTensors<Elem>& a, const BlockTensors<Elem>& b) {
  return same_bits(a.y, b.y) && same_bits(a.d_x, b.d_x) && same_bits(a.d_gamma, b.d_gamma) &&
         same_bits(a.d_w_qkv, b.d_w_qkv) && same_bits(a.d_w_out, b.d_w_out) && same_bits(a.d_b_out, b.d_b_out);
}

}  // namespace avid::test
