// tests/sim/temporal_attention_case.h -- the temporal attention block with its gradients on the simulator, and by the
// CPU reference in f64
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/temporal_attention.h"
#include "tests/doctest.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

namespace avid::test {

struct TemporalSize {
  std::int64_t B, T, S, C, N, D, R;
  std::int64_t clips_per_chunk = 0, fused_blocks = 396;
};

template <class Elem>
struct TemporalCase {
  TemporalSize size;
  Pitched<Elem> x, w_qkv, w_out, d_y;
  Pitched<float> gamma, table;
  std::vector<float> freqs;

  TemporalCase(const TemporalSize& s, unsigned seed)
      : size(s),
        x(fine_rows<Elem>(s.B * s.T * s.S, s.C, seed, 3.4)),
        w_qkv(fine_rows<Elem>(3 * s.N * s.D, s.C, seed + 1, 2.0 / std::sqrt(static_cast<double>(s.C)))),
        w_out(fine_rows<Elem>(s.C, s.N * s.D, seed + 2, 1.7 / std::sqrt(static_cast<double>(s.N * s.D)))),
        d_y(fine_rows<Elem>(s.B * s.T * s.S, s.C, seed + 3, 1.7)),
        gamma(fine_rows<float>(1, s.C, seed + 4, 2.6)),
        table(fine_rows<float>(32, s.N, seed + 5, 1.7)) {
    for (std::int64_t r = 0; r < s.R; ++r)
      freqs.push_back(static_cast<float>(std::pow(1e4, -static_cast<double>(r) / static_cast<double>(s.R))));
  }

  kernels::TemporalAttentionDeviceArgs<Elem> device(Pitched<Elem>& y, Workspace& workspace, bool backward) const {
    kernels::TemporalAttentionDeviceArgs<Elem> p;
    p.B = size.B, p.T = size.T, p.S = size.S, p.C = size.C, p.N = size.N, p.D = size.D, p.R = size.R;
    p.x = x.view(), p.gamma = gamma.values.data(), p.w_qkv = w_qkv.view(), p.w_out = w_out.view();
    p.bias_table = table.view(), p.rotary_freqs = freqs.data();
    p.clips_per_chunk = size.clips_per_chunk, p.fused_blocks = size.fused_blocks;
    y = poisoned_rows<Elem>(x.rows, size.C);
    p.y = y.view();
    p.workspace = workspace.allocate(kernels::temporal_attention_workspace_bytes(p, backward));
    return p;
  }
};

template <class Elem, class Grad = float>
struct TemporalResults {
  Pitched<Elem> y, d_x;
  Pitched<Grad> d_gamma, d_w_qkv, d_w_out, d_table;

  explicit TemporalResults(const TemporalSize& s)
      : y(poisoned_rows<Elem>(s.B * s.T * s.S, s.C)),
        d_x(y),
        d_gamma(poisoned_rows<Grad>(1, s.C)),
        d_w_qkv(poisoned_rows<Grad>(3 * s.N * s.D, s.C)),
        d_w_out(poisoned_rows<Grad>(s.C, s.N * s.D)),
        d_table(poisoned_rows<Grad>(32, s.N)) {}
};

template <class Elem>
TemporalResults<double, double> run_reference(const TemporalCase<Elem>& c) {
  const auto x = in_f64(c.x), w_qkv = in_f64(c.w_qkv), w_out = in_f64(c.w_out), d_y = in_f64(c.d_y);
  const auto gamma = in_f64(c.gamma), table = in_f64(c.table);
  const TemporalSize& s = c.size;
  TemporalResults<double, double> r(s);
  kernels::TemporalAttentionArgs p;
  p.dtype = DType::f64;
  p.B = s.B, p.T = s.T, p.S = s.S, p.C = s.C, p.N = s.N, p.D = s.D, p.R = s.R;
  p.x = x.values.data(), p.x_pitch = x.pitch;
  p.gamma = gamma.values.data();
  p.w_qkv = w_qkv.values.data(), p.w_qkv_pitch = w_qkv.pitch;
  p.w_out = w_out.values.data(), p.w_out_pitch = w_out.pitch;
  p.bias_table = table.values.data(), p.bias_table_pitch = table.pitch;
  p.rotary_freqs = c.freqs.data();
  p.y = r.y.values.data(), p.y_pitch = r.y.pitch;
  kernels::temporal_attention_fwd_reference(p);
  kernels::TemporalAttentionGrads g;
  g.d_y = d_y.values.data(), g.d_y_pitch = d_y.pitch;
  g.d_x = r.d_x.values.data(), g.d_x_pitch = r.d_x.pitch;
  g.d_gamma = r.d_gamma.values.data();
  g.d_w_qkv = r.d_w_qkv.values.data(), g.d_w_qkv_pitch = r.d_w_qkv.pitch;
  g.d_w_out = r.d_w_out.values.data(), g.d_w_out_pitch = r.d_w_out.pitch;
  g.d_bias_table = r.d_table.values.data(), g.d_bias_table_pitch = r.d_table.pitch;
  kernels::temporal_attention_bwd_reference(p, g);
  return r;
}

template <class Elem>
TemporalResults<Elem> run_device(const TemporalCase<Elem>& c) {
  TemporalResults<Elem> r(c.size);
  Workspace workspace;
  kernels::temporal_attention_fwd<kernels::Sim, Elem>(kernels::Stream{}, c.device(r.y, workspace, false));
  kernels::TemporalAttentionDeviceGrads<Elem> g;
  g.d_y = c.d_y.view();
  g.d_x = r.d_x.view();
  g.d_gamma = r.d_gamma.values.data();
  g.d_w_qkv = r.d_w_qkv.view();
  g.d_w_out = r.d_w_out.view();
  g.d_bias_table = r.d_table.view();
  Pitched<Elem> unused_y;
  kernels::temporal_attention_bwd<kernels::Sim, Elem>(kernels::Stream{}, c.device(unused_y, workspace, true), g);
  return r;
}

/// Against the reference in every order of threads and blocks, with the same bits in each.
template <class Elem>
void check_block(const TemporalCase<Elem>& c, double tolerance) {
  const TemporalSize& s = c.size;
  INFO(
      "B" << s.B << " T" << s.T << " S" << s.S << " C" << s.C << " N" << s.N << " D" << s.D << " chunk "
          << s.clips_per_chunk);
  const TemporalResults<double, double> exact = run_reference(c);
  std::vector<TemporalResults<Elem>> runs;
  for_each_order([&] {
    runs.push_back(run_device(c));
    const TemporalResults<Elem>&got = runs.back(), &first = runs.front();
    CHECK(rel_l2(got.y, exact.y) < tolerance);
    CHECK(gaps_are_zero(got.y));
    CHECK(rel_l2(got.d_x, exact.d_x) < 2 * tolerance);
    CHECK(gaps_are_zero(got.d_x));
    if (s.C > 1) {  // one channel: the normalised row is 0 and so is every gradient through it, up to noise
      CHECK(rel_l2(got.d_w_out, exact.d_w_out) < 2 * tolerance);
      CHECK(rel_l2(got.d_gamma, exact.d_gamma) < 3 * tolerance);
      CHECK(rel_l2(got.d_w_qkv, exact.d_w_qkv) < 3 * tolerance);
      if (s.T > 1) CHECK(rel_l2(got.d_table, exact.d_table) < 3 * tolerance);
    }
    CHECK(same_bits(got.y, first.y));
    CHECK(same_bits(got.d_x, first.d_x));
    CHECK(same_bits(got.d_gamma, first.d_gamma));
    CHECK(same_bits(got.d_w_qkv, first.d_w_qkv));
    CHECK(same_bits(got.d_w_out, first.d_w_out));
    CHECK(same_bits(got.d_table, first.d_table));
  });
}

/// Each gradient alone has the bits that it has among all, and the others are left alone.
template <class Elem>
void check_gradients_alone(const TemporalCase<Elem>& c) {
  const TemporalResults<Elem> all = run_device(c);
  for (int only = 0; only < 5; ++only) {
    TemporalResults<Elem> r(c.size);
    kernels::TemporalAttentionDeviceGrads<Elem> g;
    g.d_y = c.d_y.view();
    if (only == 0) g.d_x = r.d_x.view();
    if (only == 1) g.d_gamma = r.d_gamma.values.data();
    if (only == 2) g.d_w_qkv = r.d_w_qkv.view();
    if (only == 3) g.d_w_out = r.d_w_out.view();
    if (only == 4) g.d_bias_table = r.d_table.view();
    Workspace workspace;
    kernels::temporal_attention_bwd<kernels::Sim, Elem>(kernels::Stream{}, c.device(r.y, workspace, true), g);
    const auto check = [&](int gradient, const auto& got, const auto& expected) {
      CAPTURE(only);
      CAPTURE(gradient);
      CHECK((gradient == only ? same_bits(got, expected) : is_poisoned(got)));
    };
    check(0, r.d_x, all.d_x);
    check(1, r.d_gamma, all.d_gamma);
    check(2, r.d_w_qkv, all.d_w_qkv);
    check(3, r.d_w_out, all.d_w_out);
    check(4, r.d_table, all.d_table);
  }
}

}  // namespace avid::test
