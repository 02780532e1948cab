// tests/sim/temporal_attention_value_grad_test.cpp -- gradients of the weights that values pass, by both kernels for
// the sums, against loops in f64 over the probabilities as they lie in memory
#include "kernels/temporal_attention_value_grad.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/device/backend.h"
#include "tests/doctest.h"
#include "tests/sim/arch.h"
#include "tests/sim/launch_list.h"
#include "tests/sim/orders.h"
#include "tests/sim/pitched.h"
#include "tests/sim/temporal_attention_case.h"

namespace avid::test {
namespace {

using kernels::Sim;
using kernels::Stream;

struct SumsSize {
  std::int64_t B, T, S, C, N, D, splits;
};

/// The key at element e of a row of P: 16 keys lie as TemporalFusedGrads::prob says.
std::int64_t key_at(std::int64_t e, std::int64_t T) { return T == 8 ? e : e / 4 * 2 + e % 2 + e % 4 / 2 * 8; }

struct SumsCase {
  SumsSize size;
  Pitched<BFloat16> h, d_y, prob;  // prob: [B*S*N*T,T], 16 or 32 bytes a row

  SumsCase(const SumsSize& s, unsigned seed)
      : size(s),
        h(fine_rows<BFloat16>(s.B * s.T * s.S, s.C, seed, 1.7)),
        d_y(fine_rows<BFloat16>(s.B * s.T * s.S, s.C, seed + 1, 1.7)),
        prob(fine_rows<BFloat16>(s.B * s.S * s.N * s.T, s.T, seed + 2)) {}

  /// Row of frame t of a pixel, which are counted over all clips.
  std::int64_t row(std::int64_t pixel, std::int64_t t) const {
    return (pixel / size.S * size.T + t) * size.S + pixel % size.S;
  }
  std::int64_t pitch() const { return (size.C + 7) / 8 * 8; }

  /// Poisoned sums as the kernel has them, a row per split, head and channel of h.
  Pitched<float> unset() const { return poisoned_rows<float>(size.splits * size.N * size.C, pitch()); }

  /// The kernel's arguments for clips from `first_clip` on, which set `sums` if that is 0.
  kernels::TemporalValueGradArgs device(Pitched<float>& sums, std::int64_t first_clip, std::int64_t clips) const {
    kernels::TemporalValueGradArgs p;
    p.B = clips, p.T = size.T, p.S = size.S, p.C = size.C, p.N = size.N, p.D = size.D;
    const std::int64_t first = first_clip * size.T * size.S;
    p.h = {h.view().row(first), h.pitch}, p.d_y = {d_y.view().row(first), d_y.pitch};
    p.prob = prob.view().row(first_clip * size.S * size.N * size.T);
    p.splits = size.splits, p.sums = sums.values.data(), p.first = first_clip == 0;
    return p;
  }
  /// In chunks of `clips`.
  Pitched<float> run(std::int64_t clips) const {
    Pitched<float> sums = unset();
    for (std::int64_t clip = 0; clip < size.B; clip += clips)
      kernels::temporal_value_sums<Sim>(Stream{}, device(sums, clip, std::min(clips, size.B - clip)));
    return sums;
  }

  /// Of all splits; rows of head and channel of h. P h is rounded, as the kernels' heads say.
  Pitched<double> reference() const {
    Pitched<double> out(size.N * size.C, pitch());
    std::vector<double> mixed(static_cast<std::size_t>(size.C));
    for (std::int64_t pixel = 0; pixel < size.B * size.S; ++pixel)
      for (std::int64_t n = 0; n < size.N; ++n)
        for (std::int64_t q = 0; q < size.T; ++q) {
          for (std::int64_t c = 0; c < size.C; ++c) {
            double sum = 0;
            for (std::int64_t e = 0; e < size.T; ++e)
              sum += prob((pixel * size.N + n) * size.T + q, e) * h(row(pixel, key_at(e, size.T)), c);
            mixed[static_cast<std::size_t>(c)] = static_cast<float>(BFloat16(static_cast<float>(sum)));
          }
          for (std::int64_t c = 0; c < size.C; ++c)
            for (std::int64_t o = 0; o < size.C; ++o)
              out.at(n * size.C + c, o) += mixed[static_cast<std::size_t>(c)] * d_y(row(pixel, q), o);
        }
    return out;
  }
};

Pitched<double> over_splits(const SumsCase& c, const Pitched<float>& sums) {
  Pitched<double> out(c.size.N * c.size.C, c.pitch());
  for (std::int64_t r = 0; r < sums.rows; ++r)
    for (std::int64_t o = 0; o < sums.cols; ++o) out.at(r % out.rows, o) += sums(r, o);
  return out;
}

/// Both kernels, in every order: all clips at once, and clip by clip.
void check(const SumsSize& s, unsigned seed) {
  INFO("B" << s.B << " T" << s.T << " S" << s.S << " C" << s.C << " N" << s.N << " splits " << s.splits);
  const SumsCase c(s, seed);
  const Pitched<double> exact = c.reference();
  for (const int arch : {80, 90}) {
    if (!can_be_arch(arch)) continue;
    CAPTURE(arch);
    const OnArch on(arch);
    for (const std::int64_t clips : {s.B, std::int64_t{1}}) {
      std::vector<Pitched<float>> runs;
      for_each_order([&] {
        runs.push_back(c.run(clips));
        // A P h that lies between two numbers of bf16 may be rounded to the other one.
        CHECK(rel_l2(over_splits(c, runs.back()), exact) < 3e-4);
        CHECK(same_bits(runs.back(), runs.front()));
      });
      if (s.B == 1) break;
    }
  }
}

/// Blocks of the sums' kernel on wgmma and of the one on mma.sync that a whole backward pass launches.
struct SumsBlocks {
  unsigned wgmma = 0, mma = 0;
  bool operator==(const SumsBlocks&) const = default;
};
SumsBlocks blocks_of(const TemporalCase<BFloat16>& c) {
  SumsBlocks found;
  for (const ListedLaunch& launch : launches_of([&] { run_device(c); })) {
    if (launch.kernel.find("temporal_value_sums_wgmma_kernel") == 0) found.wgmma += launch.blocks;
    if (launch.kernel.find("temporal_value_sums_kernel") == 0) found.mma += launch.blocks;
  }
  return found;
}

}  // namespace

TEST_CASE("temporal_attention_value_grad/sums of 8 frames equal loops in f64") {
  // The four kernels, with even and odd numbers of channels, chunks and heads; tiles of 8 pixels.
  check({1, 8, 1, 24, 1, 32, 1}, 10);
  check({3, 8, 5, 30, 2, 32, 2}, 20);  // clips share a tile
  check({1, 8, 8, 32, 3, 24, 1}, 30);
  check({1, 8, 17, 49, 1, 50, 2}, 40);  // the last tile has one pixel
  check({2, 8, 4, 56, 2, 56, 1}, 50);
  check({1, 8, 3, 72, 2, 56, 1}, 60);
  check({2, 8, 9, 90, 3, 50, 2}, 70);
  check({1, 8, 7, 96, 2, 54, 1}, 80);
  check({1, 8, 10, 97, 1, 64, 2}, 90);
  check({2, 8, 3, 104, 3, 60, 1}, 100);
}

TEST_CASE("temporal_attention_value_grad/sums of 16 frames equal loops in f64") {
  check({3, 16, 3, 30, 2, 32, 2}, 110);  // tiles of 4 pixels
  check({1, 16, 4, 53, 3, 50, 1}, 120);
  check({2, 16, 5, 90, 1, 50, 2}, 130);
  check({1, 16, 9, 101, 2, 60, 2}, 140);
}

TEST_CASE("temporal_attention_value_grad/a block walks over many tiles and another one over none") {
  // Buffers of 2 and of 4 tiles, each taken more than twice.
  for (const std::int64_t C : {30, 50, 90, 100}) {
    const std::int64_t D = C == 30 ? 32 : C == 100 ? 64 : 50;
    check({1, 8, 75, C, 1, D, 1}, 200);
    check({1, 16, 37, C, 1, D, 1}, 210);
    check({2, 8, 12, C, 2, D, 5}, 220);
  }
}

TEST_CASE("temporal_attention_value_grad/what is not finite stays in its channels") {
  for (const int arch : {80, 90}) {
    if (!can_be_arch(arch)) continue;
    const OnArch on(arch);
    for (const std::int64_t C : {89, 100}) {
      SumsCase c({1, 8, 11, C, 2, C == 89 ? 50 : 64, 1}, 300);
      const Pitched<double> sound = over_splits(c, c.run(1));
      // In the first pixel, whose addresses stand for those of pixels that do not exist.
      c.h.at(c.row(0, 3), 1) = c.d_y.at(c.row(0, 5), 2) = BFloat16(std::numeric_limits<float>::infinity());
      const Pitched<double> sums = over_splits(c, c.run(1));
      for (std::int64_t r = 0; r < sums.rows; ++r)
        for (std::int64_t o = 0; o < sums.cols; ++o) {
          if (r % C == 1 || o == 2)
            CHECK_FALSE(std::isfinite(sums(r, o)));
          else
            CHECK(sums(r, o) == sound(r, o));
        }
    }
  }
}

TEST_CASE("temporal_attention_value_grad/gradients of the weights equal products of the sums in f64") {
  const SumsCase c({1, 8, 9, 50, 3, 47, 2}, 400);
  const auto [B, T, S, C, N, D, splits] = c.size;
  const Pitched<double> sums = c.reference();
  const auto w_v = fine_rows<BFloat16>(N * D, C, 403), w_o = fine_rows<BFloat16>(C, N * D, 404);
  Pitched<double> d_w_v(N * D, C), d_w_o(C, N * D);
  for (std::int64_t row = 0; row < N * D; ++row)
    for (std::int64_t a = 0; a < C; ++a)
      for (std::int64_t b = 0; b < C; ++b) {
        const double sum = sums(row / D * C + a, b);
        d_w_v.at(row, a) += sum * w_o(b, row);
        d_w_o.at(b, row) += sum * w_v(row, a);
      }
  Pitched<float> parts = c.run(1), total(N * C, c.pitch());
  for (const bool of_v : {true, false})
    for (const bool of_o : {true, false}) {
      auto got_v = poisoned_rows<float>(N * D, C), got_o = poisoned_rows<float>(C, N * D);
      kernels::temporal_value_weight_grads<Sim>(
          Stream{}, c.device(parts, 0, 1), w_v.view(), w_o.view(), total.values.data(),
          of_v ? got_v.view() : kernels::Rows<float>{}, of_o ? got_o.view() : kernels::Rows<float>{});
      if (of_v) CHECK(rel_l2(got_v, d_w_v) < 3e-4);
      if (of_o) CHECK(rel_l2(got_o, d_w_o) < 3e-4);
      if (!of_v) CHECK(is_poisoned(got_v));
      if (!of_o) CHECK(is_poisoned(got_o));
    }
}

TEST_CASE("temporal_attention_value_grad/the kernel on wgmma runs where the device has it and it is allowed") {
  if (!lists_launches()) return;
  const TemporalCase<BFloat16> narrow({1, 8, 4000, 50, 2, 50, 16}, 500), wide({1, 8, 4000, 90, 6, 50, 16}, 501);
  const TemporalCase<BFloat16> few({1, 8, 20, 90, 3, 50, 16, 0, 7}, 502);  // at most 7 blocks: 3 of each pair of heads
  {
    const OnArch arch(90);
    CHECK(blocks_of(narrow) == SumsBlocks{2 * 132, 0});
    CHECK(blocks_of(wide) == SumsBlocks{132, 0});
    CHECK(blocks_of(few) == SumsBlocks{6, 0});
    kernels::allow_wgmma(false);
    CHECK(blocks_of(wide) == SumsBlocks{0, 2 * 132});
    CHECK(blocks_of(few) == SumsBlocks{0, 6});
  }
  const OnArch arch(80);
  CHECK(blocks_of(narrow) == SumsBlocks{0, 2 * 108});
  CHECK(blocks_of(wide) == SumsBlocks{0, 2 * 108});
  CHECK_THROWS_AS(kernels::temporal_value_sums_wgmma<Sim>(Stream{}, {}), kernels::GpuError);
}

}  // namespace avid::test
