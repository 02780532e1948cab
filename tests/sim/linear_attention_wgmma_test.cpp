// tests/sim/linear_attention_wgmma_test.cpp -- linear attention forward on wgmma, against the f64 reference; the whole
// block, as in linear_attention_test.cpp, on a device of compute capability 9.0
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

/// y alone. In `change` the tensors may be changed before.
template <class Change>
BlockTensors<BFloat16> run_forward(const BlockCase& c, Change&& change) {
  BlockTensors<BFloat16> t(c);
  change(t);
  kernels::AttentionBlockDeviceArgs<BFloat16> p = block_args(c, t);
  Workspace workspace(kernels::linear_attention_workspace_bytes(p, false));
  p.workspace = workspace.data<void>();
  kernels::linear_attention_fwd<Sim>(Stream{}, p);
  return t;
}
BlockTensors<BFloat16> run_forward(const BlockCase& c) {
  return run_forward(c, [](auto&) {});
}

void check(const BlockCase& c, bool all_orders = false) {
  CAPTURE(c.C);
  CAPTURE(c.S);
  CAPTURE(c.N);
  const auto exact = run_linear_attention_reference(c);
  std::vector<Pitched<BFloat16>> runs;
  const auto run = [&] {
    runs.push_back(run_forward(c).y);
    CHECK(rel_l2(runs.back(), exact.y) < 4e-3);  // as on mma.sync
    CHECK(gaps_are_zero(runs.back()));
    CHECK(same_bits(runs.back(), runs.front()));
  };
  all_orders ? for_each_order(run) : run();
}

unsigned blocks_of(const BlockCase& c, const char* kernel) {
  unsigned found = 0;
  for (const ListedLaunch& launch : launches_of([&] { run_forward(c); }))
    if (launch.kernel.find(kernel) == 0) found += launch.blocks;
  return found;
}

}  // namespace

TEST_CASE("linear_attention_wgmma/every_order_gives_the_same_bits") {
  const OnArch arch(90);
  check({1, 2, 40, 12, 3, 32, true}, true);
  check({1, 1, 130, 100, 4, 32, true}, true);
  check({1, 1, 257, 130, 5, 32, true}, true);
}

TEST_CASE("linear_attention_wgmma/widths_of_rows") {
  // One below, at and one above what a kernel takes; even and odd numbers of chunks; rows with gaps.
  const OnArch arch(90);
  for (const std::int64_t C : {1, 8, 55, 56, 57, 90, 96, 97, 104}) check({1, 1, 37, C, 2, 32, true});
  for (const std::int64_t C : {105, 180, 184, 185, 193, 200}) check({1, 1, 257, C, 2, 32, true});
}

TEST_CASE("linear_attention_wgmma/heads") {
  // Two to a stage; the last may be alone. Buffers in turn.
  const OnArch arch(90);
  for (const std::int64_t N : {1, 2, 3, 4, 5, 6, 9}) check({1, 2, 35, 90, N, 32, true});
}

TEST_CASE("linear_attention_wgmma/positions") {
  // Around a warp's rows, a warpgroup's and a block's; several frames.
  const OnArch arch(90);
  for (const std::int64_t S : {1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 257}) check({1, 2, S, 6, 2, 32, true});
  check({2, 3, 129, 50, 2, 32, true});
}

TEST_CASE("linear_attention_wgmma/large_logits") {
  // Beyond 88 the exponential of an f32 is infinite.
  const OnArch arch(90);
  check({1, 1, 70, 10, 2, 32, true, 30.0, BlockRows::signs}, true);
  check({1, 1, 300, 106, 3, 32, true, 30.0, BlockRows::signs});
}

TEST_CASE("linear_attention_wgmma/a frame that is not finite leaves others alone") {
  const OnArch arch(90);
  for (const std::int64_t C : {90, 100}) {  // an even and an odd number of chunks
    const BlockCase c{1, 2, 70, C, 3, 32, true};
    const auto sound = run_forward(c);
    const auto t =
        run_forward(c, [](auto& tensors) { tensors.x.at(3, 1) = BFloat16(std::numeric_limits<float>::infinity()); });
    for (std::int64_t i = 0; i < C; ++i) CHECK(std::isnan(t.y(3, i)));
    bool same = true;
    for (std::int64_t r = 70; r < 140; ++r)
      for (std::int64_t i = 0; i < C; ++i) same = same && t.y(r, i) == sound.y(r, i);
    CHECK(same);
  }
}

TEST_CASE("linear_attention_wgmma/runs where the device has wgmma and it is allowed") {
  if (!lists_launches()) return;
  const BlockCase c{1, 2, 129, 90, 3, 32, true}, wide{1, 1, 256, 180, 2, 32, true};
  const char *on_wgmma = "linear_attention_pass_b_wgmma_kernel", *on_mma = "linear_attention_pass_b_kernel";
  {
    const OnArch arch(90);
    CHECK(blocks_of(c, on_wgmma) == 4);
    CHECK(blocks_of(wide, on_wgmma) == 2);
    CHECK(blocks_of(c, on_mma) == 0);
    kernels::allow_wgmma(false);
    CHECK(blocks_of(c, on_wgmma) == 0);
    CHECK(blocks_of(c, on_mma) == 4);
  }
  const OnArch arch(80);
  CHECK(blocks_of(c, on_wgmma) == 0);
  CHECK(blocks_of(c, on_mma) == 4);
}
