// tests/sim/temporal_attention_fused_wgmma_test.cpp -- temporal attention forward on wgmma, against the CPU reference
// in f64; the whole block, as in temporal_attention_test.cpp, on a device of compute capability 9.0
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/device/backend.h"
#include "kernels/temporal_attention.h"
#include "kernels/temporal_attention_fused.h"
#include "tests/doctest.h"
#include "tests/sim/arch.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"

namespace avid::test {
namespace {

using kernels::Sim;
using kernels::Stream;

struct Size {
  std::int64_t B, T, S, C, N, D;
};

struct ForwardCase {
  Size size;
  Pitched<BFloat16> x, w_qkv, w_out;
  Pitched<float> gamma, table;
  std::vector<float> freqs;

  ForwardCase(const Size& s, unsigned seed)
      : size(s),
        x(random_rows<BFloat16>(s.B * s.T * s.S, s.C, seed, 3.4)),
        w_qkv(random_rows<BFloat16>(3 * s.N * s.D, s.C, seed + 1, 2.0 / std::sqrt(static_cast<double>(s.C)))),
        w_out(random_rows<BFloat16>(s.C, s.N * s.D, seed + 2, 1.7 / std::sqrt(static_cast<double>(s.N * s.D)))),
        gamma(fine_rows<float>(1, s.C, seed + 4, 2.6)),
        table(fine_rows<float>(32, s.N, seed + 5, 1.7)) {
    for (int r = 0; r < rotated(); ++r) freqs.push_back(static_cast<float>(std::pow(1e4, -r / 16.0)));
  }

  std::int64_t rotated() const { return std::min<std::int64_t>(16, size.D / 2); }

  Pitched<BFloat16> run() const {
    auto y = poisoned_rows<BFloat16>(x.rows, size.C);
    kernels::TemporalAttentionDeviceArgs<BFloat16> p;
    p.B = size.B, p.T = size.T, p.S = size.S, p.C = size.C, p.N = size.N, p.D = size.D, p.R = rotated();
    p.x = x.view(), p.gamma = gamma.values.data(), p.w_qkv = w_qkv.view(), p.w_out = w_out.view();
    p.bias_table = table.view(), p.rotary_freqs = freqs.data();
    p.y = y.view();
    Workspace workspace;
    p.workspace = workspace.allocate(kernels::temporal_attention_workspace_bytes(p, false));
    kernels::temporal_attention_fwd<Sim, BFloat16>(Stream{}, p);
    return y;
  }

  Pitched<double> reference() const {
    const auto x64 = in_f64(x), w_qkv64 = in_f64(w_qkv), w_out64 = in_f64(w_out);
    const auto gamma64 = in_f64(gamma), table64 = in_f64(table);
    auto y = poisoned_rows<double>(x.rows, size.C);
    kernels::TemporalAttentionArgs p;
    p.dtype = DType::f64;
    p.B = size.B, p.T = size.T, p.S = size.S, p.C = size.C, p.N = size.N, p.D = size.D, p.R = rotated();
    p.x = x64.values.data(), p.x_pitch = x64.pitch;
    p.gamma = gamma64.values.data();
    p.w_qkv = w_qkv64.values.data(), p.w_qkv_pitch = w_qkv64.pitch;
    p.w_out = w_out64.values.data(), p.w_out_pitch = w_out64.pitch;
    p.bias_table = table64.values.data(), p.bias_table_pitch = table64.pitch;
    p.rotary_freqs = freqs.data();
    p.y = y.values.data(), p.y_pitch = y.pitch;
    kernels::temporal_attention_fwd_reference(p);
    return y;
  }
};

void check(const Size& s, unsigned seed) {
  INFO("B" << s.B << " T" << s.T << " S" << s.S << " C" << s.C << " N" << s.N << " D" << s.D);
  const ForwardCase c(s, seed);
  const Pitched<double> exact = c.reference();
  std::vector<Pitched<BFloat16>> runs;
  for_each_order([&] {
    runs.push_back(c.run());
    CHECK(rel_l2(runs.back(), exact) < 6e-3);  // y alone: rounding of x + ..., and what mma.sync reaches
    CHECK(gaps_are_zero(runs.back()));
    CHECK(same_bits(runs.back(), runs.front()));
  });
}

/// Blocks of the kernel on wgmma, -1 where the forward pass does not launch it.
int wgmma_blocks(const ForwardCase& c) {
  for (const ListedLaunch& launch : launches_of([&] { c.run(); }))
    if (launch.kernel.find("temporal_fused_fwd_wgmma_kernel") == 0) return static_cast<int>(launch.blocks);
  return -1;
}

}  // namespace

TEST_CASE("temporal_attention_fused_wgmma/8 frames equal the f64 reference up to rounding") {
  const OnArch arch(90);
  unsigned seed = 100;
  for (const Size& s : std::vector<Size>{
           {1, 8, 17, 100, 2, 64},  // the last block has one pixel
           {2, 8, 9, 90, 3, 50},    // clips share a block
           {1, 8, 3, 50, 2, 50},
           {2, 8, 16, 30, 2, 32},
           {1, 8, 5, 29, 1, 32},
           {1, 8, 2, 32, 2, 24},  // heads that are narrower than the kernel's
           {1, 8, 2, 56, 3, 56},
           {1, 8, 2, 72, 1, 56},  // fewer chunks than the kernel's
           {1, 8, 2, 96, 2, 40},
           {1, 8, 2, 104, 2, 50},
           {1, 8, 2, 97, 1, 60}})
    check(s, seed += 10);
}

TEST_CASE("temporal_attention_fused_wgmma/16 frames equal the f64 reference up to rounding") {
  const OnArch arch(90);
  unsigned seed = 400;
  for (const Size& s :
       std::vector<Size>{{1, 16, 9, 100, 2, 64}, {2, 16, 5, 90, 1, 50}, {1, 16, 3, 50, 2, 50}, {1, 16, 8, 30, 2, 32}})
    check(s, seed += 10);
}

TEST_CASE("temporal_attention_fused_wgmma/runs where the device has wgmma and it is allowed") {
  if (!lists_launches()) return;
  const ForwardCase c({2, 8, 17, 90, 1, 50}, 700);
  {
    const OnArch arch(90);
    CHECK(wgmma_blocks(c) == 3);
    CHECK(wgmma_blocks(ForwardCase({2, 8, 16, 90, 1, 50}, 702)) == 2);
    CHECK(wgmma_blocks(ForwardCase({1, 16, 8, 90, 1, 50}, 703)) == 1);
    const ForwardCase wide({1, 8, 4, 108, 1, 64}, 701);  // no fused kernel
    CHECK(wgmma_blocks(wide) == -1);
    kernels::allow_wgmma(false);
    CHECK(wgmma_blocks(c) == -1);
  }
  const OnArch arch(80);
  CHECK(wgmma_blocks(c) == -1);
  CHECK_THROWS_AS(kernels::temporal_fused_fwd_wgmma<Sim>(Stream{}, {}), kernels::GpuError);
}

TEST_CASE("temporal_attention_fused_wgmma/a row that is not finite has zero gaps and leaves others alone") {
  const OnArch arch(90);
  for (const std::int64_t C : {90, 100}) {  // an even and an odd number of chunks
    ForwardCase c({1, 8, 17, C, 2, C == 90 ? 50 : 64}, 800);
    const Pitched<BFloat16> sound = c.run();
    c.x.at(3, 1) = BFloat16(std::numeric_limits<float>::infinity());  // frame 0 of pixel 3, one product with pixel 2
    const Pitched<BFloat16> y = c.run();
    CHECK(gaps_are_zero(y));
    for (std::int64_t row = 0; row < y.rows; ++row) {
      for (std::int64_t k = 0; k < C; ++k) {
        if (row % 17 == 3) CHECK(std::isnan(y(row, k)));
        if (row % 17 / 2 != 1) CHECK(y(row, k) == sound(row, k));
      }
    }
  }
}

}  // namespace avid::test
