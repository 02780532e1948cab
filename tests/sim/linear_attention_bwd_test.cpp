// tests/sim/linear_attention_bwd_test.cpp -- gradients of linear attention in two passes, against the f64 reference
#include "kernels/linear_attention_bwd.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/linear_attention.h"
#include "kernels/sim/traffic.h"
#include "tests/doctest.h"
#include "tests/sim/linear_attention_case.h"

using namespace avid;
using namespace avid::test;
using kernels::Sim, kernels::Stream;

namespace {

const auto run_backward = [](auto& p, auto&& g) { kernels::linear_attention_fused_bwd<Sim>(Stream{}, p, g); };

template <class Elem>
BlockTensors<Elem> run_device(const BlockCase& c, unsigned wanted) {
  return run_block<Elem>(
      c, wanted,
      [](auto& p, bool backward) {
        return backward ? kernels::linear_attention_bwd_plan(p).total_bytes
                        : kernels::linear_attention_workspace_bytes(p, false);
      },
      [](auto& p) { kernels::linear_attention_fwd<Sim>(Stream{}, p); }, run_backward);
}

/// The same with the sums over keys that the forward pass keeps; between the passes, change(first, last) of these.
template <class Elem, class Change, class Backward = decltype(run_backward)>
BlockTensors<Elem> run_with_key_sums(
    const BlockCase& c, unsigned wanted, Change&& change, const Backward& backward = run_backward) {
  Workspace kept;
  return run_block<Elem>(
      c, wanted,
      [](auto& p, bool backward) {
        return backward ? kernels::linear_attention_bwd_plan(p).total_bytes
                        : kernels::linear_attention_workspace_bytes(p, false);
      },
      [&](auto& p) {
        const std::int64_t floats = kernels::linear_attention_key_sums(p);
        REQUIRE(floats == c.B * c.T * c.N * (32 * ((c.C + 7) / 8 * 8) + 32));
        kept.allocate(floats * 4);
        p.key_sums = kept.data<float>();
        kernels::linear_attention_fwd<Sim>(Stream{}, p);
        change(p.key_sums, p.key_sums + floats);
      },
      backward);
}

void check(const BlockCase& c, bool all_orders = false) {
  check_block<BFloat16>(
      c, all_orders, run_device<BFloat16>, run_linear_attention_reference, 8e-3);  // at most 6.5e-3 here
}

/// Relative errors of what is computed of the sums of a frame and head, against f64 from these very sums.
struct MatrixErrors {
  double folded = 0;  ///< the largest of m and r, in halves of a bf16's last place and 2^-16 of the matrix's elements
  double correction = 0, d_w_v = 0, d_w_out = 0;
};

/// Behind a pass backward whose workspace p still has.
MatrixErrors matrix_errors(
    const kernels::AttentionBlockDeviceArgs<BFloat16>& p, const kernels::AttentionBlockDeviceGrads<BFloat16>& grads) {
  using Matrix = std::vector<double>;  // 32 rows
  const kernels::LinearBwdPlan plan = kernels::linear_attention_bwd_plan(p);
  const auto* memory = static_cast<const unsigned char*>(p.workspace);
  const auto* partial = reinterpret_cast<const float*>(memory + plan.partial);
  const auto* folded = reinterpret_cast<const BFloat16*>(memory + plan.folded);
  const auto* softmax = reinterpret_cast<const float*>(memory + plan.softmax);
  const std::int64_t W = plan.width, sums = 64 * W + 64;
  const double scale = 1 / std::sqrt(32.0);
  // [i,n] = sum_k a(i, k) b(k, n)
  const auto product = [](std::int64_t I, std::int64_t K, std::int64_t N, auto&& a, auto&& b) {
    Matrix out(static_cast<std::size_t>(I * N));
    for (std::int64_t i = 0; i < I; ++i)
      for (std::int64_t k = 0; k < K; ++k)
        for (std::int64_t n = 0; n < N; ++n) out[static_cast<std::size_t>(i * N + n)] += a(i, k) * b(k, n);
    return out;
  };
  MatrixErrors errors;
  std::array<double, 3> off{}, norm{};  // of the correction, d_w_v, d_w_out; squares
  for (std::int64_t head = 0; head < p.N; ++head) {
    const auto w_v = [&](std::int64_t j, std::int64_t c) {
      return c < p.C ? static_cast<double>(static_cast<float>(p.w_qkv.row((2 * p.N + head) * 32 + j)[c])) : 0.0;
    };
    const auto w_o = [&](std::int64_t j, std::int64_t c) {
      return c < p.C ? static_cast<double>(static_cast<float>(p.w_out.row(c)[head * 32 + j])) : 0.0;
    };
    Matrix d_w_v(static_cast<std::size_t>(32 * W)), d_w_o(d_w_v.size());
    for (std::int64_t frame = 0; frame < plan.frames; ++frame) {
      Matrix g(static_cast<std::size_t>(32 * W)), d(g.size());
      for (std::int64_t i = 0; i < 32; ++i) {
        const float* slab = partial + (frame * plan.slabs * p.N + head) * sums;
        double total = 0;
        if (p.key_sums == nullptr)
          for (std::int64_t s = 0; s < plan.slabs; ++s)
            total += slab[s * p.N * sums + 64 * W + 32 + i] *
                     std::exp(static_cast<double>(slab[s * p.N * sums + 64 * W + i]) - slab[64 * W + i]);
        for (std::int64_t c = 0; c < W; ++c) {
          const auto at = static_cast<std::size_t>(i * W + c);
          if (p.key_sums != nullptr) g[at] = p.key_sums[(frame * p.N + head) * (32 * W + 32) + i * W + c];
          for (std::int64_t s = 0; s < plan.slabs; ++s) {
            const float* of = slab + s * p.N * sums;
            if (p.key_sums == nullptr)
              g[at] += of[i * W + c] * std::exp(static_cast<double>(of[64 * W + i]) - slab[64 * W + i]) / total;
            d[at] += of[(32 + i) * W + c];
          }
        }
      }
      const auto g_at = [&](std::int64_t i, std::int64_t c) { return g[static_cast<std::size_t>(i * W + c)]; };
      const auto d_at = [&](std::int64_t i, std::int64_t c) { return d[static_cast<std::size_t>(i * W + c)]; };
      const Matrix context =
          product(32, W, 32, g_at, [&](std::int64_t c, std::int64_t j) { return scale * w_v(j, c); });
      const Matrix d_context =
          product(32, W, 32, d_at, [&](std::int64_t c, std::int64_t j) { return scale * w_o(j, c); });
      const auto row = [](const Matrix& m) {
        return [&m](std::int64_t i, std::int64_t j) { return m[static_cast<std::size_t>(i * 32 + j)]; };
      };
      const auto column = [](const Matrix& m) {
        return [&m](std::int64_t j, std::int64_t i) { return m[static_cast<std::size_t>(i * 32 + j)]; };
      };
      const Matrix exact[2] = {product(32, 32, W, row(context), w_o), product(32, 32, W, row(d_context), w_v)};
      const BFloat16* of_frame = folded + (frame * p.N + head) * 64 * W;
      for (int half = 0; half < 2; ++half) {
        double square = 0;
        for (const double v : exact[half]) square += v * v;
        const double usual = std::sqrt(square / static_cast<double>(32 * p.C));
        for (std::size_t e = 0; e < exact[half].size(); ++e) {
          const double v = exact[half][e],
                       got = static_cast<float>(of_frame[static_cast<std::size_t>(half * 32 * W) + e]);
          errors.folded = std::max(
              errors.folded, std::abs(got - v) / (std::ldexp(std::abs(v), -8) + std::ldexp(usual, -16) + 1e-30));
        }
      }
      for (std::int64_t i = 0; i < 32; ++i) {
        double along = 0, size = 0;
        for (std::int64_t c = 0; c < W; ++c) {
          const double v = static_cast<float>(of_frame[(32 + i) * W + c]) * g_at(i, c);
          along += v, size += v * v;
        }
        off[0] += std::pow(softmax[(frame * p.N + head) * 64 + 32 + i] - along, 2), norm[0] += size;
      }
      const auto add = [](Matrix& to, const Matrix& from) {
        for (std::size_t e = 0; e < to.size(); ++e) to[e] += from[e];
      };
      add(d_w_v, product(32, 32, W, column(d_context), g_at));
      add(d_w_o, product(32, 32, W, column(context), d_at));
    }
    for (std::int64_t j = 0; j < 32; ++j)
      for (std::int64_t c = 0; c < p.C; ++c) {
        const auto at = static_cast<std::size_t>(j * W + c);
        off[1] += std::pow(grads.d_w_qkv.row((2 * p.N + head) * 32 + j)[c] - d_w_v[at], 2);
        off[2] += std::pow(grads.d_w_out.row(c)[head * 32 + j] - d_w_o[at], 2);
        norm[1] += d_w_v[at] * d_w_v[at], norm[2] += d_w_o[at] * d_w_o[at];
      }
  }
  errors.correction = std::sqrt(off[0] / norm[0]);
  errors.d_w_v = std::sqrt(off[1] / norm[1]);
  errors.d_w_out = std::sqrt(off[2] / norm[2]);
  return errors;
}

/// Norm of rows first .. first + count - 1.
double norm_of_rows(const Pitched<float>& t, std::int64_t first, std::int64_t count) {
  double sum = 0;
  for (std::int64_t r = first; r < first + count; ++r)
    for (std::int64_t c = 0; c < t.cols; ++c) sum += t(r, c) * t(r, c);
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("linear_attention_bwd/sim/every_order_gives_the_same_bits") {
  check({1, 2, 40, 12, 2, 32, true}, true);
  check({1, 1, 130, 100, 1, 32, true}, true);
}

TEST_CASE("linear_attention_bwd/sim/widths_of_rows") {
  // One below, at and one above what a kernel takes, and rows with gaps.
  for (const std::int64_t C : {1, 3, 8, 55, 56, 57, 90, 96, 97, 104}) check({1, 1, 37, C, 1, 32, true});
}

TEST_CASE("linear_attention_bwd/sim/heads") {
  // Groups of up to four: 3, 4, 3 + 2, 3 + 3, 3 + 3 + 3.
  for (const std::int64_t N : {3, 4, 5, 6, 9}) check({1, 1, 35, 10, N, 32, false});
}

TEST_CASE("linear_attention_bwd/sim/positions") {
  // Around half a tile, a tile and a block of either pass.
  for (const std::int64_t S : {1, 2, 31, 32, 33, 63, 64, 65, 95, 127, 128, 129, 257}) check({1, 2, S, 6, 1, 32, true});
}

TEST_CASE("linear_attention_bwd/sim/wide_rows") {
  // Two warps a head, at least so many positions; widths around those of the kernels.
  const std::int64_t S = kernels::kLinearWidePositions;
  check({1, 1, S + 33, 106, 3, 32, true}, true);  // groups of 2 + 1 heads
  for (const std::int64_t C : {105, 180, 184, 185, 200}) check({1, 1, S, C, 1, 32, true});
  for (const std::int64_t more : {1, 31, 64, 127}) check({1, 2, S + more, 110, 1, 32, false});
  check({1, 1, 2049, 105, 2, 32, true});
}

TEST_CASE("linear_attention_bwd/sim/wide_rows_and_large_logits") {
  // The softmax over q's channels is that of two warps, one of which may have nothing that counts.
  check({1, 1, 600, 106, 2, 32, true, 30.0, BlockRows::signs}, true);
}

TEST_CASE("linear_attention_bwd/sim/several_slabs") {
  check({1, 1, 2048, 4, 1, 32, true});
  check({1, 2, 2049, 9, 1, 32, true});
}

TEST_CASE("linear_attention_bwd/sim/chunks_of_frames") {
  check({8, 8, 2, 5, 1, 32, true});   // one frame each
  check({13, 5, 3, 9, 2, 32, true});  // two, the last has one
}

TEST_CASE("linear_attention_bwd/sim/large_logits") {
  // Beyond 88 the exponential of an f32 is infinite.
  check({1, 1, 70, 10, 2, 32, true, 30.0, BlockRows::signs}, true);
  check({1, 1, 2100, 8, 1, 32, true, 30.0, BlockRows::signs});
}

TEST_CASE("linear_attention_bwd/sim/equal_positions_give_the_keys_no_gradient") {
  // The gradient of a key is the difference of two equal numbers, whatever was rounded to bf16 before.
  for (const BlockCase& c :
       {BlockCase{1, 2, 64, 50, 3, 32, true, 1.0, BlockRows::equal},
        {1, 1, 512, 150, 3, 32, true, 1.0, BlockRows::equal}}) {
    check(c);
    const auto t = run_device<BFloat16>(c, kAllGradients);
    CHECK(norm_of_rows(t.d_w_qkv, 96, 96) < 1e-4 * norm_of_rows(t.d_w_qkv, 192, 96));
  }
}

TEST_CASE("linear_attention_bwd/sim/sums_that_the_forward_pass_kept") {
  const auto run = [](const BlockCase& c, unsigned wanted) {
    return run_with_key_sums<BFloat16>(c, wanted, [](float*, float*) {});
  };
  const auto check_kept = [&](const BlockCase& c, bool all_orders = false) {
    check_block<BFloat16>(c, all_orders, run, run_linear_attention_reference, 8e-3);
  };
  check_kept({1, 2, 40, 12, 2, 32, true}, true);
  check_kept({1, 1, 545, 106, 3, 32, true}, true);
  check_kept({13, 5, 3, 90, 9, 32, true});     // groups of 5 + 4 heads, chunks of frames
  check_kept({1, 1, 1100, 184, 5, 32, true});  // groups of 3 + 2, slabs of the forward pass
  check_kept({1, 1, 2100, 9, 1, 32, true});    // slabs of both
  check_kept({1, 1, 70, 10, 2, 32, true, 30.0, BlockRows::signs});
  const BlockCase equal{1, 2, 64, 50, 3, 32, true, 1.0, BlockRows::equal};
  check_kept(equal);
  const auto t = run(equal, kAllGradients);
  CHECK(norm_of_rows(t.d_w_qkv, 96, 96) < 1e-4 * norm_of_rows(t.d_w_qkv, 192, 96));
}

TEST_CASE("linear_attention_bwd/sim/matrices_of_a_frame_are_as_exact_as_its_sums") {
  // Sums are f32, and tensor cores take two bf16 of each: 2^-17 and less. One bf16 would be off by 2^-9.
  const auto check_matrices = [](const BlockCase& c, bool kept) {
    CAPTURE(c.C);
    CAPTURE(kept);
    const auto backward = [](auto& p, auto&& g) {
      run_backward(p, g);
      const MatrixErrors e = matrix_errors(p, g);
      CHECK(e.folded < 1.0);
      CHECK(e.correction < 1e-5);
      CHECK(e.d_w_v < 1e-5);
      CHECK(e.d_w_out < 1e-5);
    };
    if (kept) {
      run_with_key_sums<BFloat16>(
          c, kAllGradients, [](float*, float*) {}, backward);
    } else {
      run_block<BFloat16>(
          c, kAllGradients, [](auto& p, bool) { return kernels::linear_attention_bwd_plan(p).total_bytes; },
          [](auto&) {}, backward);
    }
  };
  for (const bool kept : {false, true}) {
    for (const std::int64_t C : {5, 16, 50, 90, 100}) check_matrices({1, 2, 37, C, 2, 32, true}, kept);
    for (const std::int64_t C : {180, 200}) check_matrices({1, 1, 512, C, 1, 32, true}, kept);
    check_matrices({13, 5, 3, 9, 2, 32, true}, kept);    // chunks of two frames
    check_matrices({1, 1, 2049, 9, 1, 32, true}, kept);  // slabs
  }
}

TEST_CASE("linear_attention_bwd/sim/sums_that_were_kept_are_not_summed_again") {
  // d_w_v is a multiple of kn^T h: of the zeros that were put there.
  const BlockCase c{1, 2, 40, 12, 8, 32, true};
  const auto t =
      run_with_key_sums<BFloat16>(c, kAllGradients, [](float* first, float* last) { std::fill(first, last, 0.0f); });
  CHECK(norm_of_rows(t.d_w_qkv, 2 * 256, 256) == 0.0);
  CHECK(norm_of_rows(t.d_w_qkv, 256, 256) > 0.0);
  if (!lists_launches()) return;
  // And eight heads fit into one block, not four.
  unsigned blocks[2] = {};
  const auto note = [&](int kept, const std::vector<ListedLaunch>& launches) {
    for (const ListedLaunch& launch : launches)
      if (launch.kernel.find("linear_bwd_sums_kernel") == 0) blocks[kept] += static_cast<unsigned>(launch.blocks);
  };
  note(0, launches_of([&] { run_device<BFloat16>(c, kAllGradients); }));
  note(1, launches_of([&] { run_with_key_sums<BFloat16>(c, kAllGradients, [](float*, float*) {}); }));
  CHECK(blocks[0] == 4);
  CHECK(blocks[1] == 2);
}

TEST_CASE("linear_attention_bwd/sim/sizes_that_keep_no_sums") {
  kernels::AttentionBlockDeviceArgs<BFloat16> p;
  const float bias = 0;
  p.B = 2, p.T = 3, p.S = 256, p.C = 200, p.N = 32, p.D = 32, p.b_out = &bias;
  CHECK(kernels::linear_attention_key_sums(p) == 6 * 32 * (32 * 200 + 32));
  p.S = 255;
  CHECK(kernels::linear_attention_key_sums(p) == 0);  // both passes are composed
  p.C = 104, p.N = 65;
  CHECK(kernels::linear_attention_key_sums(p) == 0);  // backward
  p.N = 64, p.b_out = nullptr;
  CHECK(kernels::linear_attention_key_sums(p) == 0);  // forward
}

TEST_CASE("linear_attention_bwd/sim/gradients_that_nobody_wants_are_skipped") {
  check_block_gradients_alone({1, 2, 35, 6, 2, 32, true}, run_device<BFloat16>);
  // One kernel makes d_x and what d_w_qkv is made of: d_x is no dearer.
  check_block_launches_what_is_wanted({1, 2, 35, 6, 2, 32, true}, run_device<BFloat16>, {16, 8, 1});
  if (lists_launches())  // the bias's gradient is a sum of pass 1
    for (const ListedLaunch& launch : launches_of([] { run_device<BFloat16>({1, 2, 35, 6, 2, 32, true}, 16); }))
      CHECK(launch.kernel.find("linear_bwd_matrices") != 0);
  run_block<BFloat16>(
      {1, 2, 35, 6, 2, 32, true}, 0, [](auto& p, bool) { return kernels::linear_attention_bwd_plan(p).total_bytes; },
      [](auto&) {},
      [](auto& p, auto&& g) {
        if (lists_launches())
          CHECK(launches_of([&] { kernels::linear_attention_fused_bwd<Sim>(Stream{}, p, g); }).empty());
      });
}

TEST_CASE("linear_attention_bwd/sim/only_sizes_that_it_serves") {
  kernels::AttentionBlockDeviceArgs<BFloat16> p;
  p.B = 1, p.T = 1, p.S = 4, p.C = 104, p.N = 64, p.D = 32;
  CHECK(kernels::linear_attention_bwd_is_fused(p));
  CHECK(kernels::linear_attention_workspace_bytes(p, true) == kernels::linear_attention_bwd_plan(p).total_bytes);
  p.S = 256, p.C = 200, p.N = 32;
  CHECK(kernels::linear_attention_bwd_is_fused(p));
  for (const auto [S, C, N, D] :
       {std::array<std::int64_t, 4>{4, 105, 1, 32},
        {4, 104, 65, 32},
        {4, 104, 1, 31},
        {4, 104, 1, 64},
        {255, 105, 1, 32},
        {256, 201, 1, 32},
        {256, 105, 33, 32}}) {
    p.S = S, p.C = C, p.N = N, p.D = D;
    CHECK_FALSE(kernels::linear_attention_bwd_is_fused(p));
    CHECK_THROWS_AS(kernels::linear_attention_fused_bwd<Sim>(Stream{}, p, {}), std::invalid_argument);
  }
  p.D = 32, p.S = 0;
  CHECK_FALSE(kernels::linear_attention_bwd_is_fused(p));
  kernels::AttentionBlockDeviceArgs<float> f32;
  f32.B = 1, f32.T = 1, f32.S = 4, f32.C = 8, f32.N = 1, f32.D = 32;
  CHECK_FALSE(kernels::linear_attention_bwd_is_fused(f32));
}

TEST_CASE("linear_attention_bwd/sim/traffic/no bank is met twice, rows are whole sectors") {
  if (std::string(sim_suite()) != "sim_race") return;  // only kernels with race hooks tell of their accesses
  kernels::simulator::options().profile = true;
  run_device<BFloat16>({1, 1, 128, 104, 4, 32, true}, kAllGradients);
  kernels::simulator::options().profile = false;
  double units[2] = {}, ideal[2] = {};  // of global and of shared memory, 16 bytes a lane
  for (const kernels::simulator::TrafficLine& line : kernels::simulator::take_traffic_lines()) {
    if (line.bytes != 16 || line.kernel.find("linear_bwd_") != 0) continue;
    units[line.shared] += static_cast<double>(line.units);
    ideal[line.shared] += static_cast<double>(line.ideal_units);
  }
  CHECK(ideal[0] > 6 * 128 * 13 / 2);  // x, d_y twice, d_x, h: rows of 13 chunks; and more
  CHECK(units[0] < 1.15 * ideal[0]);   // rows of 13 chunks start in the middle of a sector
  CHECK(ideal[1] > 10000);
  CHECK(units[1] < 1.05 * ideal[1]);
}
