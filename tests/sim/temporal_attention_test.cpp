// tests/sim/temporal_attention_test.cpp -- the temporal attention block on the simulator, against the CPU reference in
// f64
#include "kernels/temporal_attention.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/temporal_attention_plan.h"
#include "tests/doctest.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"
#include "tests/sim/wait.h"

namespace avid::test {
namespace {

using kernels::Sim;
using kernels::Stream;

struct Size {
  std::int64_t B, T, S, C, N, D, R;
  std::int64_t clips_per_chunk = 0, fused_blocks = 264;
};

template <class Elem>
struct BlockCase {
  Size size;
  Pitched<Elem> x, w_qkv, w_out, d_y;
  Pitched<float> gamma, table;
  std::vector<float> freqs;

  BlockCase(const Size& s, unsigned seed)
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
struct Results {
  Pitched<Elem> y, d_x;
  Pitched<Grad> d_gamma, d_w_qkv, d_w_out, d_table;

  explicit Results(const Size& s)
      : y(poisoned_rows<Elem>(s.B * s.T * s.S, s.C)),
        d_x(y),
        d_gamma(poisoned_rows<Grad>(1, s.C)),
        d_w_qkv(poisoned_rows<Grad>(3 * s.N * s.D, s.C)),
        d_w_out(poisoned_rows<Grad>(s.C, s.N * s.D)),
        d_table(poisoned_rows<Grad>(32, s.N)) {}
};

template <class Elem>
Results<double, double> run_reference(const BlockCase<Elem>& c) {
  const auto x = in_f64(c.x), w_qkv = in_f64(c.w_qkv), w_out = in_f64(c.w_out), d_y = in_f64(c.d_y);
  const auto gamma = in_f64(c.gamma), table = in_f64(c.table);
  const Size& s = c.size;
  Results<double, double> r(s);
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
Results<Elem> run_device(const BlockCase<Elem>& c) {
  Results<Elem> r(c.size);
  Workspace workspace;
  kernels::temporal_attention_fwd<Sim, Elem>(Stream{}, c.device(r.y, workspace, false));
  kernels::TemporalAttentionDeviceGrads<Elem> g;
  g.d_y = c.d_y.view();
  g.d_x = r.d_x.view();
  g.d_gamma = r.d_gamma.values.data();
  g.d_w_qkv = r.d_w_qkv.view();
  g.d_w_out = r.d_w_out.view();
  g.d_bias_table = r.d_table.view();
  Pitched<Elem> unused_y;
  kernels::temporal_attention_bwd<Sim, Elem>(Stream{}, c.device(unused_y, workspace, true), g);
  return r;
}

/// Against the reference in every order of threads and blocks, with the same bits in each.
template <class Elem>
void check_block(const BlockCase<Elem>& c, double tolerance) {
  const Size& s = c.size;
  INFO(
      "B" << s.B << " T" << s.T << " S" << s.S << " C" << s.C << " N" << s.N << " D" << s.D << " chunk "
          << s.clips_per_chunk);
  const Results<double, double> exact = run_reference(c);
  std::vector<Results<Elem>> runs;
  for_each_order([&] {
    runs.push_back(run_device(c));
    const Results<Elem>&got = runs.back(), &first = runs.front();
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
void check_gradients_alone(const BlockCase<Elem>& c) {
  const Results<Elem> all = run_device(c);
  for (int only = 0; only < 5; ++only) {
    Results<Elem> r(c.size);
    kernels::TemporalAttentionDeviceGrads<Elem> g;
    g.d_y = c.d_y.view();
    if (only == 0) g.d_x = r.d_x.view();
    if (only == 1) g.d_gamma = r.d_gamma.values.data();
    if (only == 2) g.d_w_qkv = r.d_w_qkv.view();
    if (only == 3) g.d_w_out = r.d_w_out.view();
    if (only == 4) g.d_bias_table = r.d_table.view();
    Workspace workspace;
    kernels::temporal_attention_bwd<Sim, Elem>(Stream{}, c.device(r.y, workspace, true), g);
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

/// Nobody pays for a gradient that somebody else wants: d_x, d_w_out and d_w_qkv, from cheap to dear in `order`.
template <class Elem>
void check_launches(const BlockCase<Elem>& c, const std::string& order) {
  check_gradients_launch_what_they_need(3, [&](int only) {
    Results<Elem> r(c.size);
    kernels::TemporalAttentionDeviceGrads<Elem> g;
    g.d_y = c.d_y.view();
    const char gradient = only < 0 ? '-' : order[static_cast<std::size_t>(only)];
    if (gradient == 'x') g.d_x = r.d_x.view();
    if (gradient == 'o') g.d_w_out = r.d_w_out.view();
    if (gradient == 'q') g.d_w_qkv = r.d_w_qkv.view();
    Workspace workspace;
    const auto p = c.device(r.y, workspace, true);
    return launches_of([&] { kernels::temporal_attention_bwd<Sim, Elem>(Stream{}, p, g); });
  });
}

}  // namespace

TEST_CASE("temporal_attention/sim/f32 equals the f64 reference over awkward sizes") {
  unsigned seed = 0;
  for (const Size& size : std::vector<Size>{
           {1, 8, 3, 50, 2, 50, 16},
           {2, 8, 3, 9, 1, 32, 16, 1},
           {3, 3, 2, 4, 2, 6, 3, 2},
           {1, 1, 3, 3, 1, 4, 2},
           {1, 2, 5, 1, 1, 8, 4},
           {1, 10, 2, 100, 1, 40, 16},
           {1, 20, 1, 12, 1, 72, 16}}) {
    const BlockCase<float> c(size, seed += 10);
    check_block(c, 2e-6);
  }
}

TEST_CASE("temporal_attention/sim/bf16 equals the f64 reference up to rounding") {
  unsigned seed = 1000;
  for (const Size& size : std::vector<Size>{
           {1, 8, 3, 50, 2, 50, 16},
           {2, 8, 4, 90, 1, 50, 16, 1},
           {1, 8, 17, 100, 1, 64, 16},
           {2, 8, 5, 30, 2, 32, 16},
           {2, 8, 5, 32, 2, 24, 12},
           {2, 8, 4, 108, 1, 64, 16, 1},
           {1, 8, 2, 90, 3, 45, 16},  // heads of an odd width, and of widths that end in groups of 16 in every way
           {1, 8, 2, 96, 2, 40, 16},
           {1, 8, 2, 96, 1, 54, 16},
           {1, 8, 2, 56, 3, 56, 16},
           {1, 8, 2, 100, 2, 60, 16},
           {1, 8, 2, 104, 1, 50, 16},
           {3, 3, 2, 4, 2, 6, 3, 2},
           {1, 16, 3, 20, 1, 32, 16},
           {1, 10, 2, 100, 1, 40, 16}}) {
    const BlockCase<BFloat16> c(size, seed += 10);
    check_block(c, 1.2e-2);
  }
}

TEST_CASE("temporal_attention/sim/16 frames in one kernel each way equal the f64 reference up to rounding") {
  unsigned seed = 3000;
  for (const Size& size : std::vector<Size>{
           {1, 16, 9, 30, 2, 32, 16},  // the four kernels; tiles of 8 pixels, the last one not full
           {1, 16, 9, 50, 1, 50, 16},
           {1, 16, 9, 90, 1, 50, 16},
           {1, 16, 9, 100, 1, 64, 16},
           {2, 16, 5, 89, 3, 49, 16, 1},  // odd channels and heads; a tile never has pixels of two clips
           {2, 16, 5, 101, 2, 60, 16},    // it has
           {1, 16, 3, 56, 3, 45, 12},     // fewer pairs turn than the table is wide
           {1, 16, 2, 96, 2, 40, 16},
           {1, 16, 1, 29, 5, 31, 3}}) {
    const BlockCase<BFloat16> c(size, seed += 10);
    Pitched<BFloat16> y;
    Workspace workspace;
    for (const bool backward : {false, true})
      CHECK(kernels::temporal_attention_plan(c.device(y, workspace, backward), backward).fused);
    check_block(c, 1.2e-2);
  }
}

TEST_CASE("temporal_attention/sim/a block of the fused backward pass walks over several tiles") {
  unsigned seed = 2000;
  for (const std::int64_t C :
       {30, 50, 90, 100}) {  // the four kernels; 3 tiles of 16 pixels (8 of 16 frames) in 2 blocks
    const std::int64_t D = C == 30 ? 32 : C == 100 ? 64 : 50;
    check_block(BlockCase<BFloat16>({1, 8, 37, C, 1, D, 16, 0, 2}, seed += 10), 1.2e-2);
    check_block(BlockCase<BFloat16>({1, 16, 18, C, 1, D, 16, 0, 2}, seed += 10), 1.2e-2);
    // One block of each pass, with 2 heads: 4 tiles of 8 (4) pixels through the two buffers of the weights' gradients.
    check_block(BlockCase<BFloat16>({1, 8, 25, C, 2, D, 16, 0, 1}, seed += 10), 1.2e-2);
    check_block(BlockCase<BFloat16>({1, 16, 13, C, 2, D, 16, 0, 1}, seed += 10), 1.2e-2);
  }
}

TEST_CASE("temporal_attention/sim/the fused kernels have as many blocks as tiles of 128 rows") {
  if (!lists_launches()) return;
  for (const std::int64_t T : {8, 16}) {
    for (const std::int64_t S : {15, 16, 17}) {
      const BlockCase<BFloat16> c({2, T, S, 30, 1, 32, 16}, 81);
      int found = 0;
      for (const ListedLaunch& launch : launches_of([&] { run_device(c); })) {
        if (launch.kernel.find("temporal_fused_") != 0) continue;
        ++found;
        CHECK(launch.blocks == (2 * S * T + 127) / 128);
      }
      CHECK(found == 2);
    }
  }
}

TEST_CASE("temporal_attention/sim/gradients that nobody wants are skipped and the others keep their bits") {
  check_gradients_alone(BlockCase<float>({2, 4, 3, 8, 2, 20, 8, 1}, 77));
  check_gradients_alone(BlockCase<BFloat16>({2, 8, 3, 30, 1, 32, 16, 1}, 78));   // fused
  check_gradients_alone(BlockCase<BFloat16>({2, 16, 3, 30, 1, 32, 16, 1}, 82));  // fused
  check_launches(BlockCase<float>({2, 4, 3, 8, 2, 20, 8, 1}, 79), "oqx");
  check_launches(BlockCase<BFloat16>({2, 8, 3, 30, 1, 32, 16, 1}, 80), "xoq");
}

TEST_CASE("temporal_attention/sim/a row that is not finite has gaps of zeros and leaves other products alone") {
  for (const std::int64_t T : {8, 16}) {
    for (const std::int64_t C : {29, 90}) {  // gaps of an odd and of an even number of channels
      BlockCase<BFloat16> c({1, T, 17, C, 2, C == 29 ? 32 : 50, 16}, 90);
      const Results<BFloat16> sound = run_device(c);
      c.x.at(3, 1) = BFloat16(std::numeric_limits<float>::infinity());  // frame 0 of pixel 3
      const Results<BFloat16> r = run_device(c);
      const std::int64_t of_product = 16 / T;  // pixels: of 8 frames also pixel 2
      CHECK(gaps_are_zero(r.d_x));
      CHECK(gaps_are_zero(r.y));
      for (std::int64_t row = 0; row < r.d_x.rows; ++row) {
        for (std::int64_t k = 0; k < C; ++k) {
          if (row % 17 == 3) CHECK(std::isnan(r.d_x(row, k)));
          if (row % 17 / of_product != 3 / of_product) CHECK(r.d_x(row, k) == sound.d_x(row, k));
        }
      }
    }
  }
}

TEST_CASE("temporal_attention/sim/no pixels give gradients of zero") {
  const BlockCase<float> c({0, 4, 3, 8, 1, 8, 4}, 5);
  const Results<float> r = run_device(c);
  wait_for_fills();
  for (std::int64_t i = 0; i < 8; ++i) CHECK(r.d_gamma(0, i) == 0);
  for (std::int64_t i = 0; i < 32; ++i) CHECK(r.d_table(i, 0) == 0);
  for (std::int64_t i = 0; i < r.d_w_qkv.rows; ++i)
    for (std::int64_t k = 0; k < 8; ++k) CHECK(r.d_w_qkv(i, k) == 0);
  for (std::int64_t i = 0; i < 8; ++i)
    for (std::int64_t k = 0; k < 8; ++k) CHECK(r.d_w_out(i, k) == 0);
}

}  // namespace avid::test
