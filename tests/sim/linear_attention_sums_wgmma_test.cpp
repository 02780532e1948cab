// tests/sim/linear_attention_sums_wgmma_test.cpp -- pass 1 of linear attention on wgmma, both ways: the whole block,
// whose forward pass keeps the sums over keys, against the f64 reference, and these sums against f64 loops
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/gather_gemm.h"
#include "kernels/linear_attention.h"
#include "tests/doctest.h"
#include "tests/sim/arch.h"
#include "tests/sim/linear_attention_case.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

const auto run_kept = [](const BlockCase& c, unsigned wanted) {
  return run_linear_attention_kept<BFloat16>(c, wanted);
};

void check(const BlockCase& c, bool all_orders = false) {
  check_block<BFloat16>(c, all_orders, run_kept, run_linear_attention_reference, 8e-3);  // as on mma.sync
}

/// Relative errors of what was kept of all frames and heads: the means of h under the softmax of k, and the logs of the
/// sums of exponentials, whose errors are those of k, absolute.
struct KeyErrors {
  double means = 0, logs = 0;
};
KeyErrors key_errors(const BlockCase& c) {
  Workspace kept;
  const BlockTensors<BFloat16> t = run_linear_attention_kept<BFloat16>(c, 0, kept);
  const auto* sums = kept.data<float>();
  const std::int64_t width = (c.C + 7) / 8 * 8, of_head = 32 * width + 32;
  KeyErrors errors;
  double off = 0, norm = 0;
  std::vector<double> h(static_cast<std::size_t>(c.S * c.C)), k(static_cast<std::size_t>(c.S));
  const auto h_at = [&](std::int64_t s, std::int64_t i) -> double& { return h[static_cast<std::size_t>(s * c.C + i)]; };
  for (std::int64_t frame = 0; frame < c.B * c.T; ++frame) {
    for (std::int64_t s = 0; s < c.S; ++s) {
      double mean = 0, square = 0;
      for (std::int64_t i = 0; i < c.C; ++i) mean += t.x(frame * c.S + s, i) / static_cast<double>(c.C);
      for (std::int64_t i = 0; i < c.C; ++i)
        square += std::pow(t.x(frame * c.S + s, i) - mean, 2) / static_cast<double>(c.C);
      for (std::int64_t i = 0; i < c.C; ++i)
        h_at(s, i) = (t.x(frame * c.S + s, i) - mean) / std::sqrt(square + kernels::kPrenormEps) * t.gamma(0, i);
    }
    for (std::int64_t row = 0; row < c.inner(); ++row) {
      double top = -std::numeric_limits<double>::infinity(), total = 0;
      for (std::int64_t s = 0; s < c.S; ++s) {
        double& logit = k[static_cast<std::size_t>(s)] = 0;
        for (std::int64_t i = 0; i < c.C; ++i) logit += t.w_qkv(c.inner() + row, i) * h_at(s, i);
        top = std::max(top, logit);
      }
      for (double& logit : k) total += logit = std::exp(logit - top);
      const float* of = sums + (frame * c.N + row / 32) * of_head;
      errors.logs = std::max(errors.logs, std::abs(of[32 * width + row % 32] - (top + std::log(total))));
      for (std::int64_t i = 0; i < c.C; ++i) {
        double exact = 0;
        for (std::int64_t s = 0; s < c.S; ++s) exact += k[static_cast<std::size_t>(s)] / total * h_at(s, i);
        off += std::pow(of[row % 32 * width + i] - exact, 2), norm += exact * exact;
      }
      for (std::int64_t i = c.C; i < width; ++i) CHECK(of[row % 32 * width + i] == 0.0f);
    }
  }
  errors.means = std::sqrt(off / norm);
  return errors;
}

/// Blocks of pass 1, forward and backward, on wgmma and on mma.sync.
struct SumBlocks {
  unsigned forward = 0, backward = 0, forward_mma = 0, backward_mma = 0;
  bool operator==(const SumBlocks&) const = default;
};
template <class Run>
SumBlocks sum_blocks(Run&& run) {
  SumBlocks found;
  for (const ListedLaunch& launch : launches_of(run)) {
    const auto count = [&](const char* name, unsigned& blocks) {
      if (launch.kernel.find(name) == 0) blocks += launch.blocks;
    };
    count("linear_attention_sums_wgmma_kernel", found.forward);
    count("linear_bwd_sums_wgmma_kernel", found.backward);
    count("linear_attention_sums_kernel", found.forward_mma);
    count("linear_bwd_sums_kernel", found.backward_mma);
  }
  return found;
}

}  // namespace

TEST_CASE("linear_attention_sums_wgmma/every_order_gives_the_same_bits") {
  const OnArch arch(90);
  check({1, 2, 70, 12, 3, 32, true}, true);
  check({1, 1, 330, 100, 7, 32, true}, true);
  check({1, 1, 257, 130, 5, 32, true}, true);
}

TEST_CASE("linear_attention_sums_wgmma/widths_of_rows") {
  // One below, at and one above what a kernel takes; even and odd numbers of chunks; rows with gaps.
  const OnArch arch(90);
  for (const std::int64_t C : {1, 8, 55, 56, 57, 90, 96, 97, 104}) check({1, 1, 67, C, 2, 32, true});
  for (const std::int64_t C : {105, 180, 184, 185, 193, 200}) check({1, 1, 257, C, 2, 32, true});
}

TEST_CASE("linear_attention_sums_wgmma/heads") {
  // Two to a warpgroup, the last of which may be alone; blocks of up to four warpgroups, three or two in wide rows, the
  // last of which may have nothing to do.
  const OnArch arch(90);
  for (const std::int64_t N : {1, 2, 3, 5, 8, 9}) check({1, 1, 130, 20, N, 32, true});
  for (const std::int64_t N : {5, 7}) check({1, 1, 256, 110, N, 32, true});
  for (const std::int64_t N : {3, 5}) check({1, 1, 256, 190, N, 32, true});
}

TEST_CASE("linear_attention_sums_wgmma/positions") {
  // Around a tile, and the three and two that are in memory at a time; slabs of the passes, several frames.
  const OnArch arch(90);
  for (const std::int64_t S : {1, 15, 63, 64, 65, 127, 128, 129, 192, 193, 256, 321}) check({1, 2, S, 6, 2, 32, true});
  check({2, 3, 129, 50, 2, 32, true});
  check({1, 1, 1025, 7, 2, 32, true});
  check({1, 1, 2049, 7, 1, 32, true});
}

TEST_CASE("linear_attention_sums_wgmma/large_logits") {
  // Beyond 88 the exponential of an f32 is infinite; half way through a frame the maxima grow.
  const OnArch arch(90);
  check({1, 1, 70, 10, 2, 32, true, 30.0, BlockRows::signs}, true);
  check({1, 1, 300, 106, 3, 32, true, 30.0, BlockRows::signs});
  check({1, 1, 300, 10, 2, 32, true, 1.0, BlockRows::peaks});
}

TEST_CASE("linear_attention_sums_wgmma/equal_positions_give_the_keys_no_gradient") {
  // The gradient of a key is the difference of two equal numbers, whatever was rounded to bf16 before.
  const OnArch arch(90);
  for (const BlockCase& c :
       {BlockCase{1, 2, 64, 50, 3, 32, true, 1.0, BlockRows::equal},
        {1, 1, 512, 150, 3, 32, true, 1.0, BlockRows::equal}}) {
    check(c);
    const auto t = run_kept(c, kAllGradients);
    const auto norm_of_rows = [&](std::int64_t first) {
      double sum = 0;
      for (std::int64_t r = first; r < first + 96; ++r)
        for (std::int64_t i = 0; i < c.C; ++i) sum += t.d_w_qkv(r, i) * t.d_w_qkv(r, i);
      return std::sqrt(sum);
    };
    CHECK(norm_of_rows(96) < 1e-4 * norm_of_rows(192));
  }
}

TEST_CASE("linear_attention_sums_wgmma/kept sums are those of f64 loops") {
  // h and the exponentials are rounded once each, which the means average out.
  const OnArch arch(90);
  for (const BlockCase& c :
       {BlockCase{1, 2, 130, 90, 3, 32, true}, {1, 1, 1100, 33, 2, 32, true}, {1, 1, 300, 200, 5, 32, true}}) {
    CAPTURE(c.C);
    const KeyErrors e = key_errors(c);
    CHECK(e.means < 3e-3);
    CHECK(e.logs < 2e-3);
  }
}

TEST_CASE("linear_attention_sums_wgmma/a frame that is not finite leaves others alone") {
  const OnArch arch(90);
  for (const std::int64_t C : {90, 100}) {  // an even and an odd number of chunks
    const BlockCase c{1, 2, 70, C, 3, 32, true};
    const auto run = [&](bool infinite) {
      BlockTensors<BFloat16> t(c);
      if (infinite) t.x.at(3, 1) = BFloat16(std::numeric_limits<float>::infinity());
      kernels::AttentionBlockDeviceArgs<BFloat16> p = block_args(c, t);
      Workspace forward(kernels::linear_attention_workspace_bytes(p, false));
      Workspace backward(kernels::linear_attention_workspace_bytes(p, true));
      Workspace kept(kernels::linear_attention_key_sums(p) * 4);
      p.workspace = forward.data<void>(), p.key_sums = kept.data<float>();
      kernels::linear_attention_fwd<Sim>(Stream{}, p);
      p.workspace = backward.data<void>();
      kernels::AttentionBlockDeviceGrads<BFloat16> g;
      g.d_y = t.d_y.view(), g.d_x = t.d_x.view();
      kernels::linear_attention_bwd<Sim>(Stream{}, p, g);
      return t;
    };
    const auto sound = run(false), t = run(true);
    for (std::int64_t i = 0; i < C; ++i) CHECK(std::isnan(t.d_x(3, i)));
    bool same = true;
    for (std::int64_t r = 70; r < 140; ++r)
      for (std::int64_t i = 0; i < C; ++i) same = same && t.y(r, i) == sound.y(r, i) && t.d_x(r, i) == sound.d_x(r, i);
    CHECK(same);
  }
}

TEST_CASE("linear_attention_sums_wgmma/gradients_that_nobody_wants_are_skipped") {
  const OnArch arch(90);
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_kept);
}

TEST_CASE("linear_attention_sums_wgmma/runs where the device has wgmma, it is allowed and sums were kept") {
  if (!lists_launches()) return;
  const BlockCase c{1, 2, 1030, 90, 9, 32, true}, wide{1, 1, 256, 180, 7, 32, true};
  const auto kept = [](const BlockCase& of) { return sum_blocks([&] { run_kept(of, kAllGradients); }); };
  const auto not_kept = [&] { return sum_blocks([&] { run_linear_attention<BFloat16>(c, kAllGradients); }); };
  {
    const OnArch arch(90);
    CHECK(kept(c) == SumBlocks{2 * 5 * 2, 2 * 2, 0, 0});  // frames, slabs of the forward pass, groups of heads
    CHECK(kept(wide) == SumBlocks{2, 2, 0, 0});
    CHECK(not_kept() == SumBlocks{20, 0, 0, 2 * 3});  // four heads to a block
    kernels::allow_wgmma(false);
    CHECK(kept(c) == SumBlocks{0, 0, 20, 4});
  }
  const OnArch arch(80);
  CHECK(kept(c) == SumBlocks{0, 0, 20, 4});
}
