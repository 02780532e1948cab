// tests/sim/attention_block_cases.h -- a whole attention block on the simulator against the f64 reference
#pragma once

#include <vector>

#include "kernels/attention_block.h"
#include "kernels/device/backend.h"
#include "tests/doctest.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

namespace avid::test {

/// What the rows of x are.
enum class BlockRows {
  random,
  signs,  ///< -1 and 1, as many of each: normalised to themselves, so that h is exact in bf16
  equal,  ///< the same everywhere
  /// Signs, and q and k that are 80 or -80 although rounded to bf16: gamma is 1, a row of their weights has one entry.
  /// The first half of a frame has -1 in the first half of the channels. C is even.
  peaks,
};

struct BlockCase {
  std::int64_t B, T, S, C, N, D;
  bool bias;
  double scale = 1.0;  ///< of x and of the projections
  BlockRows x = BlockRows::random;
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
        d_b_out(poisoned_rows<Grad>(1, c.C)) {
    std::mt19937 engine(7);
    if (c.x == BlockRows::peaks) make_peaks(c);
    for (std::int64_t r = 0; r < c.rows() && c.x != BlockRows::random; ++r)
      for (std::int64_t i = 0; i < c.C; ++i) {
        if (c.x == BlockRows::equal) {
          x.at(r, i) = x.at(0, i);
        } else if (c.x == BlockRows::peaks && r % c.S < c.S / 2) {
          x.at(r, i) = Elem(i < c.C / 2 ? -1.0f : 1.0f);
        } else {  // each channel trades places with an earlier one
          const auto j = static_cast<std::int64_t>(engine() % static_cast<unsigned>(i + 1));
          x.at(r, i) = x.at(r, j);
          x.at(r, j) = Elem(i % 2 == 0 ? 1.0f : -1.0f);
        }
      }
  }
  void make_peaks(const BlockCase& c) {
    std::mt19937 engine(8);
    for (std::int64_t i = 0; i < c.C; ++i) gamma.at(0, i) = Vector(1);
    for (std::int64_t o = 0; o < 2 * c.inner(); ++o) {
      for (std::int64_t i = 0; i < c.C; ++i) w_qkv.at(o, i) = Elem(0.0f);
      w_qkv.at(o, static_cast<std::int64_t>(engine() % static_cast<unsigned>(c.C))) = Elem(80.0f);
    }
  }
};

/// Bits of which gradients are asked for: d_x, d_gamma, d_w_qkv, d_w_out, d_b_out.
inline constexpr unsigned kAllGradients = 31;

/// What a block takes, without its workspace.
template <class Elem>
kernels::AttentionBlockDeviceArgs<Elem> block_args(const BlockCase& c, BlockTensors<Elem>& t) {
  return {
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
}

/// fwd(args) and bwd(args, grads) with bytes(args, backward) of workspace.
template <class Elem, class Bytes, class Fwd, class Bwd>
BlockTensors<Elem> run_block(const BlockCase& c, unsigned wanted, Bytes&& bytes, Fwd&& fwd, Bwd&& bwd) {
  BlockTensors<Elem> t(c);
  kernels::AttentionBlockDeviceArgs<Elem> p = block_args(c, t);
  Workspace workspace(bytes(p, false));
  p.workspace = workspace.data<void>();
  fwd(p);
  p.workspace = workspace.allocate(bytes(p, true));
  bwd(p, kernels::AttentionBlockDeviceGrads<Elem>{
             .d_y = t.d_y.view(),
             .d_x = wanted & 1 ? t.d_x.view() : kernels::Rows<Elem>{},
             .d_gamma = wanted & 2 ? t.d_gamma.values.data() : nullptr,
             .d_w_qkv = wanted & 4 ? t.d_w_qkv.view() : kernels::Rows<float>{},
             .d_w_out = wanted & 8 ? t.d_w_out.view() : kernels::Rows<float>{},
             .d_b_out = c.bias && wanted & 16 ? t.d_b_out.values.data() : nullptr});
  return t;
}

/// kFwd(args) and kBwd(args, grads) in f64.
template <auto kFwd, auto kBwd>
BlockTensors<double, double, double> run_block_reference(const BlockCase& c) {
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
  kFwd(p);
  kernels::AttentionBlockGrads g;
  g.d_y = t.d_y.values.data(), g.d_y_pitch = t.d_y.pitch;
  g.d_x = t.d_x.values.data(), g.d_x_pitch = t.d_x.pitch;
  g.d_gamma = t.d_gamma.values.data();
  g.d_w_qkv = t.d_w_qkv.values.data(), g.d_w_qkv_pitch = t.d_w_qkv.pitch;
  g.d_w_out = t.d_w_out.values.data(), g.d_w_out_pitch = t.d_w_out.pitch;
  g.d_b_out = c.bias ? t.d_b_out.values.data() : nullptr;
  kBwd(p, g);
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

/// Two runs in different orders of threads and blocks.
template <class Elem>
bool same_results(const BlockTensors<Elem>& a, const BlockTensors<Elem>& b) {
  return same_bits(a.y, b.y) && same_bits(a.d_x, b.d_x) && same_bits(a.d_gamma, b.d_gamma) &&
         same_bits(a.d_w_qkv, b.d_w_qkv) && same_bits(a.d_w_out, b.d_w_out) && same_bits(a.d_b_out, b.d_b_out);
}

/// A block on the simulator against its f64 reference, and with `all_orders` the same bits in every order of threads
/// and blocks. run_device(c, wanted) gives BlockTensors<Elem>, run_reference(c) those in f64. `bound` of the gradients'
/// relative errors: 0 for the usual one.
template <class Elem, class Device, class Reference>
void check_block(
    const BlockCase& c, bool all_orders, Device&& run_device, Reference&& run_reference, double bound = 0) {
  CAPTURE(c.S);
  CAPTURE(c.C);
  CAPTURE(c.N);
  CAPTURE(c.D);
  CAPTURE(sizeof(Elem));
  const BlockTensors<Elem> first = run_device(c, kAllGradients);
  const BlockErrors e = errors_of(first, run_reference(c), c.bias);
  // bf16: h, qkv, a and their gradients are rounded on the way; a few times 2^-9 each, more behind the softmax. A
  // logit of 60 costs f32 six bits.
  const double value = sizeof(Elem) == 2 ? 6e-3 : 2e-6;
  const double gradient = bound > 0 ? bound : sizeof(Elem) == 2 ? 3e-2 : c.scale > 1 ? 5e-5 : 1e-5;
  CHECK(e.y < value);
  CHECK(e.d_x < gradient);
  CHECK(e.d_gamma < gradient);
  CHECK(e.d_w_qkv < gradient);
  CHECK(e.d_w_out < gradient);
  CHECK(e.d_b_out < gradient);
  CHECK(gaps_are_zero(first.y));
  CHECK(gaps_are_zero(first.d_x));
  if (all_orders) for_each_order([&] { CHECK(same_results(run_device(c, kAllGradients), first)); });
}

/// Each gradient alone has the bits that it has among all, and the others are left alone.
template <class Device>
void check_block_gradients_alone(const BlockCase& c, Device&& run_device) {
  const auto all = run_device(c, kAllGradients);
  for (unsigned wanted = 1; wanted < kAllGradients; wanted *= 2) {
    CAPTURE(wanted);
    const auto t = run_device(c, wanted);
    CHECK((wanted & 1 ? same_bits(t.d_x, all.d_x) : is_poisoned(t.d_x)));
    CHECK((wanted & 2 ? same_bits(t.d_gamma, all.d_gamma) : is_poisoned(t.d_gamma)));
    CHECK((wanted & 4 ? same_bits(t.d_w_qkv, all.d_w_qkv) : is_poisoned(t.d_w_qkv)));
    CHECK((wanted & 8 ? same_bits(t.d_w_out, all.d_w_out) : is_poisoned(t.d_w_out)));
    CHECK((wanted & 16 ? same_bits(t.d_b_out, all.d_b_out) : is_poisoned(t.d_b_out)));
  }
}

/// Nobody pays for a gradient that somebody else wants. From cheap to dear: d_b_out, d_w_out, d_w_qkv and d_x.
template <class Device>
void check_block_launches_what_is_wanted(
    const BlockCase& c, Device&& run_device, const std::vector<unsigned>& from_the_end = {16, 8, 4, 1}) {
  check_gradients_launch_what_they_need(static_cast<int>(from_the_end.size()), [&](int i) {
    return launches_of([&] { run_device(c, i < 0 ? 0 : from_the_end[static_cast<std::size_t>(i)]); });
  });
}

/// Without positions every gradient of a parameter is zero.
template <class Device>
void check_block_without_positions(Device&& run_device) {
  for (const BlockCase& c : {BlockCase{0, 3, 5, 6, 1, 32, true}, {2, 2, 0, 6, 1, 32, true}}) {
    const auto t = run_device(c, kAllGradients);
    for (const Pitched<float>* g : {&t.d_gamma, &t.d_w_qkv, &t.d_w_out, &t.d_b_out})
      for (std::int64_t r = 0; r < g->rows; ++r)
        for (std::int64_t i = 0; i < g->cols; ++i) CHECK((*g)(r, i) == 0);
  }
}

}  // namespace avid::test
