// tests/sim/linear_attention_bwd_wgmma_test.cpp -- gradients of linear attention on wgmma, against the f64 reference;
// the whole block, as in linear_attention_bwd_test.cpp, on a device of compute capability 9.0
#include <cstdint>

#include "kernels/gather_gemm.h"
#include "kernels/linear_attention.h"
#include "kernels/linear_attention_bwd.h"
#include "tests/doctest.h"
#include "tests/sim/arch.h"
#include "tests/sim/linear_attention_case.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

void check(const BlockCase& c, bool all_orders = false) {
  CAPTURE(c.C);
  CAPTURE(c.S);
  check_block<BFloat16>(
      c, all_orders, run_linear_attention<BFloat16>, run_linear_attention_reference, 8e-3);  // as on mma.sync
}

/// Blocks of the pass over rows on wgmma, and of the one on mma.sync.
struct RowBlocks {
  unsigned wgmma = 0, mma = 0;
  bool operator==(const RowBlocks&) const = default;
};
RowBlocks row_blocks(const BlockCase& c) {
  RowBlocks found;
  for (const ListedLaunch& launch : launches_of([&] { run_linear_attention<BFloat16>(c, kAllGradients); })) {
    if (launch.kernel.find("linear_bwd_rows_wgmma_kernel") == 0) found.wgmma += launch.blocks;
    if (launch.kernel.find("linear_bwd_rows_kernel") == 0) found.mma += launch.blocks;
  }
  return found;
}

}  // namespace

TEST_CASE("linear_attention_bwd_wgmma/every_order_gives_the_same_bits") {
  const OnArch arch(90);
  check({1, 2, 40, 12, 2, 32, true}, true);
  check({1, 1, 130, 100, 2, 32, true}, true);
  check({1, 1, 256, 110, 2, 32, true}, true);
}

TEST_CASE("linear_attention_bwd_wgmma/widths_of_rows") {
  // One below, at and one above what a kernel takes; even and odd numbers of chunks; rows with gaps.
  const OnArch arch(90);
  for (const std::int64_t C : {1, 8, 55, 56, 57, 90, 96, 97, 104}) check({1, 1, 37, C, 1, 32, true});
  for (const std::int64_t C : {105, 180, 184, 185, 193, 200}) check({1, 1, 257, C, 1, 32, true});
}

TEST_CASE("linear_attention_bwd_wgmma/heads") {
  // Three buffers take the stages in turn.
  const OnArch arch(90);
  for (const std::int64_t N : {1, 2, 3, 4, 5, 9}) check({1, 1, 35, 90, N, 32, false});
}

TEST_CASE("linear_attention_bwd_wgmma/positions") {
  // Around a warp's rows, a warpgroup's and a block's; several frames.
  const OnArch arch(90);
  for (const std::int64_t S : {1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 257}) check({1, 2, S, 6, 1, 32, true});
  check({2, 3, 129, 50, 2, 32, true});
}

TEST_CASE("linear_attention_bwd_wgmma/large_logits") {
  // Beyond 88 the exponential of an f32 is infinite.
  const OnArch arch(90);
  check({1, 1, 70, 10, 2, 32, true, 30.0, BlockRows::signs}, true);
  check({1, 1, 300, 106, 2, 32, true, 30.0, BlockRows::signs});
}

TEST_CASE("linear_attention_bwd_wgmma/equal_positions_give_the_keys_no_gradient") {
  const OnArch arch(90);
  for (const BlockCase& c :
       {BlockCase{1, 2, 64, 50, 3, 32, true, 1.0, BlockRows::equal},
        {1, 1, 512, 150, 3, 32, true, 1.0, BlockRows::equal}}) {
    check(c);
    const auto t = run_linear_attention<BFloat16>(c, kAllGradients);
    const auto norm_of_rows = [&](std::int64_t first) {
      double sum = 0;
      for (std::int64_t r = first; r < first + 96; ++r)
        for (std::int64_t i = 0; i < c.C; ++i) sum += t.d_w_qkv(r, i) * t.d_w_qkv(r, i);
      return std::sqrt(sum);
    };
    CHECK(norm_of_rows(96) < 1e-4 * norm_of_rows(192));
  }
}

TEST_CASE("linear_attention_bwd_wgmma/gradients_that_nobody_wants_are_skipped") {
  const OnArch arch(90);
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_linear_attention<BFloat16>);
}

TEST_CASE("linear_attention_bwd_wgmma/runs where the device has wgmma and it is allowed") {
  if (!lists_launches()) return;
  const BlockCase c{1, 2, 129, 90, 2, 32, true}, wide{1, 1, 256, 180, 2, 32, true};
  {
    const OnArch arch(90);
    CHECK(row_blocks(c) == RowBlocks{4, 0});
    CHECK(row_blocks(wide) == RowBlocks{2, 0});
    kernels::allow_wgmma(false);
    CHECK(row_blocks(c) == RowBlocks{0, 4});
    CHECK(row_blocks(wide) == RowBlocks{0, 2});
  }
  const OnArch arch(80);
  CHECK(row_blocks(c) == RowBlocks{0, 4});
}
