// tests/sim/temporal_attention_test.cpp -- the temporal attention block on the simulator, against the CPU reference in
// f64
#include "kernels/temporal_attention.h"

#include <string>
#include <vector>

#include "tests/doctest.h"
#include "tests/sim/attention_support.h"
#include "tests/sim/orders.h"

namespace avid::test {
namespace {

using kernels::Sim;
using kernels::Stream;

struct Size {
  std::int64_t B, T, S, C, N, D, R;
  std::int64_t clips_per_chunk = 0;
};

/// Operands on both sides: doubles for the reference, the same numbers as Elem (and f32) on the device.
template <class Elem>
struct BlockCase {
  Size size;
  DeviceMatrix<Elem> x, w_qkv, w_out, d_y;
  DeviceMatrix<float> gamma, table;
  std::vector<float> freqs;

  BlockCase(const Size& s, std::uint64_t seed)
      : size(s),
        x(s.B * s.T * s.S, s.C, seed, 2.0),
        w_qkv(3 * s.N * s.D, s.C, seed + 1, 1.2 / std::sqrt(static_cast<double>(s.C))),
        w_out(s.C, s.N * s.D, seed + 2, 1.0 / std::sqrt(static_cast<double>(s.N * s.D))),
        d_y(s.B * s.T * s.S, s.C, seed + 3, 1.0),
        gamma(1, s.C, seed + 4, 1.5),
        table(32, s.N, seed + 5, 1.0) {
    for (std::int64_t r = 0; r < s.R; ++r)
      freqs.push_back(static_cast<float>(std::pow(1e4, -static_cast<double>(r) / static_cast<double>(s.R))));
  }

  kernels::TemporalAttentionArgs host(std::vector<double>& y) const {
    kernels::TemporalAttentionArgs p;
    p.dtype = DType::f64;
    p.B = size.B, p.T = size.T, p.S = size.S, p.C = size.C, p.N = size.N, p.D = size.D, p.R = size.R;
    p.x = x.values.data(), p.x_pitch = size.C;
    p.gamma = gamma.values.data();
    p.w_qkv = w_qkv.values.data(), p.w_qkv_pitch = size.C;
    p.w_out = w_out.values.data(), p.w_out_pitch = size.N * size.D;
    p.bias_table = table.values.data(), p.bias_table_pitch = size.N;
    p.rotary_freqs = freqs.data();
    y.assign(x.values.size(), 0.0);
    p.y = y.data(), p.y_pitch = size.C;
    return p;
  }

  kernels::TemporalAttentionDeviceArgs<Elem> device(DeviceMatrix<Elem>& y, Workspace& workspace, bool backward) const {
    kernels::TemporalAttentionDeviceArgs<Elem> p;
    p.B = size.B, p.T = size.T, p.S = size.S, p.C = size.C, p.N = size.N, p.D = size.D, p.R = size.R;
    p.x = x.rows(), p.gamma = gamma.data(), p.w_qkv = w_qkv.rows(), p.w_out = w_out.rows();
    p.bias_table = table.rows(), p.rotary_freqs = freqs.data();
    p.clips_per_chunk = size.clips_per_chunk;
    y = DeviceMatrix<Elem>::dirty(x.num_rows, size.C);
    p.y = y.mutable_rows();
    p.workspace = workspace.allocate(kernels::temporal_attention_workspace_bytes(p, backward));
    return p;
  }
};

/// Returns everything that was computed, for comparison of runs.
template <class Elem>
std::vector<double> check_block(const BlockCase<Elem>& c, double tolerance) {
  const Size& s = c.size;
  INFO(
      "B" << s.B << " T" << s.T << " S" << s.S << " C" << s.C << " N" << s.N << " D" << s.D << " chunk "
          << s.clips_per_chunk);
  std::vector<double> y;
  kernels::temporal_attention_fwd_reference(c.host(y));
  DeviceMatrix<Elem> got_y;
  Workspace workspace;
  kernels::temporal_attention_fwd<Sim, Elem>(Stream{}, c.device(got_y, workspace, false));
  CHECK(relative_l2(got_y.read(), y) < tolerance);
  CHECK(got_y.gaps_are_zero());

  std::vector<double> d_x(c.x.values.size()), d_gamma(c.gamma.values.size()), d_w_qkv(c.w_qkv.values.size()),
      d_w_out(c.w_out.values.size()), d_table(c.table.values.size());
  kernels::TemporalAttentionGrads g;
  g.d_y = c.d_y.values.data(), g.d_y_pitch = s.C;
  g.d_x = d_x.data(), g.d_x_pitch = s.C;
  g.d_gamma = d_gamma.data();
  g.d_w_qkv = d_w_qkv.data(), g.d_w_qkv_pitch = s.C;
  g.d_w_out = d_w_out.data(), g.d_w_out_pitch = s.N * s.D;
  g.d_bias_table = d_table.data(), g.d_bias_table_pitch = s.N;
  kernels::temporal_attention_bwd_reference(c.host(y), g);

  auto got_d_x = DeviceMatrix<Elem>::dirty(c.x.num_rows, s.C);
  auto got_d_gamma = DeviceMatrix<float>::dirty(1, s.C), got_d_w_qkv = DeviceMatrix<float>::dirty(3 * s.N * s.D, s.C),
       got_d_w_out = DeviceMatrix<float>::dirty(s.C, s.N * s.D), got_d_table = DeviceMatrix<float>::dirty(32, s.N);
  kernels::TemporalAttentionDeviceGrads<Elem> got;
  got.d_y = c.d_y.rows();
  got.d_x = got_d_x.mutable_rows();
  got.d_gamma = got_d_gamma.mutable_rows().data;
  got.d_w_qkv = got_d_w_qkv.mutable_rows();
  got.d_w_out = got_d_w_out.mutable_rows();
  got.d_bias_table = got_d_table.mutable_rows();
  kernels::temporal_attention_bwd<Sim, Elem>(Stream{}, c.device(got_y, workspace, true), got);
  CHECK(relative_l2(got_d_x.read(), d_x) < 2 * tolerance);
  CHECK(got_d_x.gaps_are_zero());
  if (s.C > 1) {  // one channel: the normalised row is 0 and so is every gradient through it, up to noise
    CHECK(relative_l2(got_d_w_out.read(), d_w_out) < 2 * tolerance);
    CHECK(relative_l2(got_d_gamma.read(), d_gamma) < 3 * tolerance);
    CHECK(relative_l2(got_d_w_qkv.read(), d_w_qkv) < 3 * tolerance);
    if (s.T > 1) {
      CHECK(relative_l2(got_d_table.read(), d_table) < 3 * tolerance);
    }
  }
  std::vector<double> all = got_y.read();
  for (const std::vector<double>& more :
       {got_d_x.read(), got_d_gamma.read(), got_d_w_qkv.read(), got_d_w_out.read(), got_d_table.read()})
    all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// Against the reference in every order of threads and blocks, with the same bits in each.
template <class Elem>
void check_in_every_order(const BlockCase<Elem>& c, double tolerance) {
  std::vector<double> first;
  for_each_order([&] {
    const std::vector<double> got = check_block(c, tolerance);
    if (first.empty()) first = got;
    CHECK(got == first);
  });
}

}  // namespace

TEST_CASE("temporal_attention/sim/f32 equals the f64 reference over awkward sizes") {
  std::uint64_t seed = 0;
  for (const Size& size : std::vector<Size>{
           {1, 8, 3, 50, 2, 50, 16},
           {2, 8, 3, 9, 1, 32, 16, 1},
           {3, 3, 2, 4, 2, 6, 3, 2},
           {1, 1, 3, 3, 1, 4, 2},
           {1, 2, 5, 1, 1, 8, 4},
           {1, 10, 2, 100, 1, 40, 16},
           {1, 20, 1, 12, 1, 72, 16}}) {
    const BlockCase<float> c(size, seed += 10);
    check_in_every_order(c, 2e-6);
  }
}

TEST_CASE("temporal_attention/sim/bf16 equals the f64 reference up to rounding") {
  std::uint64_t seed = 1000;
  for (const Size& size : std::vector<Size>{
           {1, 8, 3, 50, 2, 50, 16},
           {2, 8, 4, 90, 1, 50, 16, 1},
           {1, 8, 17, 100, 1, 64, 16},
           {2, 8, 5, 30, 2, 32, 16},
           {2, 8, 5, 32, 2, 24, 12},
           {2, 8, 4, 108, 1, 64, 16, 1},
           {3, 3, 2, 4, 2, 6, 3, 2},
           {1, 16, 3, 20, 1, 32, 16},
           {1, 10, 2, 100, 1, 40, 16}}) {
    const BlockCase<BFloat16> c(size, seed += 10);
    check_in_every_order(c, 1.2e-2);
  }
}

TEST_CASE("temporal_attention/sim/gradients that nobody wants are skipped and the others keep their bits") {
  const BlockCase<float> c({2, 4, 3, 8, 2, 20, 8, 1}, 77);
  const Size& s = c.size;
  DeviceMatrix<float> y;
  Workspace workspace;
  std::vector<std::vector<double>> expected;
  for (int only = -1; only < 5; ++only) {
    std::vector<DeviceMatrix<float>> out;
    for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {c.x.num_rows, s.C}, {1, s.C}, {3 * s.N * s.D, s.C}, {s.C, s.N * s.D}, {32, s.N}})
      out.push_back(DeviceMatrix<float>::dirty(rows, cols));
    const auto wanted = [&](int i) {
      return only < 0 || only == i ? out[static_cast<std::size_t>(i)].mutable_rows() : kernels::Rows<float>{};
    };
    kernels::TemporalAttentionDeviceGrads<float> g;
    g.d_y = c.d_y.rows();
    g.d_x = wanted(0), g.d_gamma = wanted(1).data, g.d_w_qkv = wanted(2), g.d_w_out = wanted(3),
    g.d_bias_table = wanted(4);
    kernels::temporal_attention_bwd<Sim, float>(Stream{}, c.device(y, workspace, true), g);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (only < 0) {
        expected.push_back(out[i].read());
      } else if (static_cast<int>(i) == only) {
        CHECK(out[i].read() == expected[i]);
      } else {
        CHECK(out[i].is_dirty());
      }
    }
  }
}

TEST_CASE("temporal_attention/sim/no pixels give gradients of zero") {
  const BlockCase<float> c({0, 4, 3, 8, 1, 8, 4}, 5);
  DeviceMatrix<float> y;
  Workspace workspace;
  kernels::temporal_attention_fwd<Sim, float>(Stream{}, c.device(y, workspace, false));
  auto d_gamma = DeviceMatrix<float>::dirty(1, 8), d_table = DeviceMatrix<float>::dirty(32, 1);
  kernels::TemporalAttentionDeviceGrads<float> g;
  g.d_gamma = d_gamma.mutable_rows().data, g.d_bias_table = d_table.mutable_rows();
  kernels::temporal_attention_bwd<Sim, float>(Stream{}, c.device(y, workspace, true), g);
  CHECK(d_gamma.read() == std::vector<double>(8, 0.0));
  CHECK(d_table.read() == std::vector<double>(32, 0.0));
}

}  // namespace avid::test
